"""A column as its distinct values and which of them each row holds, so that work on texts is done once per value."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys.data.cells import is_list, to_pandas


@dataclass(frozen=True, slots=True)
class Coded:
    """Row r holds `values[code_R[r]]`; -1 marks a row without a value. `values` are distinct and none is missing."""

    values: pd.Series
    code_R: np.ndarray

    @classmethod
    def of(cls, values: pd.Series) -> "Coded":
        """A column of a table in memory."""
        code, unique = pd.factorize(values)
        return cls(pd.Series(unique, dtype=values.dtype), code.astype("int32"))

    def __len__(self) -> int:
        return len(self.code_R)

    @property
    def counts(self) -> np.ndarray:
        """How many rows hold each value, int64."""
        return np.bincount(self.code_R[self.code_R >= 0], minlength=len(self.values))

    def take(self, rows: np.ndarray) -> "Coded":
        """Some of the rows."""
        return Coded(self.values, self.code_R[rows])

    def spread(self, numbers: pd.Series) -> pd.Series:
        """The float64 number that was made of each value, row by row; NaN for a row without a value."""
        return pd.Series(np.append(numbers.to_numpy("float64"), np.nan)[self.code_R])


def encode_cells(cells: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """The distinct values of some rows, each in use, and their int32 codes, -1 for a missing cell."""
    if is_list(cells.type):
        texts = to_pandas(pa.table({"cells": cells}))["cells"].astype("str")
        cells = pa.chunked_array([pa.array(texts, pa.large_string(), from_pandas=True)])
    if not pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_encode()
    array = cells.unify_dictionaries().combine_chunks() if cells.num_chunks != 1 else cells.chunk(0)
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    code = array.indices.fill_null(-1).to_numpy().astype("int32")
    used = np.bincount(code + 1, minlength=len(array.dictionary) + 1)[1:] > 0
    place = np.append(np.cumsum(used, dtype="int32") - 1, np.int32(-1))
    return array.dictionary.filter(pa.array(used)), place[code]


def unify(pieces: Sequence[pa.Array]) -> tuple[pd.Series, list[np.ndarray]]:
    """All distinct values of several pieces, and for each piece where its values stand among them (-1: missing)."""
    cuts = np.cumsum([len(piece) for piece in pieces])[:-1]
    if len({piece.type for piece in pieces}) == 1 and not pa.types.is_floating(pieces[0].type):
        encoded = pa.concat_arrays(pieces).dictionary_encode()
        values = to_pandas(pa.table({"values": encoded.dictionary}))["values"]
        return values, np.split(encoded.indices.fill_null(-1).to_numpy(), cuts)
    columns = [to_pandas(pa.table({"values": piece}))["values"] for piece in pieces]  # of floats, NaN is missing
    coded = Coded.of(pd.concat(columns, ignore_index=True))
    return coded.values, np.split(coded.code_R, cuts)
