"""Write a checkpoint as a bundle for serving: python scripts/export.py checkpoint=.../best.ckpt compress=default"""

import functools
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

from omegaconf import DictConfig
from rich.console import Console

from export.artifact import Served, facts_of_run, summary, write_artifact
from export.compress import Compression, Trials, choose
from export.quantize import cpu_features
from export.report import loss_on_test, report_variants
from export.rows import RawRows
from export.runtime import read_key
from recsys.classical.fitted import Fitted
from recsys.cli import Refused, launch
from recsys.config import checkpoint_config, reopen, resolve
from recsys.declare import declare
from recsys.training import fine_tune

console = Console(highlight=False, soft_wrap=True)


def export_checkpoint(cfg: DictConfig) -> None:
    """Write the float bundle; with `compress`, that of the best smaller variant instead, where one is good enough."""
    settings = declare(Compression, resolve(cfg.compress), "compress") if "compress" in cfg else None
    key = read_key(cfg.key_file) if cfg.encrypt else None
    run = Path(cfg.checkpoint).parents[1]
    trained = checkpoint_config(cfg.checkpoint)
    trained.trainer = cfg.trainer
    data, model = reopen(cfg.checkpoint, trained)
    if isinstance(model, Fitted):
        raise ValueError(f"there is no bundle of {type(model.model).__name__} yet; export a deep model's checkpoint.")
    raw = RawRows.read(data)
    facts = facts_of_run(data, run)
    served = Served(model=model, encoders=data.store.encoders)
    folder = Path(cfg.output or run / "bundle")
    if settings is None or not (run / "bundle").exists():
        folder = run / "bundle" if settings else folder
        console.print(summary(folder, write_artifact(served, raw, folder, manifest=facts, key=key)))
    if settings is None:
        return
    console.print(f"processor: {', '.join(cpu_features()) or 'unknown'}")
    tune = functools.partial(fine_tune, data=data, cfg=trained, epochs=settings.epochs, lr_share=settings.lr_share)
    with tempfile.TemporaryDirectory(dir=run) as scratch:
        variants = list(Trials(settings=settings, raw=raw, folder=Path(scratch), fine_tune=tune).run(model))
        chosen = choose(variants, settings)
        test = loss_on_test(variants, chosen, raw, settings.rows) if chosen else None
    report_variants(run, variants, chosen, settings, test)
    if chosen is None:
        raise Refused(
            f"no variant is better by {settings.target} and loses at most {settings.budget:g} of the metric; the float "
            "bundle stays. Allow more by compress.budget, or try more by compress.keep and compress.min_count."
        )
    folder = Path(cfg.output or run / "compressed")
    facts |= {"variants": [variant.row() for variant in variants], "test": test}
    content = write_artifact(chosen.served, raw, folder, manifest=facts, key=key)
    console.print(summary(folder, content))


if __name__ == "__main__":
    launch("export", export_checkpoint)
