"""A trained model as ONNX cores, the part of a graph behind the raw columns: encoded batches in, scores out.

Three forms: rows (a batch of events), requests (one user in one scene and N items) and the user's vector alone.
Exported by torch's dynamo exporter, which has no fallback.
"""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.export import Dim

from export.builder import OPSET
from export.fold import fold_weights
from export.multiply_out import MultipliedDeepFM, multiply_out
from export.packed import PLACES, ROW, PackedDIN, pack
from recsys.data.batches import Batch
from recsys.data.request import split
from recsys.models.base import Recommender
from recsys.models.din import DIN
from recsys.schema import CONTEXT, ITEM, PADDING, ROLES, FeatureSchema, Role, history_name

LARGE = 1_500_000_000  # bytes of weights from which they are kept in a file of their own


@dataclass(frozen=True, slots=True)
class Inputs:
    """The tensors of a batch with the columns of some roles that a model reads, by the names they have in a core."""

    model: Recommender
    roles: Sequence[Role] = ROLES
    prefix: str = ""

    @property
    def schema(self) -> FeatureSchema:
        """The model's."""
        return self.model.schema

    @property
    def lists(self) -> list[str]:
        """The lists of the batch: tags of these roles, and histories, which belong to the user."""
        tags = [c.name for c in self.schema.tags if c.role in self.roles]
        past = [history_name(c.name) for c in self.schema.histories] if "user" in self.roles else []
        return [name for name in (*tags, *past) if name in self.model.reads]

    @property
    def numbers(self) -> int:
        """The number columns of these roles."""
        return sum(c.role in self.roles and c.name in self.model.reads for c in self.schema.numbers)

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        """The batch's tensors by name."""
        named = {"ids": batch.ids_BF} | ({"numbers": batch.numbers_BN} if self.numbers else {})
        named |= {name: batch.lists[name] for name in self.lists}
        return {self.prefix + name: tensor for name, tensor in named.items()}

    def batch(self, tensors: dict[str, Tensor]) -> Batch:
        """The batch of these tensors, without labels."""
        ids_BF = tensors[self.prefix + "ids"]
        none = torch.zeros(ids_BF.shape[0], 0)
        numbers_BN = tensors[self.prefix + "numbers"] if self.numbers else none
        return Batch(ids_BF, numbers_BN, {name: tensors[self.prefix + name] for name in self.lists}, none)

    def dims(self, rows: Dim | None) -> dict[str, dict[int, Dim]]:
        """The dynamic dimensions of each tensor; without `rows` there is one row."""
        shapes: dict[str, dict[int, Dim]] = {name: {} for name in ("ids", *["numbers"] * bool(self.numbers))}
        length = Dim("length", min=1)
        shapes |= {c.name: {1: Dim(f"tags_{n}", min=1)} for n, c in enumerate(self.schema.tags) if c.name in self.lists}
        for n, column in enumerate(c for c in self.schema.histories if history_name(c.name) in self.lists):
            more = {} if column.is_field else {2: Dim(f"history_tags_{n}", min=1)}
            shapes[history_name(column.name)] = {1: length, **more}
        first = {} if rows is None else {0: rows}
        return {self.prefix + name: {**first, **dims} for name, dims in shapes.items()}


@dataclass(frozen=True, slots=True)
class PackedInputs(Inputs):
    """The same of a batch with packed histories."""

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        """The packed batch's tensors by name."""
        packed = pack(batch, self.schema)
        return {**Inputs.tensors(self, packed), ROW: packed.lists[ROW]}

    def batch(self, tensors: dict[str, Tensor]) -> Batch:
        """The packed batch of these tensors, without labels."""
        batch = Inputs.batch(self, tensors)
        return replace(batch, lists=batch.lists | {ROW: tensors[ROW]})

    def dims(self, rows: Dim | None) -> dict[str, dict[int, Dim]]:
        """The dynamic dimensions of each tensor."""
        shapes, places = Inputs.dims(self, rows), PLACES * Dim("places", min=1)
        for column in self.schema.histories:
            name = history_name(column.name)
            shapes[name] = {0: places, **{n - 1: dim for n, dim in shapes[name].items() if n > 1}}
        return {**shapes, ROW: {0: places}}


@dataclass(frozen=True, slots=True)
class ReadyItems:
    """What is known of N items in advance, (N, K), as a core's input `item/sums`."""

    width: int

    def tensors(self, sums_NK: Tensor) -> dict[str, Tensor]:
        """The tensor by its name."""
        return {"item/sums": sums_NK}

    def batch(self, tensors: dict[str, Tensor]) -> Tensor:
        """The tensor."""
        return tensors["item/sums"]

    def dims(self, rows: Dim | None) -> dict[str, dict[int, Dim]]:
        """Its dynamic dimension."""
        return {"item/sums": {} if rows is None else {0: rows}}


class _Form(nn.Module):
    """A function of batches as a module over the tensors of `inputs`, in their order."""

    def __init__(
        self, model: Recommender, compute: Callable[..., Tensor], inputs: Sequence[Inputs | ReadyItems]
    ) -> None:
        super().__init__()
        self.model, self.compute, self.inputs = model, compute, inputs

    def forward(self, tensors: list[Tensor]) -> Tensor:
        """Whatever the function returns."""
        names = [name for part in self.inputs for name in part.dims(None)]
        named = dict(zip(names, tensors, strict=True))
        return self.compute(*(part.batch(named) for part in self.inputs))


def row_core(model: Recommender) -> onnx.ModelProto:
    """`score` (B,) of the rows of a batch."""
    ready, inputs = multiply_out(model), row_inputs(model)
    compute = ready.score_packed if isinstance(ready, PackedDIN) else ready.score
    example = example_batch(model.schema, 100)  # of far more than `PLACES` past items: one times it would stay so
    return _export(ready, compute, [(inputs, example, Dim("batch", min=1))], "score")


def row_inputs(model: Recommender) -> "Inputs":
    """What the `row_core` of a model takes."""
    return PackedInputs(model) if isinstance(model, DIN) else Inputs(model)


def request_core(ready: Recommender) -> onnx.ModelProto:
    """`score` (N,) of N items, inputs `item/...`, for one user in one scene, inputs `context/...`.

    `ready` is a model multiplied out.
    """
    context, items = split(example_batch(ready.schema, 3), ready.schema)
    inputs = [
        (Inputs(ready, CONTEXT, "context/"), context, None),
        (Inputs(ready, ITEM, "item/"), items, Dim("candidates", min=1)),
    ]
    return _export(ready, ready.score_candidates, inputs, "score")


def ready_core(ready: MultipliedDeepFM, width: int) -> onnx.ModelProto:
    """`score` (N,) of N items of which the `item_sums` are known, (N, `width`), for one user in one scene."""
    context, _ = split(example_batch(ready.schema, 3), ready.schema)
    items = (ReadyItems(width), torch.zeros(3, width), Dim("candidates", min=1))
    return _export(ready, ready.score_ready, [(Inputs(ready, CONTEXT, "context/"), context, None), items], "score")


def user_core(model: Recommender) -> onnx.ModelProto:
    """`vector` (1, K) of a separable model's user, inputs `context/...`."""
    context, _ = split(example_batch(model.schema, 3), model.schema)
    return _export(model, model.user_vector, [(Inputs(model, CONTEXT, "context/"), context, None)], "vector")


def _export(
    model: Recommender,
    compute: Callable[..., Tensor],
    parts: Sequence[tuple[Inputs | ReadyItems, Any, Dim | None]],
    output: str,
) -> onnx.ModelProto:
    form = _Form(model, compute, [inputs for inputs, _, _ in parts]).eval()
    tensors = {n: t for inputs, batch, _ in parts for n, t in inputs.tensors(batch).items()}
    dims = {n: d for inputs, _, rows in parts for n, d in inputs.dims(rows).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's internal warnings are not the user's business
        program = torch.onnx.export(
            form,
            ([tensors[name] for name in dims],),
            input_names=list(dims),
            output_names=[output],
            dynamic_shapes={"tensors": list(dims.values())},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # the exporter notes which line of which file made each node
    fold_weights(program)
    core = _as_proto(program)
    read = {name for node in core.graph.node for name in node.input}
    for unread in [i for i in core.graph.input if i.name not in read]:
        core.graph.input.remove(unread)
    return core


def _as_proto(program: torch.onnx.ONNXProgram) -> onnx.ModelProto:
    """The exported model in memory; a file serves where it is too large for one message."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "core.onnx"
        weights = program.model.graph.initializers.values()
        program.save(path, external_data=sum(w.const_value.nbytes for w in weights if w.const_value) > LARGE)
        return onnx.load(path)


def example_batch(schema: FeatureSchema, rows: int, length: int | None = None, *, seed: int = 0) -> Batch:
    """Random ids inside every column's rows, with histories of `length` items (by default the schema's).

    Rows of one batch differ in how many of the `length` places they fill. `length` 0 is one place of padding, the
    form of an empty history.
    """
    rng = np.random.default_rng(seed)
    if length is None:
        length = max(2, schema.history.length) if schema.history else 0

    def draw(column: str, shape: tuple[int, ...]) -> np.ndarray:
        low = schema.offset(column)
        return rng.integers(low, low + schema.size(column), shape)

    ids_BF = np.stack([draw(c.name, (rows,)) for c in schema.fields], 1)
    lists = {c.name: _ragged(draw(c.name, (rows, max(2, c.length))), rng) for c in schema.tags}
    for column in schema.histories:
        tail = () if column.is_field else (max(2, column.length),)
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
