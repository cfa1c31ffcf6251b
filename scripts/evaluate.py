"""Score a checkpoint again: python scripts/evaluate.py checkpoint=outputs/.../checkpoints/best.ckpt"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

from omegaconf import DictConfig
from rich.console import Console

from recsys.classical.fitted import Fitted
from recsys.cli import launch
from recsys.config import build_trainer, check_paths, checkpoint_config, reopen, resolve
from recsys.data.split import TEST
from recsys.evaluation import best_possible, cut_offs, evaluate
from recsys.report import metrics_table, write_json
from recsys.scoring import evaluate_fitted


def evaluate_checkpoint(cfg: DictConfig) -> None:
    """The metrics of a checkpoint on the data it was trained with, written to `output` where one is given."""
    check_paths(cfg, "checkpoint", "output", "cache")
    trained = checkpoint_config(cfg.checkpoint, cfg)
    trained.trainer = cfg.trainer
    if cfg.batch_size is not None:
        trained.evaluation.batch_size = cfg.batch_size
    data, model = reopen(cfg.checkpoint, trained)
    if isinstance(model, Fitted):
        name, metrics = model.name, evaluate_fitted(model, data, cut_offs(trained.evaluation.k))
    else:
        name = type(model).__name__
        metrics = evaluate(build_trainer(trained, model.schema.label.kind), model, data)
    best, console = best_possible(data, TEST), Console(highlight=False)
    console.print(metrics_table(f"{name} on {data.spec.name}", metrics, best))
    if model.saw_valid:
        console.print("The validation part is left out: the model has learned its rows too (`refit`).")
    if cfg.output:
        Path(cfg.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(cfg.output), {**metrics, "best_possible": best, "config": resolve(trained)})


if __name__ == "__main__":
    launch("evaluate", evaluate_checkpoint)
