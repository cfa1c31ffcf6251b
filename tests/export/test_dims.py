"""Shortened embedding vectors: dimensions that say nothing go first and cost nothing."""

import functools

import pytest
import torch
from torch import Tensor

from export.core import example_batch, row_core, row_inputs
from export.dims import prune_dims
from export.prune import prune_hidden
from recsys.data.batches import Batch
from recsys.models.base import Recommender
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.mf import MF
from recsys.schema import FeatureSchema

MODELS = {
    "deepfm": functools.partial(DeepFM, hidden=[32, 24]),
    "deepfm-history": functools.partial(DeepFM, hidden=[16], history=True, batch_norm=True),
    "din": functools.partial(DIN, hidden=[32], attention_hidden=[24, 16]),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, schema: FeatureSchema) -> Recommender:
    torch.manual_seed(0)
    return MODELS[request.param](schema, embedding_dim=24).eval()


def batches(schema: FeatureSchema) -> list[Batch]:
    return [example_batch(schema, rows=100, length=5, seed=seed) for seed in range(2)]


def logits(model: Recommender, schema: FeatureSchema) -> Tensor:
    with torch.no_grad():
        return model(example_batch(schema, rows=300, length=6, seed=7))


def shrink(model: Recommender, dims: list[int], to: float) -> None:
    """Let some dimensions of all vectors say less."""
    with torch.no_grad():
        model.embedding.table.weight[:, dims] *= to
        model.embedding.number[:, dims] *= to


def test_all_dimensions_kept_leaves_every_weight_alone(model, schema):
    pruned = prune_dims(model, batches(schema), 1.0)
    assert pruned is not model
    for (name, a), (_, b) in zip(model.state_dict().items(), pruned.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_dimensions_that_say_nothing_go_first_and_cost_nothing(model, schema):
    silent = [0, 3, 4, 9, 17, 18, 22, 23]
    shrink(model, silent, 0.0)
    pruned = prune_dims(model, batches(schema), 2 / 3)
    assert pruned.hparams["embedding_dim"] == 16
    left = [dim for dim in range(24) if dim not in silent]
    assert torch.equal(pruned.embedding.table.weight, model.embedding.table.weight[:, left])
    torch.testing.assert_close(logits(pruned, schema), logits(model, schema), atol=1e-5, rtol=1e-5)


def test_of_speaking_dimensions_the_quietest_go(model, schema):
    quiet, silent = [1, 2, 8, 11, 12, 13, 20, 21], [0, 3, 4, 9, 17, 18, 22, 23]
    shrink(model, quiet, 0.01)
    shrink(model, silent, 0.0)
    pruned = prune_dims(model, batches(schema), 1 / 3)
    left = [dim for dim in range(24) if dim not in quiet + silent]
    assert torch.equal(pruned.embedding.table.weight, model.embedding.table.weight[:, left])


def test_the_pruned_model_is_whole(model, schema, run_core):
    model.set_training(schedule="linear", warmup=0.1)
    pruned = prune_hidden(prune_dims(model, batches(schema), 1 / 3), batches(schema), 0.5)
    assert type(pruned) is type(model)
    assert (pruned.schedule, pruned.warmup) == ("linear", 0.1)
    again = type(pruned)(**pruned.hparams)
    again.load_state_dict(pruned.state_dict())
    assert torch.equal(logits(again.eval(), schema), logits(pruned, schema))
    batch = batches(schema)[0]
    found_B = run_core(row_core(pruned), (row_inputs(pruned), batch))
    torch.testing.assert_close(torch.from_numpy(found_B), pruned.score(batch).detach(), atol=1e-5, rtol=0)


def test_mistakes_are_named(model, schema):
    with pytest.raises(ValueError, match="share of the embedding dimensions"):
        prune_dims(model, batches(schema), 0.0)
    with pytest.raises(ValueError, match="`batches` is empty"):
        prune_dims(model, [], 0.5)
    with pytest.raises(ValueError, match="MF has no vectors of features"):
        prune_dims(MF(schema), batches(schema), 0.5)
