"""Sparse tables inside a graph: the entries of each row one after the other, and single entries found by their keys.

Letters: R rows, N entries, B rows asked for, L entries of a row, padded to one width.
"""

import numpy as np
import spox.opset.ai.onnx.v20 as op
from scipy.sparse import csr_array
from spox import Var

from export.builder import GraphBuilder
from export.vocabularies import elements


class Rows:
    """A sparse table whose rows are read whole, each in the order of its entries."""

    def __init__(self, graph: GraphBuilder, name: str, table: csr_array) -> None:
        self.graph, self.name, self.table = graph, name, table
        self.column_N, self.value_N = _entries(table)

    def places(self, row_B1: Var) -> tuple[Var, Var]:
        """Where the entries of some rows lie, int64 (B, L), and which of these there are: at least one column."""
        start_R = self.graph.weight(f"{self.name}/start", self.table.indptr[:-1].astype("int64"))
        length_R = self.graph.weight(f"{self.name}/length", np.diff(self.table.indptr).astype("int64"))
        length_B1 = elements(length_R, row_B1)
        width = op.max([op.reduce_max(length_B1, keepdims=0), op.const(1)])
        place_L = op.range(op.const(0), width, op.const(1))
        there_BL = op.less(place_L, length_B1)
        return op.where(there_BL, op.add(elements(start_R, row_B1), place_L), op.const(0)), there_BL

    def columns(self, place_BL: Var) -> Var:
        """The columns of the entries at some places, int64."""
        index_N = self.graph.weight(f"{self.name}/columns", self.column_N)
        return op.cast(elements(index_N, place_BL), to=np.int64)

    def values(self, place_BL: Var) -> Var:
        """The values of the entries at some places, float32."""
        return elements(self.graph.weight(f"{self.name}/values", self.value_N), place_BL)


def _entries(table: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Columns, int32 (N,), and values, float32 (N,); one that no row has where there are none to look into."""
    if not table.nnz:
        return np.full(1, -1, dtype="int32"), np.zeros(1, dtype="float32")
    return table.indices.astype("int32"), table.data.astype("float32")


class Entries:
    """A sparse table whose entries are found one by one; a row must not hold a column twice."""

    def __init__(self, graph: GraphBuilder, name: str, table: csr_array) -> None:
        self.graph, self.name, self.table = graph, name, table.sorted_indices()
        self.column_N, self.value_N = _entries(self.table)

    def find(self, row: Var, column: Var) -> tuple[Var, Var]:
        """The places of entries among all, int64 of the shape of both, and whether they are there.

        A binary search in each row whose steps stand one after the other: a table of hashes takes ten times the memory
        and long to load.
        """
        start_R, stop_R = self.table.indptr[:-1].astype("int64"), self.table.indptr[1:].astype("int64")
        columns = self.graph.weight(f"{self.name}/columns", self.column_N)
        wanted = op.cast(column, to=np.int32)
        first = elements(self.graph.weight(f"{self.name}/start", start_R), row)
        last = op.sub(elements(self.graph.weight(f"{self.name}/stop", stop_R), row), op.const(1))
        place = op.sub(first, op.const(1))  # the last one that is known to hold a lesser column
        for step in 2 ** np.arange(int((stop_R - start_R).max()).bit_length())[::-1]:
            ahead = op.min([op.add(place, op.const(step)), last])
            place = op.where(op.less(elements(columns, ahead), wanted), ahead, place)
        place = op.min([op.add(place, op.const(1)), last])
        there = op.and_(op.equal(elements(columns, place), wanted), op.greater_or_equal(place, first))
        return place, there

    def values(self, row: Var, column: Var) -> Var:
        """The values of entries, float32 of the shape of both, 0 where there are none."""
        place, there = self.find(row, column)
        found = elements(self.graph.weight(f"{self.name}/values", self.value_N), place)
        return op.where(there, found, op.const(np.float32(0)))
