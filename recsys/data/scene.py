"""The scene columns of all events, left on disk as they were read: typed, fitted and encoded span by span.

Letters: E events, S events of a span, N entries of a column.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys.data.cells import fill_missing
from recsys.data.encoders import Encoder, Summary, fit_encoder, fit_summary, summarise
from recsys.data.parts import Reading
from recsys.schema import Column


@dataclass(frozen=True, slots=True)
class Span:
    """The events from `start` to `stop` in a row, all of one part, and their rows there."""

    start: int
    stop: int
    part: int
    rows: np.ndarray | slice


def spans_of(reading: Reading, row_E: pd.Index) -> list[Span]:
    """The events part by part; `row_E` holds the row that each was read from, rising."""
    edges = row_E.searchsorted(np.array([part.first for part in reading.parts] + [reading.rows]))
    spans = []
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        part = reading.parts[number]
        whole = stop - start == part.rows
        rows = slice(None) if whole else row_E[start:stop].to_numpy() - part.first
        spans.append(Span(int(start), int(stop), number, rows))
    return spans


class SceneColumn(Protocol):
    """What each event shows in a column."""

    def series(self, span: Span) -> pd.Series:
        """The typed values of a span's events."""
        ...

    def missing(self, span: Span) -> np.ndarray:
        """Which of a span's events show no value, bool (S,)."""
        ...

    def summary(self, column: Column, span: Span, train_S: np.ndarray) -> Summary:
        """What the training events of a span, where `train_S` is set, tell; those of several spans `add` up."""
        ...

    def fit(self, column: Column, summary: Summary) -> Encoder:
        """The column's encoder, fitted on what all spans tell."""
        ...

    def encoded(self, encode: Callable[[pd.Series], np.ndarray]) -> Callable[[Span], np.ndarray]:
        """A function that encodes a span's events, from one that encodes typed values."""
        ...

    def kept(self, kept_E: np.ndarray) -> "SceneColumn":
        """The column when events leave; `kept_E` says which of them stay."""
        ...


@dataclass(frozen=True)
class Entries:
    """A column whose typed `entries` are few; the last one is what a missing value shows. `at_E`: each event's entry.

    `at_E` counts from 0; -1 is a missing value.
    """

    entries: pd.Series
    at_E: np.ndarray

    def at(self, span: Span) -> np.ndarray:
        """The place of each of a span's events among the entries, int (S,)."""
        return self.at_E[span.start : span.stop] % len(self.entries)

    def series(self, span: Span) -> pd.Series:
        return self.entries.take(self.at(span)).reset_index(drop=True)

    def missing(self, span: Span) -> np.ndarray:
        return self.entries.isna().to_numpy()[self.at(span)]

    def summary(self, column: Column, span: Span, train_S: np.ndarray) -> np.ndarray:  # noqa: ARG002 - see SceneColumn
        return np.bincount(self.at(span)[train_S], minlength=len(self.entries))

    def fit(self, column: Column, summary: Summary) -> Encoder:
        assert isinstance(summary, np.ndarray), "entries are counted"
        return fit_encoder(column, self.entries, summary)

    def encoded(self, encode: Callable[[pd.Series], np.ndarray]) -> Callable[[Span], np.ndarray]:
        table = encode(self.entries)
        return lambda span: table[self.at(span)]

    def kept(self, kept_E: np.ndarray) -> "Entries":
        return replace(self, at_E=self.at_E[kept_E])


@dataclass(frozen=True)
class CodedEntries(Entries):
    """Entries whose codes lie on disk; `places` says for each part which entry a code stands for."""

    reading: Reading
    key: str
    places: list[np.ndarray]

    def at(self, span: Span) -> np.ndarray:
        return self.places[span.part][self._codes(span)]

    def _codes(self, span: Span) -> np.ndarray:
        return self.reading.parts[span.part].array(self.key)[span.rows]

    def encoded(self, encode: Callable[[pd.Series], np.ndarray]) -> Callable[[Span], np.ndarray]:
        table = encode(self.entries)
        tables = [table[place] for place in self.places]
        return lambda span: tables[span.part][self._codes(span)]

    def kept(self, kept_E: np.ndarray) -> "CodedEntries":  # noqa: ARG002 - the spans know
        return self


@dataclass(frozen=True)
class Values:
    """A column with a value of its own for every event."""

    reading: Reading
    key: str
    fill: str | int | float | None

    def _read(self, span: Span) -> pd.Series:
        return pd.Series(self.reading.parts[span.part].array(self.key)[span.rows])

    def series(self, span: Span) -> pd.Series:
        values = self._read(span)
        return values if self.fill is None else fill_missing(values, self.fill)

    def missing(self, span: Span) -> np.ndarray:
        return self._read(span).isna().to_numpy()

    def summary(self, column: Column, span: Span, train_S: np.ndarray) -> Summary:
        return summarise(column, self.series(span), train_S.astype("int64"))

    def fit(self, column: Column, summary: Summary) -> Encoder:
        return fit_summary(column, summary)

    def encoded(self, encode: Callable[[pd.Series], np.ndarray]) -> Callable[[Span], np.ndarray]:
        return lambda span: encode(self.series(span))

    def kept(self, kept_E: np.ndarray) -> "Values":  # noqa: ARG002 - the spans know
        return self


@dataclass(frozen=True)
class TagValues(Values):
    """Tags: `tags` holds the distinct ones, `places` says for each part which a code stands for."""

    tags: pa.Array
    places: list[np.ndarray]

    def _read(self, span: Span) -> pd.Series:
        part = self.reading.parts[span.part]
        stops = part.array(f"{self.key}.ends")
        starts = np.append(0, stops[:-1])[span.rows]
        lengths = stops[span.rows] - starts
        ends = np.cumsum(lengths)
        at = np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
        flat = self.tags.take(pa.array(self.places[span.part][part.array(self.key)[at]]))
        offsets = pa.array(np.append(0, ends), pa.int32())
        lists = pa.ListArray.from_arrays(offsets, flat, mask=pa.array(lengths == 0))
        return pd.Series(pd.array(lists, dtype=pd.ArrowDtype(lists.type)))


@dataclass(frozen=True)
class Scene(Mapping[str, pd.Series]):
    """The scene columns of all events by name; `scene[name]` brings one, typed, into memory.

    `scratch` keeps the folder in which the columns lie.
    """

    columns: dict[str, SceneColumn]
    spans: list[Span]
    scratch: object = None

    def __getitem__(self, name: str) -> pd.Series:
        column = self.columns[name]
        return pd.concat([column.series(span) for span in self.spans], ignore_index=True)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def frame(self) -> pd.DataFrame:
        """All columns in memory."""
        return pd.DataFrame(dict(self))

    def missing(self, name: str) -> np.ndarray:
        """Which events show no value in a column, bool (E,)."""
        return np.concatenate([self.columns[name].missing(span) for span in self.spans])

    def kept(self, kept_E: np.ndarray, spans: list[Span]) -> "Scene":
        """The scene when events leave: those where `kept_E` is set stay, and lie in `spans`."""
        return Scene({name: column.kept(kept_E) for name, column in self.columns.items()}, spans, self.scratch)
