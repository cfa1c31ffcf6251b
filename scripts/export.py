"""Write a checkpoint as a bundle for serving: python scripts/export.py checkpoint=.../best.ckpt compress=default"""

import functools
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

from omegaconf import DictConfig
from rich.console import Console

from export.artifact import Served, facts_of_run, summary, write_artifact
from export.bundle import check_place, is_plain
from export.compress import Compression, Trials, choose
from export.distill import distill
from export.quantize import cpu_features
from export.report import loss_on_test, report_variants
from export.rows import RawRows
from export.runtime import KEY_VARIABLE, read_key
from recsys.cli import Refused, launch
from recsys.config import check_paths, checkpoint_config, is_classical, reopen, resolve
from recsys.data.module import DataModule
from recsys.declare import declare
from recsys.models.base import Recommender

log = logging.getLogger("export")
console = Console(highlight=False, soft_wrap=True)


def export_checkpoint(cfg: DictConfig) -> None:
    """Write the float bundle; with `compress`, that of the best smaller variant instead, where one is good enough."""
    check_paths(cfg, "checkpoint", "output", "key_file", "cache")
    settings = declare(Compression, resolve(cfg.compress), "compress") if "compress" in cfg else None
    key = key_of(cfg)
    trained = checkpoint_config(cfg.checkpoint, cfg)
    if settings and is_classical(trained):
        raise ValueError(
            f"`compress`: {cfg.checkpoint} holds a model without layers or embedding tables to compress; leave it out."
        )
    run = run_of(Path(cfg.checkpoint))
    folder = Path(cfg.output or run / ("compressed" if settings else "bundle"))
    check_place(folder)
    trained.trainer = cfg.trainer
    data, model = reopen(cfg.checkpoint, trained)
    raw = RawRows.read(data)
    facts = facts_of_run(data, model, run)
    served = Served(model=model, encoders=data.store.encoders)
    whole = run / "bundle" if settings else folder
    try:
        if settings is None or not whole.exists() or (key and is_plain(whole)):
            console.print(summary(whole, write_artifact(served, raw, whole, manifest=facts, key=key)))
        if settings and isinstance(model, Recommender):
            served, tried = smaller(model, data, raw, trained, settings, run)
            console.print(summary(folder, write_artifact(served, raw, folder, manifest=facts | tried, key=key)))
    finally:
        if key is not None:
            name_plain(run)


def smaller(
    model: Recommender, data: DataModule, raw: RawRows, trained: DictConfig, settings: Compression, run: Path
) -> tuple[Served, dict[str, Any]]:
    """The best smaller variant, and what its manifest says of the trials. Raises Refused where none is good enough."""
    console.print(f"processor: {', '.join(cpu_features()) or 'unknown'}")
    taught = {name: getattr(settings, name) for name in ("epochs", "lr_share", "freeze_tables")}
    learn = functools.partial(distill, data=data, cfg=trained, **taught)
    with tempfile.TemporaryDirectory(dir=run) as scratch:
        variants = list(Trials(settings=settings, raw=raw, folder=Path(scratch), distill=learn).run(model))
        chosen = choose(variants, settings)
        test = loss_on_test(variants, chosen, raw, settings.rows) if chosen else None
    report_variants(run, variants, chosen, settings, test)
    if chosen is None:
        raise Refused(
            f"no variant is better by {settings.target} and loses at most {settings.budget:g} of the metric; the float "
            "bundle stays. Allow more by compress.budget, or try more by compress.keep, compress.dims and "
            "compress.min_count."
        )
    return chosen.served, {"variants": [variant.row() for variant in variants], "test": test}


def name_plain(run: Path) -> None:
    """Warn of what an encrypted export left in plain in the run's folder; it deletes nothing that it does not write."""
    bundles = [run / name for name in ("bundle", "bundle.tar.gz", "compressed", "compressed.tar.gz")]
    left = [path for path in bundles if path.exists() and is_plain(path)]
    left += [path for path in [run / "test_rows.parquet"] if path.exists()]
    if left:
        log.warning(
            "not encrypted, of an earlier export; delete what nobody should read: %s", ", ".join(map(str, left))
        )


def key_of(cfg: DictConfig) -> bytes | None:
    """The key of a bundle that is to be encrypted. Raises ValueError where there is none, or one without use."""
    if not cfg.encrypt:
        if cfg.key_file:
            raise ValueError("`key_file` is given, but `encrypt` is false; add encrypt=true, or leave `key_file` out.")
        return None
    key = read_key(cfg.key_file)
    if key is None:
        raise ValueError(
            f"`encrypt` needs a key of 32 bytes as base64 or hex: set {KEY_VARIABLE} or give key_file=...; "
            "`openssl rand -base64 32` makes one."
        )
    return key


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint lies in; the checkpoint's own where it lies outside of one."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


if __name__ == "__main__":
    launch("export", export_checkpoint)
