"""A large table read once, piece by piece: each part's columns become arrays on disk, texts their codes.

Letters: R rows of a part, V distinct values of a column in a part.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys.data.cells import as_number, as_tags, is_text, to_pandas
from recsys.data.coded import Coded, encode_cells, unify
from recsys.data.duplicates import row_hashes
from recsys.schema import Column

ROWS = 2**19  # rows of a part
OPENING = Lock()  # Python before 3.11.8 may fail where two threads read the heads of arrays (python/cpython#106905)
Form = Literal["code", "number", "tags", "plain"]


@dataclass(frozen=True, slots=True)
class Need:
    """A column and the form in which it is needed.

    - `code`: distinct values and the code of each row. - `number`: float64. - `tags`: the codes of a row's tags.
    - `plain`: as it was read; texts as codes. Numbers are written with the sign `decimal`.
    """

    name: str
    form: Form
    column: Column | None = None
    decimal: str = "."


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part on disk, from row `first` of the table on. `bad` holds the unreadable cells of numbers by row of it."""

    folder: Path
    rows: int
    first: int = 0
    bad: dict[str, pd.Series] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether an array is stored."""
        return (self.folder / f"{name}.npy").exists()

    def unreadable(self, name: str) -> pd.Series:
        """The unreadable cells of a number column, by row of the table."""
        return self.bad[name].set_axis(self.bad[name].index + self.first)

    def array(self, name: str) -> np.ndarray:
        """A stored array, memory-mapped."""
        with OPENING:
            return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def values(self, name: str) -> pa.Array:
        """Stored distinct values, memory-mapped."""
        with pa.memory_map(str(self.folder / f"{name}.arrow")) as file:
            return pa.ipc.open_file(file).read_all().column(0).combine_chunks()

    def save_values(self, name: str, values: pa.Array) -> None:
        """Store distinct values."""
        content = pa.table({"values": values})
        with pa.OSFile(str(self.folder / f"{name}.arrow"), "wb") as file, pa.ipc.new_file(file, content.schema) as out:
            out.write_table(content)

    def save(self, name: str, array: np.ndarray) -> None:
        """Store an array."""
        np.save(self.folder / f"{name}.npy", array)


def write_part(folder: Path, batch: pa.Table, needs: Sequence[Need], hashed: bool, pool: ThreadPoolExecutor) -> Part:
    """Bring the columns of some rows into the forms that are needed; over what a worker that died has written."""
    folder.mkdir(exist_ok=True)
    part = Part(folder=folder, rows=len(batch))
    list(pool.map(lambda at: _write_column(part, str(at), needs[at], batch[needs[at].name]), range(len(needs))))
    if hashed:
        part.save("hash", row_hashes(batch))
    return part


def _write_column(part: Part, key: str, need: Need, cells: pa.ChunkedArray) -> None:
    kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    if need.form == "code" or (need.form == "plain" and (is_text(kind) or pa.types.is_binary(kind))):
        values, code_R = encode_cells(cells)
        part.save_values(key, values)
        part.save(key, code_R)
        return
    raw = to_pandas(pa.table({"cells": cells}))["cells"]
    if need.form == "plain":
        part.save_values(key, cells.combine_chunks())
    elif need.form == "number":
        number_R = as_number(raw, need.decimal)
        unreadable = raw.notna() & number_R.isna()
        part.bad[key] = raw[unreadable]
        part.save(key, number_R.to_numpy())
    else:
        assert need.column is not None, "tags are of a declared column"
        _write_tags(part, key, as_tags(raw, need.column))


def _write_tags(part: Part, key: str, tags: pd.Series) -> None:
    """The code of every tag, and where those of each row begin and end."""
    lists = pa.array(tags)
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    values, code = encode_cells(pa.chunked_array([lists.flatten().cast(pa.string())]))
    part.save_values(key, values)
    part.save(key, code)
    part.save(f"{key}.ends", np.cumsum(tags.list.len().fillna(0).astype("int64").to_numpy()))


@dataclass(frozen=True)
class Reading:
    """A table that was read into parts."""

    needs: tuple[Need, ...]
    parts: list[Part]

    @cached_property
    def rows(self) -> int:
        """Rows of the table."""
        return sum(part.rows for part in self.parts)

    def key(self, name: str, form: Form) -> str:
        """Under what name the arrays of a column lie."""
        return str(self.needs.index(next(n for n in self.needs if (n.name, n.form) == (name, form))))

    def unified(self, key: str) -> tuple[pd.Series, list[np.ndarray]]:
        """The distinct values of a column, and where those of each part stand among them, int32 (V,)."""
        values, places = unify([part.values(key) for part in self.parts])
        return values, [np.append(place, -1).astype("int32") for place in places]

    def column(self, name: str, form: Form) -> Coded | pd.Series:
        """A whole column: for the few that every row needs, its user, item, time and label."""
        key = self.key(name, form)
        if form == "plain" and not all(part.has(key) for part in self.parts):
            return pd.concat([self._plain(part, key) for part in self.parts], ignore_index=True)
        values, places = self.unified(key)
        codes = [place[part.array(key)] for part, place in zip(self.parts, places, strict=True)]
        return Coded(values, np.concatenate(codes))

    def _plain(self, part: Part, key: str) -> pd.Series:
        """The cells of a part, whose file may hold texts where others hold numbers."""
        values = to_pandas(pa.table({"values": part.values(key)}))["values"]
        return values.reindex(part.array(key)) if part.has(key) else values

    @cached_property
    def repeated(self) -> np.ndarray:
        """Which rows equal an earlier row in all that was read, bool."""
        hashes = np.concatenate([part.array("hash") for part in self.parts])
        return pd.DataFrame(hashes, copy=False).duplicated().to_numpy()


def read_parts(
    batches: Iterable[pa.Table], needs: Sequence[Need], folder: Path, hashed: bool, threads: int
) -> Iterator[Part]:
    """Write a file of a table part by part into `folder`; `hashed` for the search for equal rows."""
    folder.mkdir(exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        for number, batch in enumerate(batches):
            yield write_part(folder / f"{number:05}", batch, needs, hashed, pool)


def in_a_row(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts one behind the other in the table."""
    first = 0
    for part in parts:
        yield replace(part, first=first)
        first += part.rows
