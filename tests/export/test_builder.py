"""Graphs put together piece by piece: what is asked for twice is there once, what nobody reads is not there."""

import numpy as np
import onnx
import onnxruntime
import pytest
import spox.opset.ai.onnx.v20 as op
from onnx import TensorProto, helper, numpy_helper

from export.builder import OPSET, GraphBuilder

TABLE = np.arange(6, dtype="float32").reshape(3, 2)


def run(model: onnx.ModelProto, **feed: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def core() -> onnx.ModelProto:
    """`y` = `x` * `w` + `b`."""
    nodes = [helper.make_node("Mul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])]
    weights = [numpy_helper.from_array(np.float32([2]), "w"), numpy_helper.from_array(np.float32([0.5]), "b")]
    graph = helper.make_graph(nodes, "core", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def test_an_input_or_weight_asked_for_twice_is_one():
    graph = GraphBuilder()
    place = graph.input("place", np.int64, ("batch",))
    assert graph.input("place", np.int64, ("batch",)) is place
    table = graph.weight("table", TABLE)
    assert graph.weight("table", TABLE) is table
    model = graph.build({"a": op.gather(table, place), "b": op.gather(table, op.sub(op.const([2]), place))})
    assert [i.name for i in model.graph.input] == ["place"]
    assert [(i.name, tuple(i.dims)) for i in model.graph.initializer if len(i.dims) > 1] == [("table", (3, 2))]
    a, b = run(model, place=np.array([0, 2]))
    np.testing.assert_array_equal(a, TABLE[[0, 2]])
    np.testing.assert_array_equal(b, TABLE[[2, 0]])


def test_what_is_not_read_is_left_out_and_inputs_keep_their_order():
    graph = GraphBuilder()
    c, _, a = (graph.input(name, np.float32, ("batch",)) for name in "cba")
    graph.weight("unread", TABLE)
    model = graph.build({"sum": op.add(a, c)})
    assert [i.name for i in model.graph.input] == ["c", "a"]
    assert not model.graph.initializer
    assert run(model, c=np.float32([1]), a=np.float32([2]))[0].tolist() == [3]


def test_a_core_goes_in_with_its_weights_and_without_what_it_does_not_read():
    graph = GraphBuilder()
    raw = graph.input("raw", np.float32, ("batch",))
    doubled = op.add(raw, raw)
    y = graph.inline(core(), {"x": doubled, "unread": graph.input("other", np.float32, ("batch",))})["y"]
    model = graph.build({"score": y})
    assert [i.name for i in model.graph.input] == ["raw"]
    assert {i.name for i in model.graph.initializer} == {"model/w", "model/b"}
    assert run(model, raw=np.float32([1, -3]))[0].tolist() == pytest.approx([1 * 2 * 2 + 0.5, -3 * 2 * 2 + 0.5])
    assert {o.domain or "ai.onnx": o.version for o in model.opset_import}["ai.onnx"] == OPSET
