"""A recommender as ONNX graphs with raw columns in and scores out: vocabularies and catalogue are inside.

- the row form, `recommender`: raw columns by name, one value (or list) per row; output `score` (batch,).
- the request form, `ranker`: one user in one scene, and `candidates` (N,) by key; the items' columns come from the
  catalogue in the graph. Outputs `score` (N,) and `top`, the places of the best `k` candidates, best first.
- the retrieval form, `retriever`, for separable models: one user, without the `seen_items`; outputs `top_items` and
  `top_scores` of the best `k` of the whole catalogue, best first.
"""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import spox
import spox.opset.ai.onnx.v20 as op
import torch
from spox import Var
from torch import Tensor

from export.builder import OPSET, GraphBuilder
from export.catalogue import UNKNOWN, Catalogue
from export.columns import RawColumns, cut
from export.core import ready_core, request_core
from export.multiply_out import MultipliedDeepFM, multiply_out
from export.packed import ROW
from recsys.classical.fitted import Fitted
from recsys.data.batches import Batch
from recsys.data.encoders import Encoders
from recsys.models.base import Recommender
from recsys.schema import CONTEXT, PADDING, FeatureSchema, history_name

READY, BLOCK = 2**28, 65536  # bytes kept for what is known of items in advance; items computed at once
OUTSIDE = 2**25  # bytes of weights from which they lie in a file of their own
EXPORTER = "torch.onnx.export(dynamo=True)"


def recommender_graph(core: onnx.ModelProto, model: Recommender, encoders: Encoders) -> onnx.ModelProto:
    """The row form around a `row_core` of the model."""
    graph = GraphBuilder()
    packed = any(i.name == ROW for i in core.graph.input)
    feeds = RawColumns(graph, model.schema, encoders, model.reads, "batch").feeds(packed=packed)
    return graph.build(graph.inline(core, feeds))


def ranker_graph(
    model: Recommender, encoders: Encoders, catalogue: Catalogue, *, half: bool = False
) -> onnx.ModelProto:
    """The request form; `half` keeps in 16 bits what was computed of the catalogue's items in advance."""
    graph, schema = GraphBuilder(), model.schema
    columns = RawColumns(graph, schema, encoders, model.reads, 1).feeds(CONTEXT, histories=False)
    keys_N = graph.input("candidates", catalogue.keys.dtype.type, ("candidates",))
    past = [c for c in schema.histories if history_name(c.name) in model.reads]
    if past:
        raw_1L = graph.input(history_name(schema.item), catalogue.keys.dtype.type, (1, "length"))
        together = catalogue.places(op.concat([keys_N, op.reshape(raw_1L, op.const([-1]))], axis=0))
        place_N, place_L = cut(together, op.shape(keys_N))
        columns |= _past_items(graph, schema, catalogue, op.unsqueeze(place_L, op.const([0])))
    else:
        place_N = catalogue.places(keys_N)
    place_N = op.max([place_N, op.const(UNKNOWN)])
    core, items = _items(graph, model, catalogue, place_N, half=half)
    feeds = {f"context/{n}": v for n, v in columns.items()} | {f"item/{n}": v for n, v in items.items()}
    score_N = graph.inline(core, feeds)["score"]
    return graph.build({"score": score_N, "top": best(graph, score_N)})


def best(graph: GraphBuilder, value_N: Var) -> Var:
    """The places of the `k` greatest values, greatest first, the first of equal ones first."""
    count = op.min([graph.input("k", np.int64, (1,)), op.shape(value_N)])
    _, top_K = op.top_k(value_N, op.max([count, op.const([0])]))
    return top_K


def _items(
    graph: GraphBuilder, model: Recommender, catalogue: Catalogue, place_N: Var, *, half: bool
) -> tuple[onnx.ModelProto, dict[str, Var]]:
    """A core for requests, and what it takes of the items at some places of the catalogue."""
    ready = multiply_out(model)
    if isinstance(ready, MultipliedDeepFM) and (sums := ready_sums(ready, catalogue)) is not None:
        table = graph.weight("catalogue/sums", sums.astype("float16") if half else sums)
        return ready_core(ready, sums.shape[1]), {"sums": op.cast(op.gather(table, place_N), to=np.float32)}
    items = {"ids": catalogue.ids(graph, place_N)}
    items |= {"numbers": catalogue.numbers(graph, place_N)} if catalogue.side.numbers.shape[1] else {}
    return request_core(ready), items | {name: catalogue.tags(graph, name, place_N) for name in catalogue.side.tags}


def _past_items(graph: GraphBuilder, schema: FeatureSchema, catalogue: Catalogue, place_1L: Var) -> dict[str, Var]:
    """The histories by name: the columns of the last `length` items that are not missing."""
    assert schema.history is not None
    real_1L = op.greater_or_equal(place_1L, op.const(UNKNOWN))
    after_1L = op.cumsum(op.cast(real_1L, to=np.int64), op.const(1), reverse=1)
    keep_1L = op.and_(real_1L, op.less_or_equal(after_1L, op.const(schema.history.length)))
    keep_1L1 = op.unsqueeze(keep_1L, op.const([2]))
    place_1L = op.max([place_1L, op.const(UNKNOWN)])
    rows_1LF = op.where(keep_1L1, catalogue.ids(graph, place_1L), op.const(PADDING))
    fields = [c.name for c in schema.fields if c.role == "item"]
    lists = {}
    for column in schema.histories:
        if column.is_field:
            rows = op.gather(rows_1LF, op.const(fields.index(column.name)), axis=2)
        else:
            rows = op.where(keep_1L1, catalogue.tags(graph, column.name, place_1L), op.const(PADDING))
        lists[history_name(column.name)] = rows
    return lists


def retriever_graph(
    core: onnx.ModelProto, model: Recommender, encoders: Encoders, catalogue: Catalogue
) -> onnx.ModelProto:
    """The retrieval form around a `user_core` of a separable model: exact, over every item of the catalogue."""
    graph = GraphBuilder()
    columns = RawColumns(graph, model.schema, encoders, model.reads, 1).feeds(CONTEXT, histories=False)
    user_1K = graph.inline(core, {f"context/{name}": var for name, var in columns.items()})["vector"]
    items_KI = graph.weight("catalogue/vectors", item_vectors(model, catalogue).T.copy())
    logit_I = op.reshape(op.matmul(user_1K, items_KI), op.const([-1]))
    top_items, top_logit, _ = best_unseen(graph, catalogue, logit_I)
    return graph.build({"top_items": top_items, "top_scores": _to_score(model.schema, top_logit)})


def best_unseen(graph: GraphBuilder, catalogue: Catalogue, value_I: Var) -> tuple[Var, Var, Var]:
    """The `k` items with the greatest values that are not among the `seen_items`: their keys, values and places.

    `value_I`, float32, holds one of every item of the catalogue, in its order.
    """
    seen_S = catalogue.places(graph.input("seen_items", catalogue.keys.dtype.type, ("seen",)))
    place_S = op.max([seen_S, op.const(UNKNOWN)])
    never = op.const(np.array([-np.inf], dtype="float32"))
    masked = op.scatter_elements(op.concat([never, value_I], axis=0), place_S, op.expand(never, op.shape(place_S)))
    unseen = op.cast(op.greater(masked, op.const(np.float32(-np.inf))), to=np.int64)
    count = op.min([graph.input("k", np.int64, (1,)), op.reduce_sum(unseen, op.const([0]))])
    top_value, top_place = op.top_k(masked, op.max([count, op.const([0])]))
    keys = np.concatenate([catalogue.keys[:1], catalogue.keys])  # the first stands for no item and never comes out
    return op.gather(op.const(keys), top_place), top_value, top_place


def _to_score(schema: FeatureSchema, logit: Var) -> Var:
    """As `Recommender.to_score`."""
    if schema.label.kind != "rating":
        return op.sigmoid(logit)
    if schema.label.range is None:
        return logit
    low, high = (op.const(np.float32(bound)) for bound in schema.label.range)
    return op.clip(logit, low, high)


def item_vectors(model: Recommender, catalogue: Catalogue) -> np.ndarray:
    """The vectors (I, K) of all items of the catalogue for a separable model, float32."""
    return _of_items(model.item_vectors, catalogue)[1:]


def ready_sums(model: MultipliedDeepFM, catalogue: Catalogue) -> np.ndarray | None:
    """The `item_sums` (1 + I, K) of all items, an unknown one first; None where they would take over 256 MiB."""
    width = model.item_sums(catalogue.batch(slice(0, 1))).shape[1]
    return _of_items(model.item_sums, catalogue) if 4 * width * len(catalogue.side.ids) <= READY else None


@torch.no_grad()
def _of_items(compute: Callable[[Batch], Tensor], catalogue: Catalogue) -> np.ndarray:
    """What a model makes of the items of the catalogue, an unknown one first, (1 + I, K), float32."""
    starts = range(0, len(catalogue.side.ids), BLOCK)
    return np.concatenate([compute(catalogue.batch(slice(start, start + BLOCK))).numpy() for start in starts])


def save_graph(graph: onnx.ModelProto, path: Path, model: Recommender | Fitted) -> None:
    """Write a graph with its origin in the metadata."""
    origin = {
        "opset": str(OPSET),
        "exporter": f"spox {spox.__version__}" if isinstance(model, Fitted) else EXPORTER,
        "torch": torch.__version__,
        "recsys": importlib.metadata.version("recsys"),
        "model": model.name if isinstance(model, Fitted) else type(model).__name__,
    }
    onnx.helper.set_model_props(graph, origin)
    write_graph(graph, path)


def write_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Write a graph; weights of over 32 MiB go to `<name>.data` beside it, which ONNX Runtime maps and never copies."""
    outside = path.with_name(f"{path.name}.data")
    outside.unlink(missing_ok=True)  # onnx would write behind what is there
    size = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    onnx.save_model(
        graph, path, save_as_external_data=size > OUTSIDE, location=outside.name, size_threshold=OUTSIDE // 32
    )


def open_graph(path: Path, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """A CPU session of a graph; `threads` 0 uses every core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
