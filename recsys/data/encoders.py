"""Vocabulary, standardiser and quantile buckets: fitted on training rows only, mergeable, saved as JSON.

Every encoder is a summary of what it saw, so two fits on two parts of the rows merge into the fit on all of them.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.cells import identifiers
from recsys.data.moments import Moments
from recsys.declare import declare
from recsys.schema import Column

UNSEEN = 0
LIMIT = 1e12  # of encoded numbers, so that products of two do not overflow float32
_POWERS = np.array([float(f"1e{n}") for n in range(301)])


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The values of a category or tags column with their training counts, sorted by value.

    Values counted at least `min_count` times take ids 1, 2, ... in sorted order; all others, and missing ones,
    take id 0.

    >>> vocabulary = Vocabulary.fit(pd.Series(["b", "a", "b"]), min_count=1)
    >>> vocabulary.encode(pd.Series(["a", "b", "new", None])).tolist()
    [1, 2, 0, 0]
    >>> halves = Vocabulary.fit(pd.Series(["b"])).merge(Vocabulary.fit(pd.Series(["a", "b"])))
    >>> halves == vocabulary
    True
    """

    values: list[str] | list[int]
    counts: list[int]
    min_count: int = 1

    @classmethod
    def fit(cls, values: pd.Series, weight: np.ndarray | None = None, *, min_count: int = 1) -> Self:
        """Count the present values; `weight` says how many training rows each entry stands for."""
        coded = identifiers(values).dictionary_encode()
        present = pc.is_valid(coded.indices).to_numpy(zero_copy_only=False)
        codes = coded.indices.drop_null().to_numpy()
        weights = None if weight is None else weight[present].astype("float64")
        counts = np.bincount(codes, weights, minlength=len(coded.dictionary)).astype("int64")
        order = pc.array_sort_indices(coded.dictionary).to_numpy()
        order = order[counts[order] > 0]
        return cls(values=coded.dictionary.take(order).to_pylist(), counts=counts[order].tolist(), min_count=min_count)

    def merge(self, other: Self) -> Self:
        """The fit on both parts. Integers and strings mix as strings."""
        parts = [(self.values, self.counts), (other.values, other.counts)]
        types = {type(value) for values, _ in parts for value in values[:1]}
        totals: dict[Any, int] = {}
        for values, counts in parts:
            for value, count in zip(values, counts, strict=True):
                key = str(value) if len(types) > 1 else value
                totals[key] = totals.get(key, 0) + count
        order = sorted(totals)
        return type(self)(values=order, counts=[totals[v] for v in order], min_count=self.min_count)

    @property
    def integers(self) -> bool:
        """Whether the values are integers; a column without any value counts as one of texts."""
        return bool(self.values) and isinstance(self.values[0], int)

    @cached_property
    def kept(self) -> list[str] | list[int]:
        """The values with an id of their own, in the order of their ids, from 1 on."""
        return [v for v, count in zip(self.values, self.counts, strict=True) if count >= self.min_count]  # type: ignore[return-value]

    @property
    def size(self) -> int:
        """Rows in the embedding table, the unseen row included."""
        return len(self.kept) + 1

    def encode(self, values: pd.Series) -> np.ndarray:
        """Ids, int64, of the shape of `values`."""
        as_integers = self.integers and isinstance(values.dtype, pd.Int64Dtype)
        known = self._integers if as_integers else self._texts
        places = pc.index_in(identifiers(values if as_integers else values.astype("str")), value_set=known)
        return places.fill_null(-1).to_numpy().astype("int64") + 1

    @cached_property
    def _integers(self) -> pa.Array:
        return pa.array(self.kept, pa.int64())

    @cached_property
    def _texts(self) -> pa.Array:
        return self._integers.cast(pa.large_string()) if self.integers else pa.array(self.kept, pa.large_string())


@dataclass(frozen=True, kw_only=True)
class Standardiser:
    """Mean and deviation of a number column, after `clip` and `log1p`.

    >>> Standardiser.fit(np.array([1.0, 3.0, np.nan])).encode(np.array([1.0, 2.0, np.nan])).tolist()
    [-1.0, 0.0, 0.0]
    """

    count: int
    mean: float
    square: float
    standardise: bool = True
    log1p: bool = False
    clip: tuple[float, float] | None = None

    @classmethod
    def fit(
        cls,
        values: np.ndarray,
        weight: np.ndarray | None = None,
        *,
        standardise: bool = True,
        log1p: bool = False,
        clip: tuple[float, float] | None = None,
    ) -> Self:
        """Summarise the finite values; `weight` says how many training rows each entry stands for."""
        return cls.of(cls.moments(values, weight, log1p, clip), standardise=standardise, log1p=log1p, clip=clip)

    @staticmethod
    def moments(
        values: np.ndarray, weight: np.ndarray | None, log1p: bool, clip: tuple[float, float] | None
    ) -> Moments:
        """What `of` fits on; those of several parts of the rows add up, without rounding, to those of all."""
        shaped = _shape(values, log1p, clip)
        known = np.isfinite(shaped)
        return Moments.of(shaped[known], None if weight is None else weight[known].astype("int64"))

    @classmethod
    def of(
        cls, moments: Moments, *, standardise: bool = True, log1p: bool = False, clip: tuple[float, float] | None = None
    ) -> Self:
        """Fitted on what `moments` counted."""
        count, mean, square = moments.count, moments.mean, moments.square
        return cls(count=count, mean=mean, square=square, standardise=standardise, log1p=log1p, clip=clip)

    @property
    def scale(self) -> float:
        """The standard deviation, 1 for a constant column."""
        deviation = math.sqrt(self.square / self.count) if self.count else 0.0
        return deviation if deviation > 1e-12 * max(1.0, abs(self.mean)) else 1.0

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Float32 values within `LIMIT`; missing ones take the mean, which is 0 once standardised."""
        shaped = _shape(values, self.log1p, self.clip)
        shaped = np.where(np.isfinite(shaped), shaped, self.mean)
        encoded = (shaped - self.mean) / self.scale if self.standardise else shaped
        return np.clip(encoded, -LIMIT, LIMIT).astype("float32")


def _shape(values: np.ndarray, log1p: bool, clip: tuple[float, float] | None) -> np.ndarray:
    """Values as float32, in which the exported graph takes them, then clipped and in logarithms; float64."""
    with np.errstate(over="ignore"):
        values = values.astype("float32").astype("float64")
    shaped = np.clip(values, *clip) if clip else values
    return np.log1p(np.maximum(shaped, 0.0)) if log1p else shaped


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Quantile buckets of a number column: ids 1 to `buckets`, missing values 0.

    The summary counts values rounded to five significant digits: bounded in size, exact to merge, and the
    boundaries are numbers a person can read. Equal quantiles fold into one bucket.

    >>> Buckets.fit(np.array([1.0, 2.0, 3.0, 4.0]), buckets=2).encode(np.array([0.0, 2.5, 3.0, np.nan])).tolist()
    [1, 1, 2, 0]
    """

    values: list[float]
    counts: list[int]
    buckets: int
    clip: tuple[float, float] | None = None

    @classmethod
    def fit(
        cls,
        values: np.ndarray,
        weight: np.ndarray | None = None,
        *,
        buckets: int,
        clip: tuple[float, float] | None = None,
    ) -> Self:
        """Count the finite values; `weight` says how many training rows each entry stands for."""
        shaped = _shape(values, False, clip)
        weight = np.ones(len(values), dtype="int64") if weight is None else weight
        known = np.isfinite(shaped) & (weight > 0)
        unique, codes = np.unique(_five_digits(shaped[known]), return_inverse=True)
        counts = np.bincount(codes, weight[known], minlength=len(unique)).astype("int64")
        return cls(values=unique.tolist(), counts=counts.tolist(), buckets=buckets, clip=clip)

    def merge(self, other: Self) -> Self:
        """The fit on both parts."""
        values = np.array([*self.values, *other.values])
        counts = np.array([*self.counts, *other.counts], dtype="int64")
        return type(self).fit(values, counts, buckets=self.buckets, clip=self.clip)

    @cached_property
    def boundaries(self) -> np.ndarray:
        """Lower bounds of the second bucket onwards, increasing, float64."""
        if not self.values:
            return np.empty(0)
        share = np.cumsum(self.counts) / np.sum(self.counts)
        position = np.searchsorted(share, np.arange(1, self.buckets) / self.buckets, side="right")
        chosen = np.array(self.values)[np.minimum(position, len(self.values) - 1)]
        chosen = np.unique(chosen[chosen > self.values[0]].astype("float32"))  # as `encode` reads values
        return chosen.astype("float64")

    @property
    def size(self) -> int:
        """Rows in the embedding table, the row of missing values included."""
        return len(self.boundaries) + 2

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Ids, int64, of the shape of `values`."""
        shaped = _shape(values, False, self.clip)
        ids = np.searchsorted(self.boundaries, shaped, side="right") + 1
        return np.where(np.isfinite(shaped), ids, UNSEEN)


def _five_digits(values: np.ndarray) -> np.ndarray:
    """Round to five significant digits: the double nearest to the decimal number, so that a second call is idle."""
    magnitude = np.floor(np.log10(np.abs(values), where=values != 0, out=np.zeros_like(values))).astype("int64")
    shift = 4 - magnitude
    up, down = _POWERS[np.clip(shift, 0, 300)], _POWERS[np.clip(-shift, 0, 300)]
    return np.round(values * up / down) / up * down


Encoder = Vocabulary | Standardiser | Buckets
Summary = Encoder | Moments | np.ndarray  # an array: how often each of some entries occurs


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The fitted encoder of every column, by name."""

    KINDS: ClassVar[Mapping[str, type[Encoder]]] = {
        "vocabulary": Vocabulary,
        "standardiser": Standardiser,
        "buckets": Buckets,
    }
    columns: dict[str, Encoder] = field(default_factory=dict)

    def sizes(self) -> dict[str, int]:
        """Rows that each field and tags column takes in the embedding table."""
        return {name: e.size for name, e in self.columns.items() if not isinstance(e, Standardiser)}

    def encode_ids(self, name: str, values: pd.Series) -> np.ndarray:
        """Ids of a field's values, int64, 0 for unseen and missing ones."""
        encoder = self.columns[name]
        if isinstance(encoder, Vocabulary):
            return encoder.encode(values)
        assert isinstance(encoder, Buckets)
        return encoder.encode(values.to_numpy("float64"))

    def encode_number(self, name: str, values: pd.Series) -> np.ndarray:
        """A number column's values, float32."""
        encoder = self.columns[name]
        assert isinstance(encoder, Standardiser)
        return encoder.encode(values.to_numpy("float64"))

    def encode_tags(self, name: str, values: pd.Series, length: int) -> np.ndarray:
        """Tags as ids (rows, length): the first `length` tags of each row; -1 marks unused places.

        A cell without any tag is all unused; a tag outside the vocabulary takes the unseen id.
        """
        vocabulary = self.columns[name]
        assert isinstance(vocabulary, Vocabulary)
        lengths = values.list.len().fillna(0).astype("int64").to_numpy()
        flat = _plain(values.explode())
        slots = np.maximum(lengths, 1)
        starts = np.cumsum(slots) - slots
        place = np.arange(len(flat)) - np.repeat(starts, slots)
        row = np.repeat(np.arange(len(values)), slots)
        used = (place < length) & np.repeat(lengths > 0, slots)
        ids = np.full((len(values), length), -1, dtype="int64")
        ids[row[used], place[used]] = vocabulary.encode(flat.reset_index(drop=True))[used]
        return ids

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON and checkpoints."""
        names = {kind: name for name, kind in self.KINDS.items()}
        return {
            name: {"encoder": names[type(e)], **{f: getattr(e, f) for f in e.__dataclass_fields__}}
            for name, e in self.columns.items()
        }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote."""
        columns = {}
        for name, options in mapping.items():
            kind = cls.KINDS[options["encoder"]]
            values = {key: value for key, value in options.items() if key != "encoder"}
            columns[name] = declare(kind, values, f"encoders.{name}")
        return cls(columns=columns)

    @property
    def fingerprint(self) -> str:
        """A hash of everything in the encoders."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write JSON, one column per line."""
        lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in self.to_dict().items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))


def fit_encoder(column: Column, values: pd.Series, weight: np.ndarray) -> Encoder:
    """Fit the encoder that a column asks for.

    `values` holds one entry per entity or event and `weight` how many training rows each stands for (tags: Arrow
    lists, every tag counted).
    """
    if column.kind == "tags":
        flat = values.explode().reset_index(drop=True)
        lengths = values.list.len().fillna(0).astype("int64").to_numpy()
        repeats = np.repeat(weight, np.maximum(lengths, 1))
        return Vocabulary.fit(_plain(flat), repeats, min_count=column.min_count)
    if column.kind == "category":
        return Vocabulary.fit(values, weight, min_count=column.min_count)
    numbers = values.to_numpy("float64")
    if column.buckets:
        return Buckets.fit(numbers, weight, buckets=column.buckets, clip=column.clip)
    return Standardiser.fit(numbers, weight, standardise=column.standardise, log1p=column.log1p, clip=column.clip)


def summarise(column: Column, values: pd.Series, weight: np.ndarray) -> Summary:
    """What some of the rows tell of a column; summaries of several parts `add` up."""
    if column.kind == "number" and not column.buckets:
        return Standardiser.moments(values.to_numpy("float64"), weight, column.log1p, column.clip)
    return fit_encoder(column, values, weight)


def add(one: Summary, other: Summary) -> Summary:
    """The summary of both parts of the rows."""
    if isinstance(one, Vocabulary | Buckets):
        return one.merge(other)  # type: ignore[arg-type]
    return one + other  # type: ignore[operator]


def fit_summary(column: Column, summary: Summary) -> Encoder:
    """What `fit_encoder` fits on all summarised rows together, to the last bit."""
    if isinstance(summary, Moments):
        options = {"log1p": column.log1p, "clip": column.clip, "standardise": column.standardise}
        return Standardiser.of(summary, **options)  # type: ignore[arg-type]
    assert not isinstance(summary, np.ndarray), "counts need their entries"
    return summary


def _plain(values: pd.Series) -> pd.Series:
    """Exploded Arrow lists as nullable integers or strings."""
    return values.astype("Int64" if pd.api.types.is_integer_dtype(values.dtype) else "str")
