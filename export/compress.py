"""Smaller and quicker variants of a model, tried one after the other and kept or refused by what they measure."""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from export.artifact import Rewrite
from export.core import row_core
from export.graph import open_graph, recommender_graph, save_graph
from export.measure import BATCHES, measure
from export.prune import prune_hidden
from export.quality import Judge
from export.quantize import int8_dense, quantize_tables
from export.rare import prune_rows
from export.rows import RawRows
from recsys.data.batches import Batch, Rows
from recsys.data.encoders import Encoders
from recsys.data.split import TRAIN, VALID
from recsys.models.base import Recommender

log = logging.getLogger(__name__)
Number = Literal["float32", "int8"]
LATENCY = "p50_ms@256"
CALIBRATION_ROWS, BLOCK = 8192, 1024
FineTune = Callable[[Recommender], Recommender]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """What is tried, every combination of it, and what decides.

    `keep`: shares of the hidden units (1: all), fine-tuned for `epochs`. `min_count`: values with fewer training rows
    share the unseen row. `tables` and `dense`: numbers of the embedding tables and of the dense layers. A variant may
    lose at most `budget` of the metric on at most `rows` validation rows; of those that do, the best has the least
    `target`: latency (median of a batch of 256 on one thread) or size (of the file).
    """

    budget: float = 0.001
    target: Literal["latency", "size"] = "latency"
    keep: tuple[float, ...] = (1.0, 0.5)
    min_count: tuple[int, ...] = (1,)
    tables: tuple[Number, ...] = ("float32", "int8")
    dense: tuple[Number, ...] = ("float32", "int8")
    epochs: int = 1
    rows: int = 50_000

    def __post_init__(self) -> None:
        if not self.budget >= 0:
            raise ValueError(f"`compress.budget` must be the loss that is allowed, at least 0, got {self.budget}.")
        for share in self.keep:
            if not 0 < share <= 1:
                raise ValueError(f"`compress.keep` must be shares of the hidden units in (0, 1], got {share}.")
        for name in ("epochs", "rows"):
            if getattr(self, name) < (name == "rows"):
                raise ValueError(f"`compress.{name}` must not be that small, got {getattr(self, name)}.")
        for count in self.min_count:
            if count < 1:
                raise ValueError(f"`compress.min_count` must be at least 1, got {count}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A combination, the model it makes, its row-form graph, and what was measured; `loss` with its 95% interval."""

    keep: float
    min_count: int
    tables: Number
    dense: Number
    model: Recommender
    encoders: Encoders
    rewrite: Rewrite
    path: Path
    figures: Mapping[str, float]
    metrics: Mapping[str, float]
    loss: tuple[float, float, float]

    @property
    def name(self) -> str:
        """What differs from the trained model."""
        parts = [f"width x{self.keep:g}"] if self.keep < 1 else []
        parts += [f"counts from {self.min_count}"] if self.min_count > 1 else []
        parts += ["int8 tables"] if self.tables == "int8" else []
        parts += ["int8 layers"] if self.dense == "int8" else []
        return ", ".join(parts) or "float32"

    def row(self) -> dict[str, Any]:
        """The variant's line of a table."""
        loss, low, high = self.loss
        return {"variant": self.name, **self.figures, **self.metrics, "loss": loss, "loss_low": low, "loss_high": high}


def try_variants(
    settings: Compression, model: Recommender, raw: RawRows, folder: Path, fine_tune: FineTune
) -> Iterator[Variant]:
    """Every combination as a graph in `folder`, measured; the trained model itself comes first."""
    judge = Judge(raw, VALID, settings.rows)
    feed_rows = np.resize(judge.row_B, BATCHES[-1])
    base: Tensor | None = None
    combinations = sorted(itertools.product(settings.keep, settings.min_count), key=lambda c: (-c[0], c[1]))
    if (1.0, 1) not in combinations:
        combinations.insert(0, (1.0, 1))
    narrowed: dict[float, Recommender] = {1.0: model}
    for keep, min_count in combinations:
        if keep not in narrowed:
            narrowed[keep] = fine_tune(prune_hidden(model, calibration(raw), keep))
        shorter, encoders = narrowed[keep], raw.store.encoders
        if min_count > 1:
            shorter, encoders = prune_rows(shorter, encoders, min_count)
        for tables, dense in itertools.product(*(_with_float(n) for n in (settings.tables, settings.dense))):
            ...


def _with_float(numbers: tuple[Number, ...]) -> list[Number]:
    return sorted({"float32", *numbers})


def calibration(raw: RawRows) -> list[Batch]:
    """Some training rows, by seed 0, in batches."""
    rows = Rows(raw.store, TRAIN)
    chosen = np.random.default_rng(0).permutation(len(rows))[:CALIBRATION_ROWS]
    return [rows[chosen[start : start + BLOCK]] for start in range(0, len(chosen), BLOCK)]
