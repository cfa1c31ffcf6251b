"""GatherND in place of Gather gives the same rows, and takes its place only where rows of a weight are looked up."""

import numpy as np
import onnxruntime
import pytest
import spox.opset.ai.onnx.v20 as op

from export.builder import GraphBuilder

TABLE = np.arange(12.0, dtype="float32").reshape(4, 3)


def look_up(places: np.ndarray, axis: int = 0, table: np.ndarray = TABLE) -> tuple[np.ndarray, list[str]]:
    """What a graph with one Gather gives, and its nodes."""
    graph = GraphBuilder()
    at = graph.input("at", np.int64, [f"d{n}" for n in range(places.ndim)])
    content = graph.build({"found": op.gather(graph.weight("table", table), at, axis=axis)})
    session = onnxruntime.InferenceSession(content.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"at": places})[0], [node.op_type for node in content.graph.node]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int32"])
@pytest.mark.parametrize("places", [[3, 0, -1], [[1, 2], [3, 3]], []])
def test_rows_of_a_weight_are_those_that_gather_gives(places, dtype):
    places, table = np.array(places, dtype="int64"), TABLE.astype(dtype)
    found, kinds = look_up(places, table=table)
    np.testing.assert_array_equal(found, table[places])
    assert "Gather" not in kinds
    assert "GatherND" in kinds


def test_columns_of_a_weight_and_its_single_numbers_stay_with_gather():
    places = np.array([2, 0])
    for axis, table in ((1, TABLE), (0, TABLE[0])):
        found, kinds = look_up(places, axis, table)
        np.testing.assert_array_equal(found, np.take(table, places, axis))
        assert "GatherND" not in kinds


def test_what_is_computed_in_the_graph_stays_with_gather():
    graph = GraphBuilder()
    values = graph.input("values", np.float32, ("rows", 3))
    content = graph.build({"first": op.gather(values, op.const(0))})
    assert "GatherND" not in [node.op_type for node in content.graph.node]
