"""Raw columns as graph inputs, and what a model reads of them: ids, numbers, tags and histories, inside the graph.

Whatever a column holds, it ends in one of the column's own rows: values outside the vocabulary in its unseen row,
missing ones in that of `fill`, else in the unseen row too (numbers: the mean). Missing is "" for texts, the least int64
for integers and NaN for numbers (infinities count as missing); lists are padded with it, at any place.

Letters: B rows, F fields, C stacked columns, N numbers, K boundaries, L history places, T tags.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import spox.opset.ai.onnx.v20 as op
from spox import Var

from export.builder import GraphBuilder
from export.histories import PaddedHistories, first, known
from export.moments import known_moment, time_part
from export.vocabularies import MISSING_INT, Vocabularies
from recsys.data.encoders import LIMIT, Buckets, Encoders, Standardiser
from recsys.schema import PADDING, ROLES, Column, FeatureSchema, Role, history_name


class RawColumns:
    """The raw columns of a schema as inputs of a graph, `rows` of them (a number, or the name of the dimension).

    `reads` names the columns and histories (as `history_name`) that the model reads; the others make no input.
    """

    def __init__(
        self, graph: GraphBuilder, schema: FeatureSchema, encoders: Encoders, reads: frozenset[str], rows: str | int
    ) -> None:
        self.graph, self.schema, self.encoders, self.reads, self.rows = graph, schema, encoders, reads, rows
        self.vocabularies = Vocabularies(schema, encoders)

    def feeds(self, roles: Sequence[Role] = ROLES, *, histories: bool = True, packed: bool = False) -> dict[str, Var]:
        """What an exported core takes: `ids` (B, F) and `numbers` (B, N) of these roles, and the lists by name.

        With `packed`, histories are those of `export.packed`.
        """
        for column in sorted(self.schema.columns, key=lambda c: ROLES.index(c.role)):
            if column.role in roles and column.name in self.reads:
                self._input(column)  # so that inputs stand in the schema's order
        read = [c for c in self.schema.histories if histories and history_name(c.name) in self.reads]
        padded = PaddedHistories(self.schema, self.vocabularies, {c.name: self._raw_history(c) for c in read})
        past = padded.packed() if packed else padded
        ids_BF, found = self._ids(roles, past.raw)
        tags = [c for c in self.schema.tags if c.role in roles and c.name in self.reads]
        lists = {c.name: self._tags(c) for c in tags} | past.rows(found)
        numbers = [c for c in self.schema.numbers if c.role in roles and c.name in self.reads]
        return {"ids": ids_BF} | ({"numbers": self._numbers(numbers)} if numbers else {}) | lists

    def _input(self, column: Column) -> Var:
        """A column's raw input; a part of the time is computed from the time's."""
        if column.part and self.schema.time:
            time = self.graph.input(self.schema.time.column, np.int64, (self.rows,))
            part = time_part(time, column.part, self.schema.time)
            return op.where(known_moment(time), part, op.const(MISSING_INT))
        dims = (column.name,) if column.kind == "tags" else ()
        return self.graph.input(column.name, self.vocabularies.raw_type(column), (self.rows, *dims))

    def _raw_history(self, column: Column) -> Var:
        dims = () if column.is_field else (f"{column.name} of an item",)
        name = history_name(column.name)
        return self.graph.input(name, self.vocabularies.raw_type(column), (self.rows, "length", *dims))

    def _ids(self, roles: Sequence[Role], past: Mapping[str, Var]) -> tuple[Var, dict[str, Var]]:
        """Rows of the shared table (B, F), and those of the histories that were looked up on the way (B, L)."""
        fields = [c for c in self.schema.fields if c.role in roles]
        read = [c for c in fields if c.name in self.reads]
        dense = [c for c in read if self.vocabularies.is_dense(c)]
        blocks, found = [], {}
        if dense:
            raw = op.concat([self._input(c) for c in dense], axis=0)
            blocks.append(self.vocabularies.look_up_dense(op.reshape(raw, op.const([len(dense), -1])), dense))
        others = [c for c in read if c not in dense]
        for column in others:
            if column.kind == "number":
                row_B = self._buckets(column)
            elif column.name in past:  # one vocabulary in the graph for the column and its history
                value_B, values = self._input(column), past[column.name]
                together = op.concat([value_B, op.reshape(values, op.const([-1]))], axis=0)
                row_B, rows = cut(self.vocabularies.look_up(together, column), op.shape(value_B))
                row_B = op.where(known(row_B), row_B, op.const(self.vocabularies.missing_row(column)))
                found[column.name] = op.reshape(rows, op.shape(values), allowzero=1)
            else:
                missing = self.vocabularies.missing_row(column)
                row_B = self.vocabularies.look_up(self._input(column), column, missing=missing)
            blocks.append(op.unsqueeze(row_B, op.const([0])))
        return self._in_order(fields, [*dense, *others], blocks), found

    def _in_order(self, fields: Sequence[Column], stacked: Sequence[Column], blocks: list[Var]) -> Var:
        """The blocks (C, B) as (B, F), with `PADDING` for columns that are not read."""
        if not blocks:
            return op.const(np.full((self.rows if isinstance(self.rows, int) else 1, len(fields)), PADDING))
        place = {column.name: n for n, column in enumerate(stacked)}
        if len(place) < len(fields):
            shape = op.concat([op.const([1]), op.shape(blocks[0], start=1)], axis=0)
            blocks = [*blocks, op.expand(op.const([[PADDING]]), shape)]
        rows_FB = op.concat(blocks, axis=0) if len(blocks) > 1 else blocks[0]
        order = [place.get(column.name, len(place)) for column in fields]
        if order != list(range(len(place))):
            rows_FB = op.gather(rows_FB, op.const(order), axis=0)
        return op.transpose(rows_FB, perm=[1, 0])

    def _buckets(self, column: Column) -> Var:
        """The row of each value's bucket, (B,): one more for every boundary at or below it."""
        encoder = self.encoders.columns[column.name]
        assert isinstance(encoder, Buckets)
        value_B, known_B = _finite(self._input(column))
        if encoder.clip:
            value_B = op.clip(value_B, *map(op.const, map(float, encoder.clip)))
        reached_BK = op.greater_or_equal(op.unsqueeze(value_B, op.const([1])), op.const(encoder.boundaries))
        count_B = op.reduce_sum(op.cast(reached_BK, to=np.int64), op.const([1]), keepdims=0)
        row_B = op.add(count_B, op.const(self.schema.offset(column.name) + 1))
        return op.where(known_B, row_B, op.const(self.vocabularies.missing_row(column)))

    def _numbers(self, columns: Sequence[Column]) -> Var:
        """Numbers as the model reads them, float32 (B, N), computed in double precision as in training."""
        encoders = [e for c in columns if isinstance(e := self.encoders.columns[c.name], Standardiser)]
        raw = op.concat([self._input(c) for c in columns], axis=0)
        value_NB, known_NB = _finite(op.reshape(raw, op.const([len(columns), -1])))

        def each(numbers: list[float]) -> Var:
            return op.const(np.array(numbers, dtype="float64")[:, None])

        if any(e.clip for e in encoders):
            bounds = [e.clip or (-np.inf, np.inf) for e in encoders]
            value_NB = op.min([op.max([value_NB, each([b[0] for b in bounds])]), each([b[1] for b in bounds])])
        if any(e.log1p for e in encoders):
            log_NB = op.log(op.add(op.max([value_NB, op.const(0.0)]), op.const(1.0)))
            value_NB = op.where(op.const(np.array([[e.log1p] for e in encoders])), log_NB, value_NB)
        means, scales = zip(*((e.mean, e.scale) if e.standardise else (0.0, 1.0) for e in encoders), strict=True)
        value_NB = op.div(op.sub(value_NB, each(list(means))), each(list(scales)))
        value_NB = op.cast(op.clip(value_NB, op.const(-LIMIT), op.const(LIMIT)), to=np.float32)
        fills = [np.nan if c.fill is None else float(c.fill) for c in columns]
        missing_N = [e.encode(np.array([fill])) for e, fill in zip(encoders, fills, strict=True)]
        return op.transpose(op.where(known_NB, value_NB, op.const(np.array(missing_N))), perm=[1, 0])

    def _tags(self, column: Column) -> Var:
        """Rows of a column's first `length` tags, (B, T), `PADDING` elsewhere; that of `fill` where there is no tag."""
        tags_BT = self._input(column)
        rows_BT = first(self.vocabularies.look_up(tags_BT, column), column.length)
        if column.fill is None:
            return rows_BT
        none_B1 = op.equal(op.reduce_max(rows_BT, op.const([1])), op.const(PADDING))
        fill_B1 = op.where(none_B1, op.const(self.vocabularies.missing_row(column)), op.const(PADDING))
        return op.concat([rows_BT, fill_B1], axis=1)


def _finite(value: Var) -> tuple[Var, Var]:
    """Values in double precision, and which of them are finite."""
    known = op.less(op.abs(value), op.const(np.float32(np.inf)))
    return op.cast(value, to=np.float64), known


def cut(values: Var, length: Var) -> tuple[Var, Var]:
    """A vector's first `length` values, and the others."""
    end = op.const([np.iinfo("int64").max])
    return op.slice(values, op.const([0]), length), op.slice(values, length, end)
