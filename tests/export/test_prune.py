"""Pruned hidden units: dead, constant and duplicate ones cost nothing, and the rest is chosen well."""

import functools
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from export.core import example_batch, row_core, row_inputs
from export.prune import brain_surgeon, hidden_layers, narrower, prune_hidden
from recsys.data.batches import Batch
from recsys.layers.mlp import Dice
from recsys.models.base import Recommender
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.mf import MF
from recsys.models.ncf import NCF
from recsys.models.objectives import BPR
from recsys.schema import FeatureSchema

MODELS = {
    "deepfm": functools.partial(DeepFM, hidden=[32, 24]),
    "deepfm-batch_norm": functools.partial(DeepFM, hidden=[32, 24], batch_norm=True, dropout=0.2),
    "ncf": functools.partial(NCF, hidden=[32, 16]),
    "ncf-mlp": functools.partial(NCF, hidden=[32, 16], branch="mlp"),
    "din": functools.partial(DIN, hidden=[32, 24], attention_hidden=[24, 16]),
    "din-prelu": functools.partial(DIN, hidden=[32, 24], attention_hidden=[24, 16], activation="prelu"),
    "din-softmax": functools.partial(
        DIN, hidden=[32, 24], attention_hidden=[24], activation="relu", softmax=True, dropout=0.2
    ),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, schema: FeatureSchema) -> Recommender:
    """A model with random values everywhere, running statistics included."""
    torch.manual_seed(0)
    model = MODELS[request.param](schema)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.rpartition(".")[2] in ("alpha", "running_mean", "bias"):
                tensor.normal_(0, 0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
    return model.eval()


def batches(schema: FeatureSchema, seeds: range = range(4)) -> list[Batch]:
    return [example_batch(schema, rows=200, length=5, seed=seed) for seed in seeds]


def logits(model: Recommender, schema: FeatureSchema) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in batches(schema, range(10, 14))])


def kill(model: Recommender, schema: FeatureSchema, dead: float) -> None:
    """Let that share of the units of every layer (the last ones) say nothing: no one reads them."""
    state = model.state_dict()
    for layer in hidden_layers(model, batches(schema)[0]):
        width = len(state[f"{layer.makers[0]}.weight"])
        state[f"{layer.reader}.weight"][:, layer.first + width - round(width * dead) : layer.first + width] = 0.0


def test_all_units_kept_leaves_every_weight_alone(model, schema):
    pruned = prune_hidden(model, batches(schema), 1.0)
    assert pruned is not model
    for (name, a), (_, b) in zip(model.state_dict().items(), pruned.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_units_that_no_one_reads_go_first_and_cost_nothing(model, schema):
    kill(model, schema, 0.5)
    expected = logits(model, schema)
    pruned = prune_hidden(model, batches(schema), 0.5)
    assert pruned.hparams["hidden"] == [narrower(width, 0.5) for width in model.hparams["hidden"]]
    torch.testing.assert_close(logits(pruned, schema), expected, atol=1e-4, rtol=1e-4)


def test_duplicate_units_go_first_and_cost_nothing(schema):
    torch.manual_seed(0)
    model = DeepFM(schema, hidden=[16, 16], batch_norm=True).eval()
    with torch.no_grad():
        for n in (0, 3):
            model.mlp[n].bias.fill_(0.5)  # no unit may be all but dead
            model.mlp[n].weight[8:], model.mlp[n].bias[8:] = model.mlp[n].weight[:8], model.mlp[n].bias[:8]
    pruned = prune_hidden(model, batches(schema), 0.5)
    assert pruned.hparams["hidden"] == [8, 8]
    torch.testing.assert_close(logits(pruned, schema), logits(model, schema), atol=1e-4, rtol=1e-4)


def test_constant_units_become_the_next_layers_bias(schema):
    torch.manual_seed(0)
    model = DeepFM(schema, hidden=[16, 16]).eval()
    with torch.no_grad():
        model.mlp[0].weight[8:], model.mlp[0].bias[8:] = 0.0, 3.0
        model.out.weight[:, 8:] = 0.0
    pruned = prune_hidden(model, batches(schema), 0.5)
    torch.testing.assert_close(logits(pruned, schema), logits(model, schema), atol=1e-3, rtol=1e-3)


def test_the_pruned_model_is_whole(model, schema):
    pruned = prune_hidden(model, batches(schema), 0.5)
    assert type(pruned) is type(model)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters())
    assert all(type(width) is int and width % 8 == 0 for width in pruned.hparams["hidden"])
    again = type(pruned)(**pruned.hparams)
    again.load_state_dict(pruned.state_dict())
    assert torch.equal(logits(again.eval(), schema), logits(pruned, schema))


@pytest.mark.parametrize("model", ["deepfm-batch_norm", "ncf", "din"], indirect=True)
def test_the_pruned_model_is_exported(model, schema, run_core):
    pruned, batch = prune_hidden(model, batches(schema), 0.5), example_batch(schema, rows=64, length=5)
    expected_B = pruned.score(batch).detach().numpy()
    np.testing.assert_allclose(run_core(row_core(pruned), (row_inputs(pruned), batch)), expected_B, atol=1e-5)


def test_running_statistics_follow_their_units(schema):
    torch.manual_seed(0)
    model = DIN(schema, hidden=[16], attention_hidden=[16]).eval()
    for module in model.modules():
        if isinstance(module, Dice):
            module.running_mean.copy_(torch.arange(16.0))
            module.alpha.data.copy_(torch.arange(16.0) / 16)
    pruned = prune_hidden(model, batches(schema), 0.5)
    for (name, module), old in zip(pruned.named_modules(), model.modules(), strict=True):
        if isinstance(module, Dice):
            kept = module.running_mean.long()
            assert len(kept) == 8
            assert torch.equal(module.alpha, old.alpha[kept]), name
    kept = pruned.mlp[1].running_mean.long()
    assert torch.equal(pruned.mlp[0].weight, model.mlp[0].weight[kept])


def test_training_settings_carry_over(schema):
    optimizer = functools.partial(torch.optim.AdamW, lr=0.3)
    model = DeepFM(schema, hidden=[16], optimizer=optimizer, schedule="cosine", warmup=0.1, embedding_weight_decay=0.2)
    pruned = prune_hidden(model, batches(schema), 0.5)
    assert (pruned.optimizer, pruned.schedule, pruned.warmup) == (optimizer, "cosine", 0.1)
    assert pruned.embedding_weight_decay == 0.2
    implicit = FeatureSchema.parse({**schema.to_dict(), "label": {"kind": "implicit"}})
    objective = BPR()
    assert prune_hidden(DeepFM(implicit, hidden=[16], objective=objective), batches(schema), 0.5).objective is objective


def test_the_surgeon_finds_the_best_pair_of_units():
    """Against all subsets, each with its own least-squares fit."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6))
        w = rng.standard_normal((3, 6))
        kept, fitted = brain_surgeon(torch.from_numpy(w), torch.from_numpy(x.T @ x), 6, 1)

        def error(columns: tuple[int, ...], x: np.ndarray = x, w: np.ndarray = w) -> float:
            at = list(columns)
            return float(np.square(x @ w.T - x[:, at] @ np.linalg.lstsq(x[:, at], x @ w.T, rcond=None)[0]).sum())

        best = min(itertools.combinations(range(6), 5), key=error)
        assert tuple(kept.tolist()) == best
        found = np.square(x @ w.T - x[:, list(best)] @ fitted.numpy().T).sum()
        assert found == pytest.approx(error(best), rel=1e-3)


def test_models_without_hidden_layers_are_refused_by_name(schema):
    for model in (MF(schema), NCF(schema, branch="gmf"), DeepFM(schema, hidden=[])):
        with pytest.raises(ValueError, match=f"{type(model).__name__} has no hidden layers"):
            prune_hidden(model, batches(schema), 0.5)


def test_missing_calibration_rows_and_impossible_shares_are_refused(schema):
    model = DeepFM(schema, hidden=[16])
    with pytest.raises(ValueError, match="`batches` is empty"):
        prune_hidden(model, [], 0.5)
    for keep in (0.0, 1.5, -1):
        with pytest.raises(ValueError, match=r"`keep` must be .* got"):
            prune_hidden(model, batches(schema), keep)
