"""Training options, objectives and checkpoints."""

import functools
import math

import pytest
import pytorch_lightning as pl
import torch

from export.core import example_batch
from recsys.models.base import learning_rate_factor, load_model
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.mf import MF
from recsys.models.ncf import NCF
from recsys.models.objectives import BPR, Logistic, SampledSoftmax, SquaredError
from recsys.schema import FeatureSchema, Label


def with_label(schema: FeatureSchema, mean: float = 0.5, **label: object) -> FeatureSchema:
    return FeatureSchema.parse({**schema.to_dict(), "label": label, "label_mean": mean})


def test_bpr_is_minus_the_mean_log_sigmoid_of_the_margins():
    logit_B = torch.tensor([1.0, 0.0, 2.0, 0.5, 0.5, -1.0])
    margins = [1 - 0, 1 - 2, 0.5 - 0.5, 0.5 + 1]
    expected = -sum(math.log(1 / (1 + math.exp(-m))) for m in margins) / 4
    assert BPR()(logit_B, torch.zeros(6), 2).item() == pytest.approx(expected)


def test_sampled_softmax_is_the_positives_share():
    logit_B = torch.tensor([1.0, 0.0, 2.0])
    share = math.exp(1) / (math.exp(1) + math.exp(0) + math.exp(2))
    assert SampledSoftmax()(logit_B, torch.zeros(3), 2).item() == pytest.approx(-math.log(share))


def test_logistic_and_squared_error_are_means():
    logit_B, label_B = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    expected = (math.log(2) + math.log(1 + math.exp(2))) / 2
    assert Logistic()(logit_B, label_B, 1).item() == pytest.approx(expected)
    assert SquaredError()(logit_B, label_B, 1).item() == pytest.approx((1 + 4) / 2)


@pytest.mark.parametrize(
    ("kind", "objective"), [("rating", Logistic()), ("binary", BPR()), ("implicit", SquaredError())]
)
def test_an_objective_that_does_not_fit_the_label_is_refused(schema, kind, objective):
    with pytest.raises(ValueError, match=rf"does not fit labels of kind '{kind}'; use objective="):
        MF(with_label(schema, kind=kind, column="y"), objective=objective)


def test_bias_starts_at_the_label_mean(schema):
    binary = MF(with_label(schema, 0.2, kind="binary", column="y"))
    assert binary.bias.sigmoid().item() == pytest.approx(0.2)
    assert MF(with_label(schema, 3.6, kind="rating", column="y")).bias.item() == pytest.approx(3.6)


def test_rating_scores_stay_inside_the_range(schema):
    model = MF(with_label(schema, 9.0, kind="rating", column="y", range=[1, 5]))
    score_B = model.score(example_batch(schema, rows=4, length=1))
    assert score_B.tolist() == [5.0] * 4


def test_unseen_user_and_item_score_the_bias_alone(schema):
    model = MF(with_label(schema, 0.2, kind="binary", column="y")).eval()
    batch = example_batch(schema, rows=1, length=1)
    batch.ids_BF[:] = torch.tensor([schema.offset(c.name) for c in schema.fields])
    assert model.score(batch).item() == pytest.approx(0.2)


def test_the_loss_holds_the_penalty_once(schema):
    model = MF(schema, embedding_l2=0.5).train()
    model.log = lambda *_, **__: None
    batch = example_batch(schema, rows=3, length=1)
    losses = [model.training_step(batch, 0) for _ in range(2)]
    assert torch.equal(*losses)
    squares = sum(table(batch).square().sum() for table in (model.factors, model.biases))
    plain = model.objective(model(batch), batch.label_B, 4)
    torch.testing.assert_close(losses[0], plain + 0.5 * squares / 3)


@pytest.mark.parametrize("options", [{}, {"hidden": []}, {"sparse": True}, {"embedding_l2": 0.3}])
def test_deepfm_trains_on_the_same_logits_as_it_scores_by(every_role, options):
    """In training the vectors of numbers are never made."""
    torch.manual_seed(0)
    model = DeepFM(every_role, embedding_std=0.5, **options)
    batch = example_batch(every_role, rows=9, length=2)
    logits, grads = [], []
    for training in (True, False):
        model.train(training).zero_grad()
        logits.append(model(batch))
        logits[-1].square().sum().backward()
        grads.append([p.grad.to_dense() for p in model.parameters()])
    torch.testing.assert_close(logits[0], logits[1])
    for ours, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"schedule": "cosin"}, {"warmup": 1.0}, {"warmup": "x"}])
def test_bad_training_options_are_refused_by_name(schema, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        MF(schema, **options)


def test_ncf_refuses_an_unknown_branch(schema):
    with pytest.raises(ValueError, match="did you mean 'neumf'"):
        NCF(schema, branch="neumff")


def test_a_model_of_ids_needs_the_key_columns(schema):
    columns = {c["name"]: c for c in schema.to_dict()["columns"] if c["name"] != "user"}
    without = FeatureSchema.parse({**schema.to_dict(), "columns": list(columns.values())})
    with pytest.raises(ValueError, match="needs the key column 'user'"):
        MF(without)


def test_cosine_schedule_rises_then_falls_to_zero():
    factors = [learning_rate_factor("cosine", 0.2, step, 10) for step in range(11)]
    assert factors[:2] == [1 / 2, 1.0]
    assert factors[2:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * n / 8) for n in range(9)])


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_model(tmp_path / "absent.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_model(tmp_path / "text.ckpt")


def test_a_checkpoint_cannot_name_any_class(tmp_path):
    torch.save({"recsys_model": "os.path"}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="not a Recommender"):
        load_model(tmp_path / "evil.ckpt")


def test_label_kinds_that_rank():
    assert Label(kind="implicit").ranks
    assert not Label(kind="rating", column="y").ranks
    assert Label(kind="rating", column="y", positive_from=4.0).ranks


def test_sparse_gradients_are_clipped_like_dense_ones(schema):
    batch = example_batch(schema, rows=8, length=1)
    grads = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = MF(schema, sparse=sparse).train()
        (model(batch).sum() * 100).backward()
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        trainer.strategy.connect(model)
        model.trainer = trainer
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        model.configure_gradient_clipping(optimizer, 0.5, "norm")
        grads.append([p.grad.to_dense() for p in model.parameters()])
    total = sum(g.square().sum() for g in grads[1]) ** 0.5
    assert total.item() == pytest.approx(0.5, rel=1e-4)
    for dense, sparse_grad in zip(*grads, strict=True):
        torch.testing.assert_close(sparse_grad, dense, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_are_clipped_by_value(schema, sparse):
    """Bug: sparse gradients were clipped by norm whatever the algorithm."""
    model = MF(schema, sparse=sparse).train()
    (model(example_batch(schema, rows=8, length=1)).sum() * 100).backward()
    expected = [p.grad.to_dense().clamp(-0.5, 0.5) for p in model.parameters()]
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    model.trainer = trainer
    model.configure_gradient_clipping(torch.optim.SGD(model.parameters()), 0.5, "value")
    for parameter, clipped in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad.to_dense(), clipped)


def test_tables_can_have_a_weight_decay_of_their_own(schema):
    adam = functools.partial(torch.optim.Adam, weight_decay=0.01)
    model = NCF(schema, optimizer=adam, embedding_weight_decay=0.5)
    tables, dense = model.configure_optimizers().param_groups
    assert (tables["weight_decay"], dense["weight_decay"]) == (0.5, 0.01)
    assert {id(p) for p in tables["params"]} == {id(t.weight) for t in (model.gmf.table, model.pair.table)}
    together = {id(p) for p in (*tables["params"], *dense["params"])}
    assert together == {id(p) for p in model.parameters()}
    assert len(model.configure_optimizers().param_groups) == 2
    (everything,) = NCF(schema, optimizer=adam).configure_optimizers().param_groups
    assert everything["weight_decay"] == 0.01


def test_minibatch_aware_penalty_counts_each_row_once_and_divides_by_its_frequency(schema):
    """Zhou et al. 2018, eq. 6, as a loop."""
    model = DIN(schema, minibatch_aware_l2=0.5).train()
    model.row_counts = torch.arange(1.0, schema.rows + 1)
    batch = example_batch(schema, rows=5, length=4)
    model(batch)
    used = {int(n) for ids in (batch.ids_BF, *batch.lists.values()) for n in ids.flatten()} - {0}
    weight = model.embedding.table.weight.detach()
    expected = 0.5 / 2 * sum(float(weight[n].square().sum()) / (n + 1) for n in used)
    assert float(model.embedding.table.penalty) == pytest.approx(expected, rel=1e-5)


def test_gmf_starts_as_a_matrix_factorization(schema):
    model, batch = NCF(schema, branch="gmf"), example_batch(schema, rows=9)
    user_BD, item_BD = model.gmf(batch).unbind(1)
    torch.testing.assert_close(model(batch), model.bias + (user_BD * item_BD).sum(1))
    assert (NCF(schema, embedding_dim=4).out.weight[0] == 1).sum() == 4


def stirred_ncf(schema: FeatureSchema, **options: object) -> NCF:
    model = NCF(schema, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def test_neumf_starts_from_half_of_gmf_and_half_of_mlp(schema):
    gmf, mlp = (stirred_ncf(schema, branch=branch) for branch in ("gmf", "mlp"))
    neumf = stirred_ncf(schema)
    neumf.start_from([mlp, gmf])
    batch = example_batch(schema, rows=9, length=1)
    torch.testing.assert_close(neumf(batch), (gmf(batch) + mlp(batch)) / 2)


def test_what_neumf_cannot_start_from(schema):
    gmf, mlp = NCF(schema, branch="gmf"), NCF(schema, branch="mlp")
    with pytest.raises(ValueError, match="`pretrained` takes two checkpoints"):
        NCF(schema).start_from([gmf, gmf])
    with pytest.raises(ValueError, match="other layer widths"):
        NCF(schema, hidden=[8]).start_from([gmf, mlp])
    with pytest.raises(ValueError, match="trained on other data"):
        NCF(with_label(schema, kind="implicit")).start_from([gmf, mlp])
    with pytest.raises(ValueError, match="`pretrained` is for model=ncf; MF trains from scratch"):
        MF(schema).start_from([gmf, mlp])
