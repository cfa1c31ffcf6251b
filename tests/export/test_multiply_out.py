"""Models multiplied out score as the models they came from, in rows and in requests, in torch and in the graph."""

import numpy as np
import pytest
import torch

from export.core import example_batch, row_core, row_inputs
from export.multiply_out import MultipliedDeepFM, WideDice, multiply_out
from recsys.data.request import split
from recsys.layers.mlp import Dice
from recsys.models.base import Recommender
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.mf import MF
from recsys.models.ncf import NCF
from recsys.schema import FeatureSchema

CASES = [
    (DeepFM, {"hidden": [16, 8]}),
    (DeepFM, {"hidden": [16], "batch_norm": True, "dropout": 0.2}),
    (DeepFM, {"hidden": []}),
    (DeepFM, {"hidden": [16], "history": True}),
    (DIN, {}),
    (MF, {}),
    (NCF, {}),
]


@pytest.fixture(params=[True, False], ids=["numbers", "no numbers"])
def columns(request: pytest.FixtureRequest, schema: FeatureSchema) -> FeatureSchema:
    """The schema with a number of the user and one of the item, or with none."""
    declared = schema.to_dict()
    kept = [c for c in declared["columns"] if c["name"] != "price"]
    more = [{"name": "income", "role": "user", "kind": "number"}, *(c for c in declared["columns"] if c not in kept)]
    return FeatureSchema.parse({**declared, "columns": [*kept, *more] if request.param else kept})


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}")
def model(request: pytest.FixtureRequest, columns: FeatureSchema) -> Recommender:
    torch.manual_seed(0)
    model = request.param[0](columns, **request.param[1])
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.3)
    return model.eval()


def test_rows_and_requests_score_the_same(model):
    ready = multiply_out(model)
    batch = example_batch(model.schema, rows=64, length=5)
    with torch.no_grad():
        torch.testing.assert_close(ready.score(batch), model.score(batch), atol=1e-5, rtol=0)
        parts = split(batch, model.schema)
        expected = model.score_candidates(*parts)
        torch.testing.assert_close(ready.score_candidates(*parts), expected, atol=1e-5, rtol=0)


def test_items_of_which_the_sums_are_known_score_the_same(model):
    ready = multiply_out(model)
    if not isinstance(ready, MultipliedDeepFM):
        pytest.skip("only a DeepFM with hidden layers is multiplied out")
    context, items = split(example_batch(model.schema, rows=64, length=5), model.schema)
    with torch.no_grad():
        expected = model.score_candidates(context, items)
        torch.testing.assert_close(ready.score_ready(context, ready.item_sums(items)), expected, atol=1e-5, rtol=0)


def test_the_model_stays_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kind = type(model)
    multiply_out(model)
    assert type(model) is kind
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_are_shared_not_copied(schema):
    model = DeepFM(schema)
    assert multiply_out(model).embedding.table.weight.data_ptr() == model.embedding.table.weight.data_ptr()


def test_batch_norm_is_a_part_of_the_layers_of_which_the_first_reads_no_numbers(schema, run_core):
    model = DeepFM(schema, hidden=[24, 8], batch_norm=True).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                torch.nn.init.uniform_(values, 0.5, 2.0)
    core, batch = row_core(model), example_batch(schema, rows=64, length=5)
    assert "BatchNormalization" not in {node.op_type for node in core.graph.node}
    assert len([tensor for tensor in core.graph.initializer if "running" in tensor.name]) == 0
    np.testing.assert_allclose(
        run_core(core, (row_inputs(model), batch)), model.score(batch).detach().numpy(), atol=1e-5
    )
    shapes = {tuple(sorted(tensor.dims)) for tensor in core.graph.initializer}
    looked_up = 16 * (len(schema.fields) + len(schema.tags))
    assert tuple(sorted((24, looked_up))) in shapes
    assert tuple(sorted((24, looked_up + 16 * len(schema.numbers)))) not in shapes


def test_a_dice_takes_all_places_at_once():
    torch.manual_seed(0)
    dice = Dice(5)
    dice(torch.randn(200, 5) * torch.arange(1, 6) + 3)  # which gives it moments
    torch.nn.init.normal_(dice.alpha)
    x_BLH = torch.randn(4, 7, 5)
    torch.testing.assert_close(WideDice(dice.eval())(x_BLH), dice(x_BLH))
