"""The files of a run's folder that its report is made from: what is written there, and all of it read back."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from recsys.data.split import TEST, TRAIN
from recsys.data.store import Store
from recsys.data.tables import SPLITS
from recsys.files import whole_file
from recsys.report.recommendations import Ranks, recommendations
from recsys.report.summaries import summarise

Curves = dict[str, list[tuple[int, float]]]


def write_json(path: Path, content: Any) -> None:
    """Write JSON; NaN becomes null. Raises OSError naming the file."""
    with whole_file(path) as draft:
        draft.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def evaluation_summary(model: Ranks, store: Store, rows: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    """The content of evaluation.json: the size of the data, summaries of the test rows, recommendations to look at.

    Args:
        model: in evaluation mode.
        rows: scores and labels of the test rows in the store's order, (B,) each; None for implicit data.
    """
    parts = {name: int((store.part_E == part).sum()) for part, name in enumerate(SPLITS)}
    content: dict[str, Any] = {"size": {"users": store.users, "items": store.items, **parts}}
    if rows is not None:
        score_B, label_B = (x_B.numpy() for x_B in rows)
        events_B = [_train_events(store, *side) for side in ((store.user_E, store.users), (store.item_E, store.items))]
        content |= summarise(score_B, label_B, *events_B, rating=store.schema.label.kind == "rating")
    return content | {"recommendations": recommendations(model, store)}


def _train_events(store: Store, position_E: np.ndarray, count: int) -> np.ndarray:
    """How many training events the user (or item) of every test row has."""
    events = np.bincount(position_E[store.part_E == TRAIN], minlength=count)
    return events[position_E[store.part_E == TEST]]


def read_curves(log: Path) -> Curves:
    """Per logged metric, (epoch, value) pairs of Lightning's CSV log, without the validation after training."""
    curves: Curves = {}
    if not log.exists():
        return curves
    with log.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name.startswith(("train/", "valid/")):
                    curves.setdefault(name, []).append((int(row["epoch"]), float(value)))
    last = max((epoch for epoch, _ in curves.get("train/loss", [])), default=math.inf)
    return {name: [point for point in points if point[0] <= last] for name, points in curves.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as its folder tells it; whatever the folder lacks is empty."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    evaluation: dict[str, Any]
    variants: dict[str, Any]
    curves: Curves
    finished: datetime

    @property
    def model(self) -> str:
        """The model's name."""
        target = (self.config.get("model") or {}).get("_target_", "")
        return str(self.metrics.get("model") or target.rpartition(".")[2] or "model")

    @property
    def data(self) -> str:
        """The dataset's name."""
        return str((self.metrics.get("data") or {}).get("name") or "data")

    @property
    def fingerprint(self) -> str | None:
        """A hash of the data's content, where it is known."""
        return (self.metrics.get("data") or {}).get("fingerprint")

    @property
    def monitor(self) -> str | None:
        """The logged name of the watched validation metric."""
        logged = (name for name in self.curves if name.startswith("valid/"))
        return self.metrics.get("monitor") or next(logged, None)

    @property
    def interrupted(self) -> str | None:
        """The name of the signal that ended the training, where one did."""
        return self.metrics.get("interrupted")

    @property
    def best(self) -> float | None:
        """The watched validation metric of the weights that were kept."""
        if self.interrupted:
            return self.metrics.get("best")
        name = (self.monitor or "").removeprefix("valid/")
        return (self.metrics.get("valid") or {}).get(name)

    def interval(self, metric: str) -> list[float] | None:
        """The 95% interval of a test metric, [low, high], where it is known."""
        intervals = (self.metrics.get("intervals") or {}).get("test") or {}
        return intervals.get(metric)


def read_run(folder: Path) -> Run:
    """Everything of a run but its weights.

    Raises FileNotFoundError when there is no such folder, ValueError when it is no run, an unfinished one, or
    when one of its files does not parse.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no run folder {str(folder)!r}.")
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        if not (folder / "config.yaml").is_file():
            raise ValueError(f"{str(folder)!r} is no run folder; give one such as outputs/shop/deepfm/<time>.")
        last = folder / "checkpoints" / "last.ckpt"
        go_on = f"go on with resume={last}" if last.is_file() else "train it again"
        raise ValueError(f"the run {str(folder)!r} has no metrics.json: it did not finish; {go_on}.")
    return Run(
        folder=folder,
        config=_read(folder / "config.yaml"),
        metrics=_read(metrics),
        evaluation=_read(folder / "evaluation.json"),
        variants=_read(folder / "variants.json"),
        curves=read_curves(folder / "log" / "metrics.csv"),
        finished=datetime.fromtimestamp(metrics.stat().st_mtime),
    )


def runs_in(folder: Path) -> list[Path]:
    """The runs of a folder that holds one per seed; of any other folder, itself.

    Raises ValueError when its metrics.json does not parse.
    """
    seeds = _read(folder / "metrics.json").get("seeds")
    return [folder / f"seed_{seed}" for seed in seeds] if seeds else [folder]


def _read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{str(path)!r} does not parse: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} must hold a mapping, got {type(content).__name__}.")
    return content
