"""Raw values as rows of the shared embedding table, inside the graph.

A value outside a column's vocabulary takes the column's unseen row and a missing value `PADDING`; missing is "" for
texts and the least int64 for integers.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import spox.opset.ai.onnx.ml.v4 as ml
import spox.opset.ai.onnx.v20 as op
from spox import Var

from recsys.data.encoders import Buckets, Encoders, Vocabulary
from recsys.schema import PADDING, Column, FeatureSchema

MISSING_INT = int(np.iinfo("int64").min)
SPARSE = 4  # integers are looked up in an array where their range is at most this many times their number


class Vocabularies:
    """The vocabularies of a schema's category and tags columns, and its buckets."""

    def __init__(self, schema: FeatureSchema, encoders: Encoders) -> None:
        self.schema, self.encoders = schema, encoders

    def values(self, column: Column) -> np.ndarray:
        """The raw values that have a row, in the order of their rows: int64, or texts."""
        encoder = self.encoders.columns[column.name]
        assert isinstance(encoder, Vocabulary)
        return np.array(encoder.kept, dtype=np.int64 if encoder.integers else np.str_)

    def raw_type(self, column: Column) -> type:
        """The type of a column's raw input."""
        encoder = self.encoders.columns[column.name]
        if isinstance(encoder, Vocabulary):
            return np.int64 if encoder.integers else np.str_
        return np.float32

    def missing_row(self, column: Column) -> int:
        """The row of a missing value: that of `fill`, else the unseen row."""
        encoder, offset = self.encoders.columns[column.name], self.schema.offset(column.name)
        if column.fill is None:
            return offset
        if isinstance(encoder, Buckets):
            return offset + int(encoder.encode(np.array([column.fill], dtype="float64"))[0])
        assert isinstance(encoder, Vocabulary)
        fill = pd.Series([column.fill], dtype="Int64") if encoder.integers else pd.Series([str(column.fill)])
        return offset + int(encoder.encode(fill)[0])

    def is_dense(self, column: Column) -> bool:
        """Whether a column's values are integers that lie close together."""
        return column.kind != "number" and is_dense(self.values(column))

    def look_up(self, values: Var, column: Column, *, missing: int = PADDING) -> Var:
        """Rows, int64, of the shape of `values`; the row `missing` where there is no value."""
        offset = self.schema.offset(column.name)
        return look_up(values, self.values(column), first=offset + 1, unseen=offset, missing=missing)

    def look_up_dense(self, values_CB: Var, columns: Sequence[Column]) -> Var:
        """Rows, int64 (C, B), of the values of several dense columns; their missing rows where there is no value."""
        unseen, missing = [self.schema.offset(c.name) for c in columns], [self.missing_row(c) for c in columns]
        return _look_up_dense(values_CB, [self.values(c) for c in columns], unseen, missing)


def is_dense(known: np.ndarray) -> bool:
    """Whether values are integers that lie close together."""
    return known.dtype == np.int64 and len(known) > 0 and int(known.max()) - int(known.min()) < SPARSE * len(known)


def look_up(values: Var, known: np.ndarray, *, first: int, unseen: int, missing: int) -> Var:
    """The number `first` + n where a value is `known[n]`, `unseen` where it is no known one; int64."""
    if is_dense(known) and unseen == first - 1:
        stacked = op.unsqueeze(op.reshape(values, op.const([-1])), op.const([0]))
        return op.reshape(_look_up_dense(stacked, [known], [unseen], [missing]), op.shape(values), allowzero=1)
    nothing = np.array([MISSING_INT if known.dtype == np.int64 else ""], dtype=known.dtype)
    return ml.label_encoder(
        values,
        keys_tensor=np.concatenate([nothing, known]),
        values_tensor=np.concatenate([[missing], np.arange(len(known)) + first]),
        default_tensor=np.array([unseen]),
    )


def _look_up_dense(values_CB: Var, known: Sequence[np.ndarray], unseen: Sequence[int], missing: Sequence[int]) -> Var:
    """Numbers of stacked integers: `unseen[c]` + 1 + n where a value of row c is `known[c][n]`.

    A value's distance to the least one is its place in an array of numbers; where no value between is left out, the
    place gives the number without the array.
    """
    low, high = (np.array([of(k) for k in known]) for of in (np.min, np.max))
    spans, unseen_C1, missing_C1 = high - low + 1, np.array(unseen)[:, None], np.array(missing)[:, None]
    at_least_CB = op.greater_or_equal(values_CB, op.const(low[:, None]))
    inside_CB = op.and_(at_least_CB, op.less_or_equal(values_CB, op.const(high[:, None])))
    if all((np.diff(k) == 1).all() for k in known):
        number_CB = op.add(values_CB, op.const(unseen_C1 + 1 - low[:, None]))
    else:
        starts = np.cumsum(spans) - spans
        table = np.repeat(np.array(unseen), spans)
        for k, start, nothing in zip(known, starts, unseen, strict=True):
            table[start + k - k.min()] = nothing + 1 + np.arange(len(k))
        place_CB = op.where(inside_CB, op.add(values_CB, op.const((starts - low)[:, None])), op.const(0))
        number_CB = op.cast(elements(op.const(table.astype("int32")), place_CB), to=np.int64)
    outside_CB = op.const(unseen_C1)
    if (missing_C1 != unseen_C1).any():
        outside_CB = op.where(op.equal(values_CB, op.const(MISSING_INT)), op.const(missing_C1), outside_CB)
    return op.where(inside_CB, number_CB, outside_CB)


def elements(table: Var, places: Var) -> Var:
    """A vector's elements at places of any shape; for single numbers GatherElements is far quicker than Gather."""
    found = op.gather_elements(table, op.reshape(places, op.const([-1])))
    return op.reshape(found, op.shape(places), allowzero=1)
