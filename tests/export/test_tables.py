"""Tables that are stored small: how far their rows may move, and what they become in a graph."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from export.core import example_batch, row_core, row_inputs
from export.tables import Int8Table, ScalarTable, quantize_tables
from recsys.layers.embedding import Table
from recsys.models.base import Recommender
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.mf import MF
from recsys.models.ncf import NCF
from recsys.schema import PADDING, FeatureSchema

MODELS = [MF, NCF, DeepFM, DIN]


def table(weight: torch.Tensor) -> Table:
    made = Table(*weight.shape, [], std=0.0, sparse=False, l2=0.0)
    with torch.no_grad():
        made.weight.copy_(weight)
    return made.eval()


@given(st.integers(0, 2**31), st.floats(-6, 4))
@settings(max_examples=50, deadline=None)
def test_every_value_moves_by_half_a_step_of_its_own_row_at_most(seed, magnitude):
    rng = np.random.default_rng(seed)
    scale_R1 = 10.0 ** (magnitude + rng.uniform(-1, 1, (40, 1)))
    weight = torch.from_numpy((rng.standard_normal((40, 8)) * scale_R1).astype("float32"))
    moved = (Int8Table(weight)(torch.arange(40)) - weight).abs()
    step = weight.abs().amax(1, keepdim=True) / 127
    coarse = 2.0**-24  # the least float16, from which scales of tiny rows are made
    assert (moved <= 0.5 * (step * (1 + 2**-10) + coarse) * (1 + 1e-5)).all()


def test_rare_rows_keep_their_detail_beside_large_ones():
    weight = torch.stack([torch.full((8,), 100.0), torch.linspace(-0.01, 0.01, 8)])
    assert len(Int8Table(weight)(torch.tensor([1])).unique()) == 8


def test_rows_of_zeros_stay_zeros():
    assert not Int8Table(torch.zeros(3, 4))(torch.tensor([0, 2])).any()


@pytest.mark.parametrize("dim", [1, 5])
def test_the_same_interface_as_a_table(dim):
    weight = torch.randn(9, dim)
    weight[0] = 0.0
    full, small = table(weight), Int8Table(weight) if dim > 1 else ScalarTable(weight[:, 0])
    ids = torch.tensor([[[1, 2, 0], [0, 0, 0]], [[8, 8, 3], [4, 0, 0]]])
    assert small.embedding_dim == dim
    for name in ("__call__", "mean"):
        a, b = getattr(small, name)(ids), getattr(full, name)(ids)
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, atol=0.02, rtol=0)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, schema: FeatureSchema) -> Recommender:
    torch.manual_seed(0)
    model = request.param(schema)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Table):
                module.weight[PADDING] = 0.0
    return model.eval()


def test_scores_hardly_move_and_the_model_stays_as_it_was(model, schema):
    batch = example_batch(schema, rows=200, length=5)
    with torch.no_grad():
        before, small = model(batch), quantize_tables(model)
        moved = small(batch) - before
        assert torch.equal(model(batch), before)
    assert 0 < moved.abs().max() < 0.1 * before.std()
    assert not [module for module in small.modules() if isinstance(module, Table)]


def test_the_graph_holds_int8_and_plain_look_ups(model, schema, run_core):
    small, batch = quantize_tables(model), example_batch(schema, rows=64, length=5)
    content = row_core(small)
    expected_B = small.score(batch).detach().numpy()
    np.testing.assert_allclose(run_core(content, (row_inputs(small), batch)), expected_B, atol=1e-5)
    types = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in content.graph.initializer}
    tables = [shape for kind, shape in types.values() if kind == TensorProto.INT8]
    assert sorted(tables) == sorted(
        tuple(m.weight.shape) for m in model.modules() if isinstance(m, Table) and m.embedding_dim > 1
    )
    rows = {shape[0] for shape in tables}
    assert not [shape for kind, shape in types.values() if kind == TensorProto.FLOAT and shape and shape[0] in rows]
    int8 = {name for name, (kind, _) in types.items() if kind == TensorProto.INT8}
    found = [node for node in content.graph.node if int8 & set(node.input)]
    readers = {node.op_type for node in content.graph.node for look_up in found if look_up.output[0] in node.input}
    assert ({node.op_type for node in found}, readers) == ({"Gather"}, {"DequantizeLinear"})
    kinds = {node.op_type for node in content.graph.node}
    assert not {"EmbeddingBag", "Loop", "If", "Scan"} & kinds
    assert not [kind for kind in kinds if "Sequence" in kind]


def test_the_file_is_about_a_quarter(schema):
    wide = FeatureSchema.parse({**schema.to_dict(), "sizes": {**schema.sizes, "user": 30_000}})
    for model_class, most in ((MF, 0.28), (DeepFM, 0.33)):
        model = model_class(wide, hidden=[8]) if model_class is DeepFM else model_class(wide)
        tables = sum(module.weight.nbytes for module in model.modules() if isinstance(module, Table))
        assert len(row_core(quantize_tables(model)).SerializeToString()) < most * tables
