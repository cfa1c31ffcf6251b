"""One training run in its folder, from the configuration to the report; and the same run over several seeds."""

import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from recsys.checkpoints import BEST, REFIT, Interrupted
from recsys.cli import go_on_in
from recsys.config import build_data, build_model, build_trainer, is_classical
from recsys.data.module import DataModule
from recsys.evaluation import evaluation_of, part_metrics, test, validate
from recsys.files import whole_file
from recsys.fitting import fit_run
from recsys.memory import check_tables_fit
from recsys.models.base import Recommender, load_model, read_checkpoint
from recsys.report import (
    cleaning_table,
    plot_curves,
    read_curves,
    seeds_table,
    write_comparison,
    write_json,
    write_page,
)
from recsys.resume import Resumption, check_resumable, find_refit, find_resumption
from recsys.run_files import Finish, begin_run, data_line, finish_run, once_trained, report_results, show, tuned_note
from recsys.sharding import check_precision

log = logging.getLogger(__name__)


def train(cfg: DictConfig, folder: Path, finish: Finish) -> float:
    """One run in `folder`, or in that of the run it resumes; returns the best value of the watched metric.

    The model of the best epoch is tested, or, with `cfg.refit`, one that is then trained on the validation rows too.
    `finish(model, data, folder)` is called with it once its metrics are written; report.html comes last.
    """
    if is_classical(cfg):
        return fit_run(cfg, folder, finish)
    started = time.perf_counter()
    data, resumed = build_data(cfg), find_resumption(cfg, folder)
    if resumed:
        folder, data.start = go_on_in(resumed.folder), resumed.start
    trainer = build_trainer(cfg, data.spec.schema.label.kind, folder, resumed.steps if resumed else 0)
    data.prepare_data()
    data.setup()
    data.check_evaluation()
    model = new_model(cfg, data, trainer)
    if resumed:
        check_resumable(resumed, model, data)
    if trainer.is_global_zero:
        data.check_leaks()
        begin_run(cfg, folder, data)
        if resumed:
            log.info("resuming %s in epoch %d after %d batches", folder, *resumed.start)
        else:
            (folder / "checkpoints" / REFIT).unlink(missing_ok=True)  # that of an earlier run in this folder
        show(cleaning_table(data.store.cleaning), summary(data, model, trainer))
        log.info("first step after %.1f s", time.perf_counter() - started)
    checkpoint: Any = trainer.checkpoint_callback
    try:
        fitted = _fit(trainer, model, data, resumed)
        folder = trainer.strategy.broadcast(folder)
        if not trainer.is_global_zero:
            go_on_in(folder)  # each of torchrun's processes names a folder by its own clock
        if not checkpoint.best_model_path:
            raise ValueError("training ended before the first validation; give `trainer.max_epochs` at least 1.")
        with once_trained(folder):
            model = load_model(checkpoint.best_model_path)
            valid = validate(trainer, model, data)
        if cfg.refit:
            again = find_refit(folder) if resumed else None
            model, fitted = refit(
                cfg, folder, checkpoint.best_model_path, evaluation_of(trainer).threshold, data, again
            )
    except Interrupted as signal:
        if trainer.is_global_zero:
            _report_interrupted(cfg, folder, signal, model, data, trainer)
        raise
    with once_trained(folder):
        metrics = part_metrics(valid, test(trainer, model, data))
        if trainer.is_global_zero:
            _report(cfg, folder, metrics, model, data, trainer, fitted)
            finish_run(folder, model, data, finish, started)
    return float(checkpoint.best_model_score)


def refit(
    cfg: DictConfig, folder: Path, selected: str, threshold: float, data: DataModule, resumed: Resumption | None
) -> tuple[Recommender, float]:
    """A model trained anew on the training and the validation rows, from the same first weights; and the seconds.

    It trains for as many epochs as lie behind the best one, whose checkpoint is `selected`, with the learning rates of
    these. Nothing is left to judge it by before the test: the length, and the `threshold`, are the first training's.
    """
    epochs = read_checkpoint(selected)["epoch"] + 1
    data = data.with_valid()
    if resumed:
        data.start = resumed.start
    trainer = build_trainer(cfg, data.schema.label.kind, folder, resumed.steps if resumed else 0, epochs)
    model = new_model(cfg, data, trainer)
    model.threshold = threshold
    if trainer.is_global_zero:
        log.info("refit: %d epoch(s) on %s training and validation rows", epochs, f"{len(data.train_rows):,}")
    seconds = _fit(trainer, model, data, resumed)
    return load_model(folder / "checkpoints" / BEST), seconds


def new_model(cfg: DictConfig, data: DataModule, trainer: pl.Trainer) -> Recommender:
    """The model of `cfg` with its first weights, by the seed. Raises ValueError where it does not fit the trainer."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    with torch.device("meta"):  # shapes alone, so that tables that do not fit are never allocated
        shapes = build_model(cfg, data.schema)
    check_tables_fit(shapes, trainer)
    model = build_model(cfg, data.schema)
    check_precision(model, trainer)
    if cfg.compile:
        model.compile_layers(graphs=trainer.accumulate_grad_batches == 1)
    if cfg.pretrained:
        model.start_from([load_model(path) for path in cfg.pretrained])
    return model


def _fit(trainer: pl.Trainer, model: Recommender, data: DataModule, resumed: Resumption | None) -> float:
    """Train, from where a run was cut; returns the seconds. What the optimizer remembers is let go."""
    started = time.perf_counter()
    trainer.fit(model, datamodule=data, ckpt_path=resumed.checkpoint if resumed else None, weights_only=True)
    trainer.strategy.optimizers, trainer.strategy.lr_scheduler_configs = [], []
    return time.perf_counter() - started


def train_seeds(cfg: DictConfig, folder: Path, finish: Finish) -> float:
    """`cfg.seeds` runs, from `cfg.seed` on, each in a folder of its own; metrics.json holds means and deviations."""
    with whole_file(folder / "config.yaml") as draft:
        draft.write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    folders = [folder / f"seed_{seed}" for seed in seeds]
    best: list[float] = []
    for seed, own in zip(seeds, folders, strict=True):
        log.info("seed %d (%d of %d)", seed, len(best) + 1, cfg.seeds)
        best.append(train(OmegaConf.merge(cfg, {"seed": seed, "seeds": 1}), own, finish))  # type: ignore[arg-type]
    runs = [json.loads((own / "metrics.json").read_text(encoding="utf-8")) for own in folders]
    mean, std = (_over_runs(runs, of) for of in (statistics.mean, statistics.stdev))
    write_json(folder / "metrics.json", {"seeds": list(seeds), "mean": mean, "std": std})
    page = write_comparison(folders, folder / "report.html")
    show(seeds_table(f"{cfg.data.name}, {len(seeds)} seeds", mean, std), f"report: {page}")
    return statistics.mean(best)


def _over_runs(runs: list[dict[str, Any]], of: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    """A statistic of every metric that all runs have."""
    found: dict[str, dict[str, float]] = {}
    for part in ("valid", "test"):
        values = {name: [run[part].get(name) for run in runs] for name in runs[0][part]}
        found[part] = {name: of(v) for name, v in values.items() if None not in v}
    return found


def summary(data: DataModule, model: Recommender, trainer: pl.Trainer) -> str:
    """Data, model and device, before the first step."""
    weights = sum(p.numel() for p in model.parameters())
    device = trainer.strategy.root_device
    objective = type(model.objective).__name__
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return "\n".join(
        (
            data_line(data),
            f"model   {type(model).__name__}: {weights:,} weights, {data.schema.rows:,} table rows; "
            f"objective {objective}{tuned_note()}",
            f"device  {device.type} ({name}), {trainer.world_size} process(es), precision {trainer.precision}",
        )
    )


def _report(
    cfg: DictConfig,
    folder: Path,
    metrics: dict[str, Any],
    model: Recommender,
    data: DataModule,
    trainer: pl.Trainer,
    fitted: float,
) -> None:
    """The table on the terminal, the plots, evaluation.json and metrics.json; training took `fitted` seconds."""
    origin = _origin(cfg, model, data, trainer)
    plot_curves(read_curves(folder / "log" / "metrics.csv"), origin["monitor"], folder / "plots" / "curves.png")
    evaluation = evaluation_of(trainer)
    origin["seconds"] = {"train": fitted, "score": evaluation.seconds["test"]}
    report_results(folder, metrics, model, data, evaluation.rows.get("test"), origin)


def _report_interrupted(
    cfg: DictConfig, folder: Path, signal: Interrupted, model: Recommender, data: DataModule, trainer: pl.Trainer
) -> None:
    """What there is: the last validation and the learning curves; the test part is left for the end of the run."""
    checkpoint: Any = trainer.checkpoint_callback
    best, origin = checkpoint.best_model_score, _origin(cfg, model, data, trainer)
    curves = read_curves(folder / "log" / "metrics.csv")
    valid = {name.removeprefix("valid/"): points[-1][1] for name, points in curves.items() if name.startswith("valid/")}
    content = {"valid": valid, "best": best if best is None else float(best), **origin}
    write_json(folder / "metrics.json", content | {"interrupted": signal.number.name})
    plot_curves(curves, origin["monitor"], folder / "plots" / "curves.png")
    write_page(folder)


def _origin(cfg: DictConfig, model: Recommender, data: DataModule, trainer: pl.Trainer) -> dict[str, Any]:
    """What metrics.json says of every run, finished or not: what was trained, on what, and the watched metric."""
    checkpoint: Any = trainer.checkpoint_callback
    return {
        "model": type(model).__name__,
        "seed": cfg.seed,
        "epochs": trainer.current_epoch,
        "monitor": checkpoint.monitor,
        "refit": cfg.refit,
        "data": data.state,
    }
