"""What every deep model promises; models are found by globbing configs/model."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from export.core import Inputs, example_batch, request_core, row_core, row_inputs
from export.multiply_out import multiply_out
from recsys.data.batches import Batch
from recsys.data.candidates import EXCLUDED, Candidates
from recsys.data.module import DataModule, DataSpec
from recsys.data.request import join, split
from recsys.data.split import TEST
from recsys.models.base import Recommender, load_model
from recsys.models.mf import MF
from recsys.models.objectives import BPR, Logistic, Objective, SampledSoftmax
from recsys.schema import CONTEXT, ITEM, FeatureSchema

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TARGETS = {path.stem: OmegaConf.load(path)["_target_"] for path in (CONFIGS / "model").glob("*.yaml")}
MODELS = sorted(name for name, target in TARGETS.items() if issubclass(get_class(target), Recommender))
VARIANTS = {
    "ncf": [{"branch": "gmf"}, {"branch": "mlp"}, {"dropout": 0.3}, {"hidden": []}],
    "deepfm": [{"batch_norm": True, "dropout": 0.3}, {"hidden": []}, {"history": True}],
    "din": [{"activation": "prelu"}, {"activation": "relu", "softmax": True}, {"dropout": 0.3}],
}
OPTIMIZER = functools.partial(torch.optim.AdamW, lr=0.015, weight_decay=0.05)
CASES = [(name, options) for name in MODELS for options in ({}, *VARIANTS.get(name, ()))]
NAMES = [f"{name}-{options}" if options else name for name, options in CASES]
DROPOUT = {"dropout": 0.3}  # alone makes no other graph, and exports take seconds
EXPORTED = [pytest.param(case, id=name) for case, name in zip(CASES, NAMES, strict=True) if case[1] != DROPOUT]


@pytest.fixture(params=CASES, ids=NAMES)
def build(request: pytest.FixtureRequest) -> Callable[..., Recommender]:
    """Build one model from its yaml, seeded."""
    name, options = request.param

    def make(schema: FeatureSchema, seed: int = 0, **more: object) -> Recommender:
        torch.manual_seed(seed)
        config = {**OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"), **options, **more}
        return instantiate(config, schema=schema, _convert_="all")

    return make


@pytest.fixture(params=MODELS)
def model_class(request: pytest.FixtureRequest) -> type[Recommender]:
    return get_class(OmegaConf.load(CONFIGS / "model" / f"{request.param}.yaml")["_target_"])


def labelled(batch: Batch, seed: int = 0) -> Batch:
    label_B = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, len(batch))).float()
    return dataclasses.replace(batch, label_B=label_B)


def rows(batch: Batch, at: slice) -> Batch:
    lists = {name: ids[at] for name, ids in batch.lists.items()}
    return Batch(batch.ids_BF[at], batch.numbers_BN[at], lists, batch.label_B[at])


def stir(model: Recommender) -> Recommender:
    """Random values everywhere (zero-initialised rows would hide mistakes), running statistics included."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[1] ** -0.5 if parameter.dim() == 2 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight[0] = 0.0
            for name in ("running_mean", "running_var"):
                if getattr(module, name, None) is not None:
                    getattr(module, name).copy_(torch.rand(getattr(module, name).shape, generator=generator) + 0.5)
    return model.eval()


def test_logits_are_finite_float32_one_per_row(build, schema):
    logit_B = build(schema).eval()(example_batch(schema, rows=7, length=4))
    assert logit_B.shape == (7,)
    assert logit_B.dtype == torch.float32
    assert logit_B.isfinite().all()


def test_every_parameter_gets_a_gradient(build, schema):
    model = build(schema).train()
    batch = labelled(example_batch(schema, rows=64, length=6))
    torch.nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label_B).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    still = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    assert still == []


def test_a_rows_score_does_not_depend_on_its_batch(build, schema):
    model = stir(build(schema))
    batch = example_batch(schema, rows=9, length=5)
    together = model.score(batch)
    for n in range(9):
        torch.testing.assert_close(model.score(rows(batch, slice(n, n + 1))), together[n : n + 1], atol=1e-6, rtol=0)


def test_extra_padding_changes_nothing(build, schema):
    model = stir(build(schema))
    batch = example_batch(schema, rows=9, length=4)
    padded = {
        name: torch.cat([ids, torch.zeros_like(ids[:, :1]).expand(-1, 3, *ids.shape[2:])], 1)
        for name, ids in batch.lists.items()
    }
    torch.testing.assert_close(model.score(dataclasses.replace(batch, lists=padded)), model.score(batch))


def test_training_statistics_do_not_see_padding(build, schema):
    batch = labelled(example_batch(schema, rows=32, length=4))
    wide = {
        name: torch.cat([ids, torch.zeros_like(ids)], 1) if name.startswith("history.") else ids
        for name, ids in batch.lists.items()
    }
    first, second = build(schema).train(), build(schema).train()
    for module in (*first.modules(), *second.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    torch.testing.assert_close(first(batch), second(dataclasses.replace(batch, lists=wide)), atol=1e-6, rtol=1e-5)
    for (name, a), (_, b) in zip(first.named_buffers(), second.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_an_empty_history_is_an_ordinary_input(build, schema):
    model = stir(build(schema))
    batch = example_batch(schema, rows=5, length=0)
    wider = {
        name: torch.zeros(5, 6, *ids.shape[2:], dtype=torch.int64) if name.startswith("history.") else ids
        for name, ids in batch.lists.items()
    }
    assert model.score(batch).isfinite().all()
    torch.testing.assert_close(model.score(dataclasses.replace(batch, lists=wider)), model.score(batch))


def test_lists_that_a_model_does_not_say_it_reads_are_not_missed(build, schema):
    model = stir(build(schema))
    batch = example_batch(schema, rows=5, length=3)
    read = {name: ids for name, ids in batch.lists.items() if name in model.reads}
    assert torch.equal(model.score(dataclasses.replace(batch, lists=read)), model.score(batch))


def test_unseen_ids_score(build, schema):
    model = build(schema).eval()
    batch = example_batch(schema, rows=3, length=2)
    unseen = torch.tensor([[schema.offset(c.name) for c in schema.fields]]).expand(3, -1)
    assert model.score(dataclasses.replace(batch, ids_BF=unseen)).isfinite().all()


def test_same_seed_same_loss(build, schema):
    batch = labelled(example_batch(schema, rows=16, length=3))

    def loss() -> torch.Tensor:
        model = build(schema, seed=3).train()
        return model.objective(model(batch), batch.label_B, 4)

    assert torch.equal(loss(), loss())


def test_checkpoint_round_trip_without_pickled_code(build, schema, tmp_path):
    model = stir(build(schema))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert set(torch.load(tmp_path / "model.ckpt", weights_only=True))
    again = load_model(tmp_path / "model.ckpt")
    assert type(again) is type(model)
    assert again.schema == model.schema
    batch = example_batch(schema, rows=5, length=3)
    assert torch.equal(again.score(batch), model.score(batch))


@pytest.mark.parametrize("build", EXPORTED, indirect=True)
def test_the_row_form_is_the_model(build, schema, run_core):
    model = stir(build(schema))
    core = row_core(model)
    assert {node.op_type for node in core.graph.node}.isdisjoint(("EmbeddingBag", "Loop", "If", "SequenceConstruct"))
    for count, length in ((1, 0), (2, 1), (7, 6), (512, 6), (3, 9)):
        batch = example_batch(schema, rows=count, length=length, seed=count)
        found_B = run_core(core, (row_inputs(model), batch))
        np.testing.assert_allclose(found_B, model.score(batch).detach().numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("count", "length"), [(1, 0), (1, 4), (50, 0), (50, 6)])
def test_candidates_score_as_the_rows_they_stand_for(build, every_role, count, length):
    model = stir(build(every_role))
    context, items = split(example_batch(every_role, rows=count, length=length, seed=count), every_role)
    joined = join(context, items, every_role)
    logit_N = model.forward_candidates(context, items)
    assert logit_N.shape == (count,)
    torch.testing.assert_close(logit_N, model(joined), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.score_candidates(context, items), model.score(joined), atol=1e-5, rtol=0)


def test_candidates_of_a_history_with_gaps_score_as_their_rows(build, every_role):
    model = stir(build(every_role))
    batch = example_batch(every_role, rows=9, length=6)
    for row in range(9):  # rows differ in how many places they fill
        context, items = split(rows(batch, slice(row, None)), every_role)
        joined = join(context, items, every_role)
        torch.testing.assert_close(model.forward_candidates(context, items), model(joined), atol=1e-5, rtol=0)


def test_separable_models_score_by_a_dot_product(build, every_role):
    model = stir(build(every_role))
    context, items = split(example_batch(every_role, rows=50, length=4), every_role)
    if not model.separable:
        for vectors, batch in ((model.user_vector, context), (model.item_vectors, items)):
            with pytest.raises(ValueError, match=r"has no vector apart.*rank by `forward_candidates`"):
                vectors(batch)
        return
    user_1K, item_NK = model.user_vector(context), model.item_vectors(items)
    assert user_1K.shape == (1, item_NK.shape[1])
    logit_N = model(join(context, items, every_role))
    torch.testing.assert_close((item_NK * user_1K).sum(1), logit_N, atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", EXPORTED, indirect=True)
def test_the_request_form_is_the_model_and_cuts_no_weights(build, every_role, run_core):
    model = stir(build(every_role))
    core = request_core(multiply_out(model))
    constants = {tensor.name for tensor in core.graph.initializer}
    assert [node.op_type for node in core.graph.node if constants.issuperset(node.input)] == []
    for count, length in ((1, 0), (2, 1), (50, 6)):
        context, items = split(example_batch(every_role, rows=count, length=length, seed=count), every_role)
        parts = (Inputs(model, CONTEXT, "context/"), context), (Inputs(model, ITEM, "item/"), items)
        expected_N = model.score(join(context, items, every_role)).detach().numpy()
        np.testing.assert_allclose(run_core(core, *parts), expected_N, atol=1e-5, rtol=0)


def test_misspelt_keyword_is_refused_by_name(model_class, schema):
    with pytest.raises(TypeError, match=r"embeding_dim.*did you mean 'embedding_dim'"):
        model_class(schema, embeding_dim=4)


def test_yaml_shows_every_keyword_with_its_default(model_class):
    name = model_class.__module__.rpartition(".")[2]
    shown = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"))
    parameters = inspect.signature(model_class.__init__).parameters
    keywords = {k: p.default for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert {k: v for k, v in shown.items() if k != "_target_"} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in keywords.items()
    }


def test_sparse_gradients_equal_dense_ones(model_class, schema):
    batch = labelled(example_batch(schema, rows=16, length=3))
    grads = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = model_class(schema, sparse=sparse).eval()
        model.objective(model(batch), batch.label_B, 4).backward()
        tables = [m.weight.grad for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        assert all(grad.is_sparse is sparse for grad in tables)
        grads.append([grad.to_dense() for grad in tables])
    for dense, sparse_grad in zip(*grads, strict=True):
        torch.testing.assert_close(sparse_grad, dense)


def write_checkerboard(folder: Path) -> DataSpec:
    """40 users, 40 items: even users take even items and odd users odd ones, 16 of the 20 that are right for them."""
    rng = np.random.default_rng(0)
    right = {parity: [i for i in range(40) if i % 2 == parity] for parity in (0, 1)}
    taken = [(u, i, t) for u in range(40) for t, i in enumerate(rng.permutation(right[u % 2])[:16])]
    pd.DataFrame(taken, columns=["user", "item", "at"]).to_csv(folder / "taken.csv", index=False)
    return DataSpec.parse(
        {
            "name": "checkerboard",
            "tables": {"behaviour": {"path": str(folder / "taken.csv")}},
            "user": "user",
            "item": "item",
            "time": {"column": "at"},
            "label": {"kind": "implicit", "negatives": 3},
            "columns": {"user": {"role": "user", "kind": "category"}, "item": {"role": "item", "kind": "category"}},
            "history": {"columns": ["item"], "length": 8},
            "split": {"by": "leave_one_out"},
        }
    )


def recommend_checkerboard(model_class: type[Recommender], objective: Objective, folder: Path) -> np.ndarray:
    """Train on the checkerboard and say for each user whether the best unseen item is a right one."""
    pl.seed_everything(0, verbose=False)
    data = DataModule(write_checkerboard(folder), cache=folder, batch_size=64)
    data.prepare_data()
    data.setup()
    model = model_class(data.schema, embedding_dim=8, objective=objective, optimizer=OPTIMIZER)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=25,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, datamodule=data)
    candidates = Candidates(data.store, TEST)
    batch = candidates[np.arange(len(candidates))]
    score_UI = model.eval().score(batch).detach().view(40, 40)
    best_U = score_UI.masked_fill(batch.label_B.view(40, 40) == EXCLUDED, -1).argmax(1).numpy()
    return best_U % 2 == np.asarray(data.store.user_E)[candidates.rows_Q] % 2


def test_checkerboard_top_1_is_right(model_class, tmp_path):
    assert recommend_checkerboard(model_class, Logistic(), tmp_path).all()


@pytest.mark.parametrize("objective", [BPR(), SampledSoftmax()])
def test_checkerboard_top_1_is_right_for_every_objective(objective, tmp_path):
    assert recommend_checkerboard(MF, objective, tmp_path).all()
