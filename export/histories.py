"""Raw histories inside a graph, and the table's rows that stand for them.

Raw, a history is padded with missing values, at any place; a place is real where any of the columns has a value, and of
a row's real places the last `length` of the schema count.

Letters: B rows, L history places, N real places, T tags.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import spox.opset.ai.onnx.v20 as op
from spox import Var

from export.packed import PLACES, ROW
from export.vocabularies import MISSING_INT, Vocabularies
from recsys.schema import PADDING, Column, FeatureSchema, history_name


@dataclass(frozen=True, slots=True)
class _Histories:
    """The `raw` values of a schema's histories, by column."""

    schema: FeatureSchema
    vocabularies: Vocabularies
    raw: Mapping[str, Var]

    def _rows(self, found: Mapping[str, Var]) -> dict[Column, Var]:
        """The table's rows by column, `PADDING` for missing values; those in `found` were looked up before."""
        columns = [self.schema.column(name) for name in self.raw]
        look_up = self.vocabularies.look_up
        return {c: found[c.name] if c.name in found else look_up(self.raw[c.name], c) for c in columns}

    def _filled(self, column: Column, rows: Var) -> Var:
        """The rows as they count at real places: missing fields filled, and the first tags alone."""
        if column.is_field:
            return op.where(known(rows), rows, op.const(self.vocabularies.missing_row(column)))
        return first(rows, column.length)

    def _kept(self, has_value: Sequence[Var]) -> Var:
        """The real places (B, L) that count; `has_value` says it of each column."""
        assert self.schema.history is not None
        real_BL = functools.reduce(op.or_, has_value)
        after_BL = op.cumsum(op.cast(real_BL, to=np.int64), op.const(1), reverse=1)
        return op.and_(real_BL, op.less_or_equal(after_BL, op.const(self.schema.history.length)))


class PaddedHistories(_Histories):
    """Raw values (B, L) of fields and (B, L, T) of tags."""

    def rows(self, found: Mapping[str, Var]) -> dict[str, Var]:
        """The table's rows of the same shapes by the histories' names; `found` as by column."""
        if not self.raw:
            return {}
        rows = self._rows(found)
        keep_BL = self._kept([known(r) if c.is_field else _any(known(r)) for c, r in rows.items()])
        lists = {}
        for column, of_column in rows.items():
            keep = keep_BL if column.is_field else op.unsqueeze(keep_BL, op.const([2]))
            filled = self._filled(column, of_column)
            lists[history_name(column.name)] = op.where(keep, filled, op.const(PADDING))
        return lists

    def packed(self) -> "PackedHistories":
        """The places that count, one behind the other."""
        keep_BL = self._kept([self._has_value(self.schema.column(name), values) for name, values in self.raw.items()])
        keep = op.reshape(keep_BL, op.const([-1]))

        def kept(values: Var) -> Var:
            shape = op.concat([op.shape(keep), op.shape(values, start=2)], axis=0)
            return op.compress(op.reshape(values, shape, allowzero=1), keep, axis=0)

        rows = op.reshape(op.shape(keep_BL, end=1), op.const(np.array([], dtype="int64")))
        row_B1 = op.unsqueeze(op.range(op.const(0), rows, op.const(1)), op.const([1]))
        row_N = kept(op.expand(row_B1, op.shape(keep_BL)))
        return PackedHistories(self.schema, self.vocabularies, {n: kept(v) for n, v in self.raw.items()}, row_N)

    def _has_value(self, column: Column, values: Var) -> Var:
        missing = MISSING_INT if self.vocabularies.raw_type(column) is np.int64 else ""
        there = op.not_(op.equal(values, op.const(np.array(missing))))
        return there if column.is_field else _any(there)


@dataclass(frozen=True, slots=True)
class PackedHistories(_Histories):
    """Raw values (N,) of fields and (N, T) of tags at the real places that count, and the row `row_N` of each."""

    row_N: Var

    def rows(self, found: Mapping[str, Var]) -> dict[str, Var]:
        """The lists of a packed batch (see `export.packed.pack`), padding behind them."""
        more = op.sub(op.const([PLACES]), op.mod(op.shape(self.row_N), op.const([PLACES])))

        def padded(rows: Var) -> Var:
            shape = op.concat([more, op.shape(rows, start=1)], axis=0)
            return op.concat([rows, op.expand(op.const(PADDING), shape)], axis=0)

        rows = self._rows(found)
        lists = {history_name(c.name): padded(self._filled(c, of_column)) for c, of_column in rows.items()}
        return {**lists, ROW: padded(self.row_N)}


def known(rows: Var) -> Var:
    """Where rows are no padding."""
    return op.not_(op.equal(rows, op.const(PADDING)))


def first(rows: Var, length: int) -> Var:
    """The rows with all but the first `length` that are no padding blanked, along the last dimension."""
    count = op.cumsum(op.cast(known(rows), to=np.int64), op.const(-1))
    return op.where(op.less_or_equal(count, op.const(length)), rows, op.const(PADDING))


def _any(known_BLT: Var) -> Var:
    """Which places have any tag, (B, L)."""
    return op.cast(op.reduce_max(op.cast(known_BLT, to=np.int8), op.const([2]), keepdims=0), to=np.bool_)
