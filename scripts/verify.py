"""Prove a bundle again: python scripts/verify.py bundle=outputs/.../bundle rows=labelled.parquet"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from pyarrow import ArrowInvalid
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.artifact import CHECKED_ROWS, FLOAT, model_scores
from export.rows import RawRows, plain
from export.runtime import TOLERANCE, Bundle, read_key
from export.verify import Check, check_files, check_parity, check_quality
from recsys.cli import launch
from recsys.config import check_paths, checkpoint_config, reopen
from recsys.data.split import TEST
from recsys.schema import HISTORY

SIGNS = {True: "[green]proved[/]", False: "[bold red]FAILED[/]", None: "measured"}


def verify(cfg: DictConfig) -> None:
    """Check what can be checked with what is given, print a table, and fail (exit code 1) where anything differs."""
    check_paths(cfg, "bundle", "checkpoint", "rows", "key_file", "cache")
    files, bundle = check_files(Path(cfg.bundle), read_key(cfg.key_file) if cfg.key_file else None)
    checks = [files]
    if bundle is not None and cfg.checkpoint:
        variant = bundle.manifest.get("variant", "")
        if variant != FLOAT:
            raise ValueError(
                f"`checkpoint`: the bundle holds the variant {variant!r}, which scores otherwise; give rows=..."
            )
        tolerance = bundle.manifest.get("tolerance", TOLERANCE)
        checks.append(check_parity(bundle, *scored_rows(bundle, cfg.checkpoint, cfg), tolerance))
    if bundle is not None and cfg.rows:
        checks += check_quality(bundle, labelled_table(cfg.rows))
    Console(highlight=False).print(checks_table(f"Verification of {cfg.bundle}", checks))
    if not (cfg.checkpoint or cfg.rows):
        print("Only a checkpoint=... or labelled rows=... can tell a model that was changed on purpose.")
    if failed := [check.name for check in checks if check.passed is False]:
        raise ValueError(f"{cfg.bundle} failed: {', '.join(failed)}; do not serve it, export it again.")


def scored_rows(bundle: Bundle, checkpoint: str, moved: DictConfig) -> tuple[dict[str, list], np.ndarray]:
    """Raw test rows of a checkpoint's data by input name, and the model's own scores (B,) of them."""
    data, model = reopen(checkpoint, checkpoint_config(checkpoint, moved))
    schema = model.schema
    known = {
        schema.user,
        schema.item,
        *(c.name for c in schema.columns),
        *([schema.time.column] if schema.time else []),
    }
    if unknown := {name.removeprefix(HISTORY) for name in bundle.graphs["recommender"].columns} - known:
        raise ValueError(
            f"{checkpoint} is not what the bundle was made from: it knows no {', '.join(sorted(unknown))}."
        )
    raw = RawRows.read(data)
    row_B = np.flatnonzero(raw.store.part_E == TEST)[:CHECKED_ROWS]
    rows = plain(raw.feed(bundle.graphs["recommender"].session, row_B))
    return rows, model_scores(model, raw, row_B, raw.store.item_E[row_B])


def labelled_table(path: str) -> pd.DataFrame:
    """A table of labelled raw rows. Raises ValueError where there is no file or it is no Parquet table."""
    try:
        return pd.read_parquet(path, dtype_backend="pyarrow")
    except FileNotFoundError:
        raise ValueError(
            f"`rows`: there is no file {path!r}; give a Parquet table, such as the test_rows.parquet beside a bundle."
        ) from None
    except ArrowInvalid as error:
        raise ValueError(f"`rows`: {path} is no Parquet table, or is damaged ({error}).") from error


def checks_table(title: str, checks: list[Check]) -> Table:
    """One row per check."""
    table = Table(title=title, title_justify="left")
    for name in ("check", "result", "what was seen"):
        table.add_column(name)
    for check in checks:
        table.add_row(check.name, SIGNS[check.passed], escape(check.detail))
    return table


if __name__ == "__main__":
    launch("verify", verify)
