"""Events as the raw inputs of an exported graph: what a shop would send, from the cleaned tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd

from export.vocabularies import MISSING_INT
from recsys.data.events import Events, load_events
from recsys.data.module import DataModule
from recsys.data.split import VALID
from recsys.data.store import Store
from recsys.schema import HISTORY

MISSING: dict[type, Any] = {np.str_: "", np.int64: MISSING_INT, np.float32: np.nan}
TYPES = {"tensor(string)": np.str_, "tensor(int64)": np.int64, "tensor(float)": np.float32}


@dataclass(frozen=True)
class RawRows:
    """Raw inputs of the events of a store, from the tables that it was made of."""

    store: Store
    events: Events

    def __post_init__(self) -> None:
        same = len(self.events.user_E) == len(self.store.user_E) and len(self.events.items) == self.store.items
        if not (same and (self.events.user_E == self.store.user_E).all()):
            raise ValueError(
                f"the tables have changed since {self.store.folder} was encoded; train again or restore them."
            )

    @staticmethod
    def read(data: DataModule) -> "RawRows":
        """Of the opened data, whose tables are read again."""
        spec = data.spec
        return RawRows(data.store, load_events(spec.tables, spec.schema, spec.split_column, data.cache))

    def feed(
        self, session: onnxruntime.InferenceSession, row_B: np.ndarray, item_B: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The inputs of a row-form graph for the events at `row_B`, with other items where `item_B` gives some."""
        return {i.name: self._input(i.name, TYPES[i.type], row_B, item_B) for i in session.get_inputs()}

    def request(
        self, session: onnxruntime.InferenceSession, row: int, candidates: np.ndarray, k: int
    ) -> dict[str, np.ndarray]:
        """The inputs of a request for an event's user and scene, with the items at some positions."""
        feed = {}
        for i in session.get_inputs():
            if i.name in ("candidates", "seen_items"):
                feed[i.name] = self._values(self.store.schema.item, TYPES[i.type])[candidates]
            elif i.name == "k":
                feed[i.name] = np.array([k])
            else:
                feed[i.name] = self._input(i.name, TYPES[i.type], np.array([row]))
        return feed

    def example(self, session: onnxruntime.InferenceSession, rows: int = 256) -> dict[str, np.ndarray]:
        """Inputs of any graph of the bundle: validation rows, drawn by seed 0, or a request for their items."""
        row_B = np.random.default_rng(0).choice(np.flatnonzero(self.store.part_E == VALID), rows)
        if any(i.name == "k" for i in session.get_inputs()):
            return self.request(session, row_B[0], self.store.item_E[row_B], 10)
        return self.feed(session, row_B)

    def _input(self, name: str, dtype: type, row_B: np.ndarray, item_B: np.ndarray | None = None) -> np.ndarray:
        schema = self.store.schema
        if schema.time and name == schema.time.column and self.events.time_E is not None:
            seconds_B = self.events.time_E[row_B]
            raw_B = np.round(seconds_B * 1000, 3) if schema.time.unit == "ms" else seconds_B
            return np.floor(raw_B).astype("int64")
        if name.startswith(HISTORY):
            return self._history(name.removeprefix(HISTORY), dtype, row_B)
        role = "item" if name == schema.item else "user" if name == schema.user else schema.column(name).role
        items = self.store.item_E[row_B] if item_B is None else item_B
        return self._values(name, dtype)[{"user": self.store.user_E[row_B], "item": items, "scene": row_B}[role]]

    def _history(self, name: str, dtype: type, row_B: np.ndarray) -> np.ndarray:
        """A column of each event's past items, oldest first, missing behind them."""
        start_B, stop_B = self.store.start_E[row_B], self.store.stop_E[row_B]
        at_BL = start_B[:, None] + np.arange(max(1, int((stop_B - start_B).max(initial=0))))
        real_BL = at_BL < stop_B[:, None]
        item_BL = (
            np.asarray(self.store.history_H)[np.where(real_BL, at_BL, 0)] if real_BL.any() else np.zeros_like(at_BL)
        )
        values = self._values(name, dtype)[item_BL]
        real = real_BL.reshape(*real_BL.shape, *(1,) * (values.ndim - 2))
        return np.where(real, values, MISSING[dtype]).astype(values.dtype)

    def _values(self, name: str, dtype: type) -> np.ndarray:
        """A raw column, one entry per user, item or event: (n,), or (n, T) for tags."""
        if (name, dtype) not in self._cache:
            frames: tuple[Any, ...] = (self.events.users, self.events.items, self.events.scene)
            values = next(frame[name] for frame in frames if name in frame)
            is_list = isinstance(values.dtype, pd.ArrowDtype)
            self._cache[name, dtype] = tag_matrix(values, dtype) if is_list else raw_array(values, dtype)
        return self._cache[name, dtype]

    @cached_property
    def _cache(self) -> dict[tuple[str, type], np.ndarray]:
        return {}


def raw_array(values: pd.Series, dtype: type) -> np.ndarray:
    """A cleaned column as a graph input: texts (an object array), int64 or float32."""
    if dtype is np.str_:
        return values.astype("str").fillna("").to_numpy(object)
    if dtype is np.int64:
        return values.astype("Int64").fillna(MISSING_INT).to_numpy(np.int64)
    return values.to_numpy(np.float32, na_value=np.nan)


def tag_matrix(values: pd.Series, dtype: type) -> np.ndarray:
    """A column of lists as a matrix (n, T), as wide as the longest list."""
    lists: Sequence[list | None] = values.array.__arrow_array__().to_pylist()
    width = max(1, max((len(tags) for tags in lists if tags), default=1))
    matrix: np.ndarray = np.full((len(lists), width), MISSING[dtype], dtype=object if dtype is np.str_ else dtype)
    for n, tags in enumerate(lists):
        if tags:
            matrix[n, : len(tags)] = tags
    return matrix


def plain(feed: dict[str, np.ndarray]) -> dict[str, list]:
    """Inputs as people write them: lists without padding, None where a value is missing.

    The histories of a row keep one place per past item, in every column, whatever is known of it.
    """
    past = {name: _plain(values, tags=values.ndim == 3) for name, values in feed.items() if name.startswith(HISTORY)}
    rows = zip(*past.values(), strict=True)
    length_B = [max(n for cells in row for n in (0, *_places(cells))) for row in rows]
    for name, cells_B in past.items():
        past[name] = [cells[:length] for cells, length in zip(cells_B, length_B, strict=True)]
    return {
        name: past[name] if name in past else _plain(values, tags=values.ndim == 2) for name, values in feed.items()
    }


def _places(cells: Sequence[Any]) -> list[int]:
    """The places, from 1, at which something is known."""
    return [n for n, cell in enumerate(cells, 1) if cell is not None and cell != []]


def _plain(values: np.ndarray, *, tags: bool) -> list:
    """Nested lists with None for missing values, which the innermost lists leave out where they are `tags`."""

    def of(cell: Any, depth: int) -> Any:
        if depth == 0:
            return None if cell in ("", MISSING_INT) or cell != cell else cell
        inner = [of(value, depth - 1) for value in cell]
        return [value for value in inner if value is not None] if tags and depth == 1 else inner

    return [of(cell, values.ndim - 1) for cell in values.tolist()]
