"""Prove a bundle again: python scripts/verify.py bundle=outputs/.../bundle rows=labelled.parquet"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.runtime import read_key
from export.verify import Check, check_files, check_parity, check_quality
from recsys.cli import launch

SIGNS = {True: "[green]proved[/]", False: "[bold red]FAILED[/]", None: "measured"}


def verify(cfg: DictConfig) -> None:
    """Check what can be checked with what is given, print a table, and fail (exit code 1) where anything differs."""
    files, bundle = check_files(Path(cfg.bundle), read_key(cfg.key_file) if cfg.key_file else None)
    checks = [files]
    if bundle is not None and cfg.checkpoint:
        checks.append(check_parity(bundle, *scored_rows(cfg.checkpoint)))
    if bundle is not None and cfg.rows:
        checks += check_quality(bundle, pd.read_parquet(cfg.rows))
    Console(highlight=False).print(checks_table(f"Verification of {cfg.bundle}", checks))
    if not (cfg.checkpoint or cfg.rows):
        print("Only a checkpoint=... or labelled rows=... can tell a model that was changed on purpose.")
    if failed := [check.name for check in checks if check.passed is False]:
        raise ValueError(f"{cfg.bundle} failed: {', '.join(failed)}; do not serve it, export it again.")


def scored_rows(checkpoint: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Raw test rows of a checkpoint's data by input name, and the model's own scores (B,) of them."""
    raise ValueError(f"`checkpoint`: raw rows of {checkpoint} cannot be read yet; leave it out and give rows=...")


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
