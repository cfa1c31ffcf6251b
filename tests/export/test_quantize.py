"""INT8 in the dense layers: what it keeps, what it moves, and which layers are better left alone."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.quantize import cpu_features, dense_nodes, float_where_better, quantize_dense

WIDTH = 256


def graph(path: Path, *, outlier: float = 0.0) -> Path:
    """`x` (batch, 256) -> Relu(x W + b) -> W' -> sigmoid: `score` (batch,), with metadata.

    With `outlier`, one input that no weight reads is that large.
    """
    rng = np.random.default_rng(0)
    first = rng.standard_normal((WIDTH, WIDTH)).astype("float32") / WIDTH**0.5
    mask = np.ones(WIDTH, dtype="float32")
    if outlier:
        first[0], mask[0] = 0.0, outlier
    weights = {
        "mask": mask,
        "w": first.T.copy(),
        "b": rng.standard_normal(WIDTH).astype("float32"),
        "w2": rng.standard_normal((WIDTH, 1)).astype("float32") / WIDTH**0.5,
        "axes": np.array([1]),
    }
    nodes = [
        helper.make_node("Mul", ["x", "mask"], ["masked"]),
        helper.make_node("Gemm", ["masked", "w", "b"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["y"], "last"),
        helper.make_node("Squeeze", ["y", "axes"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["score"]),
    ]
    body = helper.make_graph(
        nodes,
        "scores",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    content = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(content, {"origin": "a test"})
    onnx.save(content, path)
    return path


def rows(seed: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((256, WIDTH)).astype("float32")}


def score(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["score"], rows())[0]


def weight_types(content: ModelProto) -> set[int]:
    return {t.data_type for t in content.graph.initializer if len(t.dims) == 2}


def test_one_smaller_file_with_the_same_face_and_nearly_the_same_scores(tmp_path: Path):
    path = graph(tmp_path / "float.onnx")
    quantize_dense(path, tmp_path / "int8.onnx")
    before, after = onnx.load(path), onnx.load(tmp_path / "int8.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["float.onnx", "int8.onnx"]
    assert weight_types(after) == {TensorProto.INT8}
    assert (tmp_path / "int8.onnx").stat().st_size < 0.3 * path.stat().st_size
    assert list(after.graph.input) == list(before.graph.input)
    assert [o.name for o in after.graph.output] == ["score"]
    assert {p.key: p.value for p in after.metadata_props} == {"origin": "a test"}
    assert 0 < np.abs(score(tmp_path / "int8.onnx") - score(path)).max() < 0.02


def test_seven_bits_stay_within_their_range(tmp_path: Path):
    path = graph(tmp_path / "float.onnx")
    for reduce_range, most in ((True, 64), (False, 127)):
        quantize_dense(path, tmp_path / "int8.onnx", reduce_range=reduce_range)
        tensors = onnx.load(tmp_path / "int8.onnx").graph.initializer
        largest = max(np.abs(numpy_helper.to_array(t).astype(int)).max() for t in tensors if t.data_type == 3)
        assert largest <= most
        assert np.abs(score(tmp_path / "int8.onnx") - score(path)).max() < 0.03


def test_layers_named_stay_float(tmp_path: Path):
    path = graph(tmp_path / "float.onnx")
    layers = dense_nodes(path)
    assert list(layers.values()) == [(WIDTH, WIDTH), (WIDTH, 1)]
    first, last = layers
    quantize_dense(path, tmp_path / "mixed.onnx", keep_float=[last])
    kinds = {
        t.data_type: tuple(t.dims) for t in onnx.load(tmp_path / "mixed.onnx").graph.initializer if len(t.dims) == 2
    }
    assert kinds == {TensorProto.INT8: (WIDTH, WIDTH), TensorProto.FLOAT: (WIDTH, 1)}
    quantize_dense(path, tmp_path / "all.onnx", keep_float=list(layers))
    np.testing.assert_allclose(score(tmp_path / "all.onnx"), score(path), atol=1e-6)
    with pytest.raises(ValueError, match=rf"`keep_float` names 'frist'; the dense layers of float.onnx are \['{first}"):
        quantize_dense(path, tmp_path / "no.onnx", keep_float=["frist"])
    assert not (tmp_path / "no.onnx").exists()


def test_a_layer_that_int8_would_ruin_stays_float(tmp_path: Path):
    """One scale per batch: beside an outlier of 5,000 all other inputs become the same number."""
    path = graph(tmp_path / "float.onnx", outlier=5000.0)
    first, _ = dense_nodes(path)
    assert first in float_where_better(path, [rows()])
    assert first in float_where_better(path, [rows(), rows(2)], harm=0.05)


def test_a_layer_that_gains_becomes_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = graph(tmp_path / "float.onnx")
    monkeypatch.setattr("export.quantize._quicker", lambda *_: True)
    assert float_where_better(path, [rows()], harm=0.1) == []
    assert float_where_better(path, [rows()], harm=0.0) == list(dense_nodes(path))
    monkeypatch.setattr("export.quantize._quicker", lambda *_: False)
    assert float_where_better(path, [rows()], harm=0.1) == list(dense_nodes(path))


def test_no_rows_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="`feeds` is empty"):
        float_where_better(graph(tmp_path / "float.onnx"), [])


def test_cpu_features(tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx avx2 avx512f avx512_vnni amx_tile amx_int8\n")
    assert cpu_features(cpuinfo) == ["AVX2", "AVX-512", "AVX-512 VNNI", "AMX"]
    assert cpu_features(tmp_path / "nowhere") == []
