"""Train, evaluate and export a recommender: python scripts/train.py model=deepfm data=shop"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

import logging
import shutil
import time
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from export.graph import export_graph
from recsys.checkpoints import Interrupted
from recsys.cli import go_on_in, launch, run_folder
from recsys.config import build_data, build_model, build_trainer, check
from recsys.data.module import DataModule
from recsys.data.split import TEST
from recsys.evaluation import Evaluation, best_possible, evaluate
from recsys.files import whole_file
from recsys.models.base import Recommender, load_model
from recsys.report import (
    cleaning_table,
    evaluation_summary,
    metrics_table,
    plot_curves,
    plot_roc,
    read_curves,
    write_json,
    write_page,
)
from recsys.resume import check_resumable, find_resumption

log = logging.getLogger("train")


def train(cfg: DictConfig) -> float | None:
    """One run in its own folder; returns the best value of the watched validation metric."""
    check(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    started, folder, console = time.perf_counter(), run_folder(), Console(highlight=False)
    data = build_data(cfg)
    resumed = find_resumption(cfg, folder)
    if resumed:
        folder, data.start = go_on_in(resumed.folder), resumed.start
    trainer = build_trainer(cfg, data.spec.schema.label.kind, folder, resumed.steps if resumed else 0)
    data.prepare_data()
    data.setup()
    model = build_model(cfg, data.schema)
    if resumed:
        check_resumable(resumed, model, data)
        log.info("resuming %s in epoch %d after %d batches", folder, *resumed.start)
    elif cfg.pretrained:
        model.start_from([load_model(path) for path in cfg.pretrained])
    if trainer.is_global_zero:
        data.check_leaks()
        with whole_file(folder / "config.yaml") as draft:
            draft.write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
        with whole_file(folder / "encoders.json") as draft:
            shutil.copyfile(data.folder / "encoders.json", draft)
        console.print(cleaning_table(data.store.cleaning))
        console.print(summary(data, model, trainer))
        log.info("first step after %.1f s", time.perf_counter() - started)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=resumed and resumed.checkpoint, weights_only=True)
    except Interrupted as signal:
        if trainer.is_global_zero:
            report_interrupted(cfg, folder, signal, trainer)
        raise

    checkpoint: Any = trainer.checkpoint_callback
    if not checkpoint.best_model_path:
        raise ValueError("training ended before the first validation; give `trainer.max_epochs` at least 1.")
    curves = read_curves(folder / "log" / "metrics.csv")
    model = load_model(checkpoint.best_model_path)
    metrics = evaluate(trainer, model, data)
    if trainer.is_global_zero:
        report(cfg, folder, metrics, curves, data, trainer, console)
        if cfg.export:
            difference = export_graph(model, folder / "model.onnx")
            size = (folder / "model.onnx").stat().st_size / 2**20
            console.print(f"model.onnx: {size:.1f} MiB, within {difference:.1e} of the model's scores")
        console.print(f"run folder: {folder}   ({time.perf_counter() - started:.0f} s)", soft_wrap=True)
    return float(checkpoint.best_model_score)


def summary(data: DataModule, model: Recommender, trainer: pl.Trainer) -> str:
    """Data, model and device, before the first step."""
    store, schema = data.store, data.schema
    parts = [int((store.part_E == part).sum()) for part in range(3)]
    weights = sum(p.numel() for p in model.parameters())
    device = trainer.strategy.root_device
    tuned = HydraConfig.get().runtime.choices.get("tuned")
    objective = type(model.objective).__name__
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return "\n".join(
        (
            f"data    {data.spec.name}: {store.users:,} users, {store.items:,} items; events {parts[0]:,} train, "
            f"{parts[1]:,} valid, {parts[2]:,} test; mean label {schema.label_mean:.3f}",
            f"model   {type(model).__name__}: {weights:,} weights, {schema.rows:,} table rows; objective {objective}"
            + (f"; settings of configs/tuned/{tuned}.yaml" if tuned else ""),
            f"device  {device.type} ({name}), {trainer.world_size} process(es), precision {trainer.precision}",
        )
    )


def report(
    cfg: DictConfig,
    folder: Path,
    metrics: dict[str, dict[str, float]],
    curves: dict[str, list[tuple[int, float]]],
    data: DataModule,
    trainer: pl.Trainer,
    console: Console,
) -> None:
    """metrics.json, the plots, the table on the terminal, evaluation.json and the page."""
    best = best_possible(data, TEST)
    content = {
        **metrics,
        "best_possible": best,
        "seed": cfg.seed,
        "epochs": trainer.current_epoch,
        "data": {"name": data.spec.name, "fingerprint": data.spec.fingerprint},
        "cleaning": data.store.cleaning,
    }
    write_json(folder / "metrics.json", content)
    checkpoint: Any = trainer.checkpoint_callback
    plot_curves(curves, checkpoint.monitor, folder / "plots" / "curves.png")
    evaluation = next(c for c in trainer.callbacks if isinstance(c, Evaluation))
    if "test" in evaluation.rows and data.schema.label.kind != "rating":
        plot_roc(*evaluation.rows["test"], f"{data.spec.name}: test rows", folder / "plots" / "roc.png")
    console.print(metrics_table(f"{type(trainer.lightning_module).__name__} on {data.spec.name}", metrics, best))
    rows, model = evaluation.rows.get("test"), trainer.lightning_module
    write_json(folder / "evaluation.json", evaluation_summary(model, data.store, rows, checkpoint.monitor))
    console.print(f"report: {write_page(folder)}", soft_wrap=True)


def report_interrupted(cfg: DictConfig, folder: Path, signal: Interrupted, trainer: pl.Trainer) -> None:
    """metrics.json with the last validation, and the learning curves; the test part is left for the end of the run."""
    curves = read_curves(folder / "log" / "metrics.csv")
    valid = {name.removeprefix("valid/"): points[-1][1] for name, points in curves.items() if name.startswith("valid/")}
    content = {"valid": valid, "seed": cfg.seed, "epochs": trainer.current_epoch, "interrupted": signal.number.name}
    write_json(folder / "metrics.json", content)
    checkpoint: Any = trainer.checkpoint_callback
    plot_curves(curves, checkpoint.monitor, folder / "plots" / "curves.png")


if __name__ == "__main__":
    launch("train", train)
