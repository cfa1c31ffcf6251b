"""A recommender as one ONNX graph: encoded columns in, score out.

Inputs: `ids` int64 (batch, F), `numbers` float32 (batch, N) and the lists of a batch by name, int64 (batch, length)
or (batch, length, tags); those that the model does not read are left out. Output: `score` float32 (batch,). Ids that
lie outside a column's rows reach that column's unseen row inside the graph.
"""

import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from recsys.data.batches import Batch
from recsys.models.base import Recommender
from recsys.schema import PADDING, FeatureSchema, history_name

log = logging.getLogger(__name__)
OPSET = 20
TOLERANCE = 1e-5
CHECKED_BATCHES = (1, 2, 7, 512)


class ScoringGraph(nn.Module):
    """The model behind flat tensor inputs, with ids clamped to their column's rows."""

    low_F: Tensor
    high_F: Tensor

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.model = model
        schema = model.schema
        bounds = [_bounds(schema, c.name) for c in schema.fields]
        self.register_buffer("low_F", torch.tensor([low for low, _ in bounds]))
        self.register_buffer("high_F", torch.tensor([high for _, high in bounds]))
        self.list_bounds = {name: _bounds(schema, column) for name, column in list_columns(schema).items()}

    def forward(self, ids: Tensor, numbers: Tensor, lists: list[Tensor]) -> Tensor:
        """Scores (B,)."""
        inside = (ids >= self.low_F) & (ids <= self.high_F)
        named = zip(self.list_bounds.items(), lists, strict=True)
        clamped = {name: _clamp_list(values, *bounds) for (name, bounds), values in named}
        label_B = torch.zeros(ids.shape[0], device=ids.device)
        return self.model.score(Batch(torch.where(inside, ids, self.low_F), numbers, clamped, label_B))


def list_columns(schema: FeatureSchema) -> dict[str, str]:
    """The lists of a batch and the column whose rows each one uses, in the graph's input order."""
    return {c.name: c.name for c in schema.tags} | {history_name(c.name): c.name for c in schema.histories}


def _bounds(schema: FeatureSchema, column: str) -> tuple[int, int]:
    low = schema.offset(column)
    return low, low + schema.size(column) - 1


def _clamp_list(values: Tensor, low: int, high: int) -> Tensor:
    inside = (values == PADDING) | ((values >= low) & (values <= high))
    return torch.where(inside, values, low)


def example_batch(schema: FeatureSchema, rows: int, length: int, *, seed: int = 0, outside: bool = False) -> Batch:
    """Random ids inside every column's rows (with `outside`, a third of them beyond), histories of `length` items.

    Rows of one batch differ in how many of the `length` places they fill. `length` 0 is one place of padding, the
    form of an empty history.
    """
    rng = np.random.default_rng(seed)

    def draw(column: str, shape: tuple[int, ...]) -> np.ndarray:
        low, high = _bounds(schema, column)
        ids = rng.integers(low, high + 1, shape)
        wild = rng.choice(np.array([-(2**40), -1, schema.rows, 2**40]), shape)
        return np.where(outside & (rng.random(shape) < 1 / 3), wild, ids)

    ids_BF = np.stack([draw(c.name, (rows,)) for c in schema.fields], 1)
    lists = {c.name: _ragged(draw(c.name, (rows, c.length)), rng) for c in schema.tags}
    for column in schema.histories:
        tail = () if column.is_field else (column.length,)
        values = draw(column.name, (rows, max(1, length), *tail))
        lists[history_name(column.name)] = _ragged(values, rng) if length else np.zeros_like(values)
    numbers_BN = rng.standard_normal((rows, len(schema.numbers))).astype("float32")
    return Batch(
        torch.from_numpy(ids_BF),
        torch.from_numpy(numbers_BN),
        {name: torch.from_numpy(values) for name, values in lists.items()},
        torch.zeros(rows),
    )


def _ragged(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blank a random tail of every list; the first row stays full."""
    used = rng.integers(0, values.shape[1] + 1, len(values))
    used[0] = values.shape[1]
    keep = np.arange(values.shape[1]) < used[:, None]
    return np.where(keep.reshape(*keep.shape, *(1,) * (values.ndim - 2)), values, PADDING)


def feed(batch: Batch) -> dict[str, np.ndarray]:
    """A batch as the graph's inputs by name."""
    lists = {name: ids.numpy() for name, ids in batch.lists.items()}
    return {"ids": batch.ids_BF.numpy(), "numbers": batch.numbers_BN.numpy(), **lists}


def export_graph(model: Recommender, path: Path) -> float:
    """Write the model's graph to `path` and return the greatest difference to the model's own scores.

    The graph is checked at batch sizes 1, 2, 7 and 512 with histories of 0, 1 and the full length and with ids
    outside the tables. Raises ValueError when a score differs by more than 1e-5; then no file is written.
    """
    model = model.to("cpu").eval()
    graph = ScoringGraph(model).eval()
    history = model.schema.history.length if model.schema.history else 1
    batch = example_batch(model.schema, rows=3, length=max(2, history))
    names = list(list_columns(model.schema))
    rows = torch.export.Dim("batch", min=1)
    length = torch.export.Dim("length", min=1)
    shapes = {
        "ids": {0: rows},
        "numbers": {0: rows},
        "lists": [{0: rows, 1: length} if name.startswith("history.") else {0: rows} for name in names],
    }
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        _export(graph, (batch.ids_BF, batch.numbers_BN, [batch.lists[n] for n in names]), shapes, names, draft)
        _drop_unread_inputs(draft)
        difference = parity(model, draft)
        if difference > TOLERANCE:
            raise ValueError(f"the exported graph differs from the model by {difference:.2e}, more than {TOLERANCE}.")
        draft.replace(path)
    return difference


def _export(graph: nn.Module, inputs: tuple, shapes: dict, names: list[str], path: Path) -> None:
    """The dynamo exporter (which has no fallback); its progress and internal warnings are not the user's business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            inputs,
            path,
            input_names=["ids", "numbers", *names],
            output_names=["score"],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _drop_unread_inputs(path: Path) -> None:
    """Leave out inputs that no node reads, such as histories in a model without attention."""
    content = onnx.load(path)
    read = {name for node in content.graph.node for name in node.input}
    for unread in [i for i in content.graph.input if i.name not in read]:
        content.graph.input.remove(unread)
    onnx.save(content, path)


def open_graph(path: Path, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """A CPU session of an exported graph; `threads` 0 uses every core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_graph(session: onnxruntime.InferenceSession, batch: Batch) -> np.ndarray:
    """Scores (B,) of a batch; inputs that the graph does not read are left out."""
    wanted = {i.name for i in session.get_inputs()}
    return session.run(["score"], {name: value for name, value in feed(batch).items() if name in wanted})[0]


def parity(model: Recommender, path: Path) -> float:
    """The greatest absolute difference of scores between the model and its graph over the checked batches."""
    session = open_graph(path)
    lengths = (0, 1, model.schema.history.length) if model.schema.history else (0,)
    worst = 0.0
    for number, (rows, length) in enumerate((r, n) for r in CHECKED_BATCHES for n in lengths):
        for outside in (False, True):
            batch = example_batch(model.schema, rows, length, seed=number, outside=outside)
            clean = clamp(model.schema, batch)
            with torch.no_grad():
                expected = model.score(clean).numpy()
            worst = max(worst, float(np.abs(run_graph(session, batch) - expected).max()))
    return worst


def clamp(schema: FeatureSchema, batch: Batch) -> Batch:
    """The batch as the graph should understand it: ids outside a column's rows replaced by its unseen row."""
    ids_BF = batch.ids_BF.clone()
    for position, column in enumerate(schema.fields):
        low, high = _bounds(schema, column.name)
        ids = ids_BF[:, position]
        ids[(ids < low) | (ids > high)] = low
    lists = {name: _clamp_list(batch.lists[name], *_bounds(schema, c)) for name, c in list_columns(schema).items()}
    return Batch(ids_BF, batch.numbers_BN, lists, batch.label_B)
