"""INT8 for the dense layers of a graph, by ONNX Runtime's dynamic quantization, where it is quicker and does no harm.

Tables are quantized before the export (`export.tables`). Letters: B rows, K inputs and O outputs of a layer.
"""

import logging
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.graph import write_graph

RUNS = 30
GAIN = 0.8
FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX",
}
Feed = Mapping[str, np.ndarray]


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """What this CPU has of AVX2, AVX-512, AVX-512 VNNI, AVX-VNNI and AMX; nothing where there is no `cpuinfo`."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return [name for flag, name in FEATURES.items() if flag in flags]


def dense_nodes(path: Path) -> dict[str, tuple[int, int]]:
    """The layers of a graph that can be quantized, in order, with the shape (inputs, outputs) of their weights."""
    with _prepared(path) as prepared:
        content = onnx.load(prepared)
    weights = _weights(content)
    return {node.name: weights[node.name].shape for node in _dense(content)}


def quantize_dense(
    path: Path, out: Path, *, keep_float: Collection[str] = (), reduce_range: bool | None = None
) -> None:
    """Write the graph at `path` to `out` with its dense layers in INT8, those named in `keep_float` excepted.

    Weights get one scale per output, inputs one per batch, found as the batch is scored. The graph is prepared first
    (constants folded, MatMul and Add fused, shapes inferred); its inputs, outputs and metadata stay.

    `reduce_range` leaves weights 7 bits. CPUs without VNNI add pairs of products in 16 bits, which 8-bit weights may
    overflow in silence. It costs some precision, so the default is to ask this machine's CPU; set it when the graph is
    going to be served by lesser ones.

    Raises ValueError when `keep_float` names a layer that the graph does not have.
    """
    if reduce_range is None:
        reduce_range = not {"AVX-512 VNNI", "AVX-VNNI", "AMX"} & set(cpu_features())
    with _prepared(path) as prepared:
        names = [node.name for node in _dense(onnx.load(prepared))]
        for name in keep_float:
            if name not in names:
                raise ValueError(f"`keep_float` names {name!r}; the dense layers of {path.name} are {names}.")
        content = _quantized(prepared, [name for name in names if name not in keep_float], reduce_range)
    del content.metadata_props[:]
    content.metadata_props.extend(onnx.load(path, load_external_data=False).metadata_props)
    write_graph(content, out)


def _quantized(prepared: Path, names: list[str], reduce_range: bool) -> ModelProto:
    if not names:  # which ONNX Runtime would take for all
        return onnx.load(prepared)
    draft = prepared.with_name("int8.onnx")
    logging.disable(logging.WARNING)  # it warns of a preparation that was done
    try:
        quantize_dynamic(
            prepared,
            draft,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=names,
        )
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(draft)


def float_where_better(path: Path, feeds: Sequence[Feed], *, harm: float = 0.01) -> list[str]:
    """The dense layers of a graph that should stay float, measured on `feeds`, each a batch of the graph's inputs.

    A layer stays float when INT8 takes more than 80% of its time for its inputs of the first batch, on one thread
    (what float layers fuse with is not counted), or when INT8 in it alone changes the scores (the first output) by
    more than `harm` times their standard deviation, root mean square. Takes seconds.

    Raises ValueError when `feeds` is empty.
    """
    if not feeds:
        raise ValueError("`feeds` is empty: layers are judged by real rows; give at least one batch of inputs.")
    with _prepared(path) as prepared:
        content = onnx.load(prepared)
        scores = [_run(content, feed) for feed in feeds]
        deviation = float(np.concatenate(scores).std())
        inputs = _layer_inputs(content, feeds[0])
        better = []
        for node in _dense(content):
            changed = [_run(_quantized(prepared, [node.name], reduce_range=False), feed) for feed in feeds]
            error = float(np.sqrt(np.mean(np.square(np.concatenate(changed) - np.concatenate(scores)))))
            if error > harm * deviation or not _quicker(content, node, inputs[node.name]):
                better.append(node.name)
    return better


@contextmanager
def _prepared(path: Path) -> Iterator[Path]:
    """The graph made ready for quantization, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        whole, prepared = Path(folder) / "whole.onnx", Path(folder) / "prepared.onnx"
        onnx.save(onnx.load(path), whole)  # the preparation loses sight of external data
        quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
        content = ONNXModel(onnx.load(prepared))
        content.replace_gemm_with_matmul()  # as the quantizer will do, under other names
        content.clean_initializers()
        onnx.save(content.model, prepared)
        yield prepared


def _weights(content: ModelProto) -> dict[str, np.ndarray]:
    """The weight (K, O) of every matrix product with a constant one, by the node's name."""
    constants = {tensor.name: tensor for tensor in content.graph.initializer if len(tensor.dims) == 2}
    products = [n for n in content.graph.node if n.op_type == "MatMul" and n.input[1] in constants]
    return {node.name: numpy_helper.to_array(constants[node.input[1]]) for node in products}


def _dense(content: ModelProto) -> list[NodeProto]:
    weights = _weights(content)
    return [node for node in content.graph.node if node.name in weights]


def _session(content: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(content: ModelProto, feed: Feed) -> np.ndarray:
    """The first output, the scores."""
    return _session(content).run(None, dict(feed))[0].astype("float64")


def _layer_inputs(content: ModelProto, feed: Feed) -> dict[str, np.ndarray]:
    """What each dense layer reads of a batch, by its name."""
    dense = _dense(content)
    watched = ModelProto()
    watched.CopyFrom(content)
    there = {output.name for output in content.graph.output}
    names = list(dict.fromkeys(node.input[0] for node in dense))
    given = {name: feed[name] for name in names if name in feed}
    inside = [name for name in names if name not in feed]
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inside if name not in there
    )
    values = given | dict(zip(inside, _session(watched).run(inside, dict(feed)), strict=True))
    return {node.name: values[node.input[0]] for node in dense}


def _quicker(content: ModelProto, node: NodeProto, x: np.ndarray) -> bool:
    """Whether the layer alone is clearly quicker in INT8 on this input, by the least time of several runs."""
    weight = _weights(content)[node.name]
    x = np.ascontiguousarray(x, dtype="float32")
    rows = [f"d{n}" for n in range(x.ndim - 1)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*rows, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*rows, weight.shape[1]])],
        [numpy_helper.from_array(np.ascontiguousarray(weight), "w")],
    )
    alone = helper.make_model(graph, opset_imports=content.opset_import, ir_version=content.ir_version)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        onnx.save(alone, path)
        int8 = _quantized(path, ["layer"], reduce_range=False)
    return _least_seconds(int8, x) < GAIN * _least_seconds(alone, x)


def _least_seconds(content: ModelProto, x: np.ndarray) -> float:
    session, seconds = _session(content), []
    for _ in range(RUNS):
        started = time.perf_counter()
        session.run(None, {"x": x})
        seconds.append(time.perf_counter() - started)
    return min(seconds)
