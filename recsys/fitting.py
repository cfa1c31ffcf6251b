"""One run of a model that is fitted in one go: the folder, the files and the figures of any other run."""

import dataclasses
import json
import time
from pathlib import Path

from omegaconf import DictConfig

from recsys.callbacks import CONFIG_KEY, DATA_KEY, ENCODERS_KEY
from recsys.checkpoints import WholeCheckpoints
from recsys.classical.fitted import Fitted
from recsys.config import build_classical, build_data, build_monitor, carried
from recsys.data.module import DataModule
from recsys.data.split import TEST, VALID
from recsys.evaluation import cut_offs, part_metrics
from recsys.models.base import CLASS_KEY
from recsys.report import cleaning_table
from recsys.run_files import Finish, begin_run, data_line, finish_run, once_trained, report_results, show, tuned_note
from recsys.scoring import Judged, judge


def fit_run(cfg: DictConfig, folder: Path, finish: Finish) -> float:
    """One run in `folder`; returns the value of the watched validation metric.

    The model is fitted on the training part and judged on the validation part. With `refit` it is then fitted again on
    both, nothing else changed. The test part is looked at once, at the end.
    """
    started = time.perf_counter()
    data = build_data(cfg)
    data.prepare_data()
    data.setup()
    data.check_evaluation()
    data.check_leaks()
    begin_run(cfg, folder, data)
    show(cleaning_table(data.store.cleaning), data_line(data))
    fitted, valid, seconds = fit(cfg, data)
    if cfg.refit:
        again = time.perf_counter()
        fitted = fitted.refitted(data.store)
        seconds = time.perf_counter() - again
    name = fitted.name
    show(f"model   {name}: {fitted.numbers:,} numbers learned in {seconds:.1f} s{tuned_note()}")
    save(folder / "checkpoints" / "best.ckpt", fitted, cfg, data)
    monitor, _ = build_monitor(cfg, data.schema.label.kind)
    origin = {"model": name, "seed": cfg.seed, "monitor": monitor, "refit": cfg.refit, "data": data.state}
    with once_trained(folder):
        test = judge(fitted, data, TEST, cut_offs(cfg.evaluation.k), fitted.threshold)
        origin["seconds"] = {"train": seconds, "score": test.seconds}
        report_results(folder, part_metrics(valid.results, test.results), fitted, data, test.rows, origin)
        finish_run(folder, fitted, data, finish, started)
    return valid.results.metrics[monitor.removeprefix("valid/")]


def fit(cfg: DictConfig, data: DataModule) -> tuple[Fitted, Judged, float]:
    """The model fitted on the training part, what it does on the validation part, and the seconds that fitting took.

    The validation part also gives the threshold of F1 and, for labels of 0 and 1, the probabilities.
    """
    started = time.perf_counter()
    fitted = Fitted.fit(build_classical(cfg), data.store)
    seconds = time.perf_counter() - started
    fitted = fitted.calibrated(data.store)
    valid = judge(fitted, data, VALID, cut_offs(cfg.evaluation.k))
    return dataclasses.replace(fitted, threshold=valid.threshold), valid, seconds


def save(path: Path, fitted: Fitted, cfg: DictConfig, data: DataModule) -> None:
    """Write the model file, with all that a deep model's checkpoint carries. Raises OSError naming the file."""
    model = type(fitted.model)
    content = {
        CLASS_KEY: f"{model.__module__}.{model.__qualname__}",
        CONFIG_KEY: carried(cfg),
        ENCODERS_KEY: json.dumps(data.store.encoders.to_dict()),
        DATA_KEY: data.state,
        **fitted.state(),
    }
    WholeCheckpoints().save_checkpoint(content, path)
