"""Models side by side on equal terms: as many trials each on validation rows, then one look at the test rows."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from recsys.metrics import LESS_IS_BETTER
from recsys.report import SHOWN, plot_comparison, read_run, uncut, write_comparison, write_json
from recsys.search import changed
from recsys.training import train
from recsys.tuning import best_settings, finished, tune

log = logging.getLogger(__name__)
BASELINES = ("popularity", "item_knn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model: its best settings, the watched metric on validation rows, test metrics with 95% intervals, seconds."""

    model: str
    trials: int
    settings: dict[str, Any]
    monitor: str
    valid: float
    test: dict[str, float]
    intervals: dict[str, list[float] | None]
    tune_seconds: float
    train_seconds: float
    score_seconds: float


def enter(name: str, cfg: DictConfig, folder: Path) -> Entry:
    """Tune and train one model in `folder`/<name>."""
    log.info("%s: %d trials", name, cfg.trials)
    study = tune(cfg, folder / name / "tune")
    settings, run = best_settings(study, cfg), folder / name / "run"
    valid = train(changed(cfg, settings), run, lambda *_: None)
    metrics = read_run(run).metrics
    return Entry(
        model=name,
        trials=len(finished(study)),
        settings=settings,
        monitor=metrics["monitor"].removeprefix("valid/"),
        valid=valid,
        test=metrics["test"],
        intervals=metrics["intervals"]["test"],
        tune_seconds=sum(trial.duration.total_seconds() for trial in finished(study) if trial.duration),
        train_seconds=metrics["seconds"]["train"],
        score_seconds=metrics["seconds"]["score"],
    )


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """The best by the watched metric on test rows first."""
    metric = entries[0].monitor
    sign = 1 if metric in LESS_IS_BETTER else -1
    return sorted(entries, key=lambda entry: sign * entry.test[metric])


def verdict(entries: Sequence[Entry]) -> str:
    """Which model is best on the test rows, if any may be called so.

    None may where a simple baseline is missing, or where the 95% interval of the one that leads overlaps with another's
    or is not known.
    """
    names, metric = [entry.model for entry in entries], entries[0].monitor
    if missing := [name for name in BASELINES if name not in names]:
        return f"No model is called best: {' and '.join(missing)}, simple baselines, are not in the comparison."
    first, *others = ranked(entries)
    if close := [other.model for other in others if not _apart(first.intervals, other.intervals, metric)]:
        return (
            f"No model is called best by {metric}: the 95% interval of {first.model} overlaps with {', '.join(close)}."
        )
    return f"{first.model} is best by {metric}: its 95% interval lies apart from all others."


def _apart(ours: Mapping[str, Any], theirs: Mapping[str, Any], metric: str) -> bool:
    """Whether two intervals are known, have a width (one user gives none) and share no value."""
    one, other = ours.get(metric) or [0, 0], theirs.get(metric) or [0, 0]
    if None in (*one, *other) or one[0] == one[1] or other[0] == other[1]:
        return False
    return one[1] < other[0] or other[1] < one[0]


def comparison_table(entries: Sequence[Entry]) -> Table:
    """One row per model, the best first: the watched metric on both parts with its interval, others, seconds."""
    metric = entries[0].monitor
    others = [n for n in entries[0].test if n.partition("[")[0] in SHOWN and n != metric]
    table = Table(title=f"{entries[0].trials} trials each, judged by {metric}", title_justify="left")
    for name in ("model", "valid", "test", "95% interval", *others, "tune, train, score s"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for entry in ranked(entries):
        interval = " to ".join(f"{end:.4f}" for end in entry.intervals.get(metric) or ())
        rest = [f"{entry.test[name]:.4f}" if entry.test.get(name) is not None else "" for name in others]
        seconds = ", ".join(f"{s:.1f}" for s in (entry.tune_seconds, entry.train_seconds, entry.score_seconds))
        table.add_row(entry.model, f"{entry.valid:.4f}", f"{entry.test[metric]:.4f}", interval, *rest, seconds)
    return uncut(table)


def write_files(entries: Sequence[Entry], folder: Path) -> Path:
    """comparison.json, plots/comparison.png and the page of all runs in `folder`, whose path is returned."""
    metric, order = entries[0].monitor, ranked(entries)
    write_json(folder / "comparison.json", {"verdict": verdict(entries), "models": [asdict(entry) for entry in order]})
    values, intervals = [e.test[metric] for e in order], [e.intervals.get(metric) for e in order]
    names = [entry.model for entry in order]
    plot_comparison(names, values, intervals, metric, folder / "plots" / "comparison.png")
    return write_comparison([folder / entry.model / "run" for entry in order], folder / "comparison.html")
