"""Sparse tables in a graph against scipy's."""

import numpy as np
import onnxruntime
import pytest
from scipy.sparse import csr_array, random_array

from export.builder import GraphBuilder
from export.sparse import Entries, Rows


def run(graph: GraphBuilder, outputs: dict, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph.build(outputs).SerializeToString())
    return session.run(list(outputs), inputs)


@pytest.fixture(params=[(1, 1, 1.0), (5, 9, 0.3), (40, 300, 0.1), (30, 7, 0.9), (4, 4, 0)], ids=str)
def table(request) -> csr_array:
    """Random entries from 1 to 2, rows 0 and the last but one empty, columns in no order."""
    rows, columns, density = request.param
    if not density:
        return csr_array((rows, columns))
    rng = np.random.default_rng(0)
    dense = random_array((rows, columns), density=density, rng=rng).toarray()
    dense += dense > 0
    if rows > 2:
        dense[[0, -2]] = 0
    row_N, column_N = np.nonzero(dense)
    order_N = np.lexsort((rng.random(len(row_N)), row_N))
    start = np.concatenate([[0], np.cumsum(np.count_nonzero(dense, axis=1))])
    return csr_array((dense[row_N, column_N][order_N], column_N[order_N], start), shape=dense.shape)


def test_every_entry_is_found_and_no_other(table):
    graph = GraphBuilder()
    row, column = graph.input("row", np.int64, ("R", 1)), graph.input("column", np.int64, ("R", "C"))
    entries = Entries(graph, "table", table)
    (value, there) = run(
        graph,
        {"value": entries.values(row, column), "there": entries.find(row, column)[1]},
        row=np.arange(table.shape[0])[:, None],
        column=np.tile(np.arange(table.shape[1]), (table.shape[0], 1)),
    )
    np.testing.assert_array_equal(value, table.toarray().astype("float32"))
    np.testing.assert_array_equal(there, table.toarray() > 0)


def test_rows_are_read_whole_and_in_their_order(table):
    graph = GraphBuilder()
    rows = Rows(graph, "table", table)
    place, there = rows.places(graph.input("row", np.int64, ("B", 1)))
    outputs = {"there": there, "columns": rows.columns(place), "values": rows.values(place)}
    for asked in (np.arange(table.shape[0]), np.array([table.shape[0] - 1]), np.array([0])):
        found, columns, values = run(graph, outputs, row=asked[:, None])
        assert found.shape[1] == max(1, *np.diff(table.indptr)[asked])
        for n, row in enumerate(asked):
            one = slice(*table.indptr[[row, row + 1]])
            assert columns[n][found[n]].tolist() == table.indices[one].tolist()
            np.testing.assert_array_equal(values[n][found[n]], table.data[one].astype("float32"))
