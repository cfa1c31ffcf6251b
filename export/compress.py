"""Smaller and quicker variants of a model, tried one after the other and kept or refused by what they measure."""

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from export.artifact import FLOAT, Served, quantize_layers
from export.core import row_core
from export.dims import has_feature_vectors, prune_dims
from export.graph import open_graph, recommender_graph, save_graph
from export.measure import BATCHES, measure
from export.prune import has_hidden_layers, prune_hidden
from export.quality import Judge
from export.rare import min_count_for, prune_rows
from export.rows import RawRows
from export.tables import quantize_tables
from recsys.data.batches import Batch, Rows
from recsys.data.encoders import Encoders
from recsys.data.split import TRAIN, VALID
from recsys.declare import nearest
from recsys.models.base import Recommender

log = logging.getLogger(__name__)
Numbers = Literal["float32", "int8"]
Target = Literal["latency", "size"]
MEASURES: Mapping[str, str] = {"latency": "p50_ms@256", "size": "size_mb"}
CALIBRATION_ROWS, BLOCK = 8192, 1024
GAIN = 0.95  # a variant must need at most this share of the trained model's latency or size to be worth its loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """What is tried, every combination of it, and what decides.

    `keep`: shares of the hidden units (1: all), and `dims`: shares of the embedding dimensions. What is left of a model
    is taught by the trained one for `epochs`, from `lr_share` times the learning rate of its training on, with
    `freeze_tables` in its dense layers alone.
    `min_count`: values with fewer training rows share the unseen row; `table_rows` adds the least such count that
    leaves at most as many table rows. `tables` and `dense`: numbers of the embedding tables and of the dense layers. A
    variant may lose at most `budget` of the metric on at most `rows` validation rows; of those that do, the best has
    the least `target`: latency (median of a batch of 256 on one thread) or size (of the file).
    """

    budget: float = 0.001
    target: Target = "latency"
    keep: tuple[float, ...] = (1.0, 0.5, 0.25)
    dims: tuple[float, ...] = (1.0,)
    min_count: tuple[int, ...] = (1,)
    table_rows: int | None = None
    tables: tuple[Numbers, ...] = ("float32", "int8")
    dense: tuple[Numbers, ...] = ("float32", "int8")
    epochs: int = 2
    lr_share: float = 3.0
    freeze_tables: bool = True
    rows: int = 50_000

    def __post_init__(self) -> None:
        rules = {
            "budget": (self.budget >= 0, "a loss of the metric, at least 0"),
            "target": (self.target in get_args(Target), "latency or size"),
            "keep": (all(0 < share <= 1 for share in self.keep), "shares of the hidden units in (0, 1]"),
            "dims": (all(0 < share <= 1 for share in self.dims), "shares of the embedding dimensions in (0, 1]"),
            "min_count": (all(count >= 1 for count in self.min_count), "counts of at least 1"),
            "epochs": (self.epochs >= 0, "at least 0"),
            "lr_share": (self.lr_share > 0, "a multiple, above 0, of the training's learning rate"),
            "rows": (self.rows >= 1, "at least 1"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"`compress.{name}` must be {rule}, got {getattr(self, name)!r}.")
        for name in ("tables", "dense"):
            for numbers in getattr(self, name):
                if numbers not in get_args(Numbers):
                    raise ValueError(f"`compress.{name}` got {numbers!r}: {nearest(numbers, get_args(Numbers))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A combination and the model it makes; `path` is its row form, `loss` what it loses with its 95% interval."""

    keep: float = 1.0
    dims: float = 1.0
    min_count: int = 1
    tables: Numbers = "float32"
    dense: Numbers = "float32"
    model: Recommender
    encoders: Encoders
    path: Path
    figures: Mapping[str, float]
    metrics: Mapping[str, float]
    loss: tuple[float, float, float]

    @property
    def name(self) -> str:
        """What differs from the trained model."""
        changes = {
            f"width x{self.keep:g}": self.keep < 1,
            f"dims x{self.dims:g}": self.dims < 1,
            f"counts from {self.min_count}": self.min_count > 1,
            "int8 tables": self.tables == "int8",
            "int8 layers": self.dense == "int8",
        }
        return ", ".join(change for change, made in changes.items() if made) or FLOAT

    @property
    def served(self) -> Served:
        """What the bundle is to hold."""
        int8_layers = self.dense == "int8"
        return Served(model=self.model, encoders=self.encoders, name=self.name, int8_layers=int8_layers)

    def row(self) -> dict[str, Any]:
        """Its line of a table."""
        loss, low, high = self.loss
        return {"variant": self.name, **self.figures, **self.metrics, "loss": loss, "interval": [low, high]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Tries the combinations of `settings`; `distill(pruned, trained)` teaches, graphs are written to `folder`."""

    settings: Compression
    raw: RawRows
    folder: Path
    distill: Callable[[Recommender, Recommender], Recommender]

    def run(self, model: Recommender) -> Iterator[Variant]:
        """Every variant as it is measured, the trained model itself first."""
        judge = Judge(self.raw, VALID, self.settings.rows)
        base: Tensor | None = None
        for number, (keep, dims, min_count, smaller, encoders) in enumerate(self._models(model)):
            for tables, dense in itertools.product(_choices(self.settings.tables), _choices(self.settings.dense)):
                built = quantize_tables(smaller) if tables == "int8" else smaller
                path = self.folder / f"{number}-{tables}-{dense}.onnx"
                save_graph(recommender_graph(row_core(built), built, encoders), path, built)
                if dense == "int8" and not quantize_layers(path, self.raw):
                    continue  # it would be its float twin under another name
                score_B = judge.scores(open_graph(path))
                base = score_B if base is None else base
                variant = Variant(
                    keep=keep,
                    dims=dims,
                    min_count=min_count,
                    tables=tables,
                    dense=dense,
                    model=built,
                    encoders=encoders,
                    path=path,
                    figures=measure(path, self.raw.example(open_graph(path), BATCHES[-1])),
                    metrics=judge.metrics(score_B),
                    loss=judge.loss(base, score_B),
                )
                log.info("%s: %s", variant.name, _brief(variant))
                yield variant

    def _models(self, model: Recommender) -> Iterator[tuple[float, float, int, Recommender, Encoders]]:
        """Every model in float32, the least changed first."""
        encoders, counts = self.raw.store.encoders, set(self.settings.min_count)
        if self.settings.table_rows is not None:
            counts.add(min_count_for(encoders, self.settings.table_rows))
        widths = self.settings.keep if has_hidden_layers(model) else (1.0,)
        lengths = self.settings.dims if has_feature_vectors(model) else (1.0,)
        combinations = {(1.0, 1.0, 1), *itertools.product(widths, lengths, counts)}
        taught = {(1.0, 1.0): model}
        for keep, dims, min_count in sorted(combinations, key=lambda c: (-c[1], -c[0], c[2])):
            if (keep, dims) not in taught:
                taught[keep, dims] = self.distill(self._pruned(model, keep, dims), model)
            rest = taught[keep, dims]
            yield keep, dims, min_count, *(prune_rows(rest, encoders, min_count) if min_count > 1 else (rest, encoders))

    def _pruned(self, model: Recommender, keep: float, dims: float) -> Recommender:
        batches = calibration(self.raw)
        if dims < 1:
            log.info("pruning the embedding vectors to %g of their dimensions", dims)
            model = prune_dims(model, batches[:1], dims)
        if keep < 1:
            log.info("pruning the hidden layers to %g of their units", keep)
            model = prune_hidden(model, batches, keep)
        return model


def _choices(numbers: Sequence[Numbers]) -> list[Numbers]:
    return [n for n in get_args(Numbers) if n == "float32" or n in numbers]


def _brief(variant: Variant) -> str:
    shown = ("size_mb", "p50_ms@256")
    return ", ".join(f"{name} {variant.figures[name]:.3g}" for name in shown) + f", loss {variant.loss[0]:.5f}"


def calibration(raw: RawRows) -> list[Batch]:
    """Some training rows, drawn by seed 0, in batches."""
    rows = Rows(raw.store, TRAIN)
    chosen = np.random.default_rng(0).permutation(len(rows))[:CALIBRATION_ROWS]
    return [rows[chosen[start : start + BLOCK]] for start in range(0, len(chosen), BLOCK)]


def choose(variants: Sequence[Variant], settings: Compression) -> Variant | None:
    """The variant inside the budget with the least of the target; None when none is better than the trained model."""
    first, *others = variants
    measure_of = MEASURES[settings.target]
    inside = [v for v in others if v.loss[0] <= settings.budget]
    best = min(inside, key=lambda v: v.figures[measure_of], default=first)
    return best if best.figures[measure_of] <= GAIN * first.figures[measure_of] else None
