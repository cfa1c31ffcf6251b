"""The row-wise optimizer against dense references, and in the trainer."""

import copy
import functools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys.config import check
from recsys.data.module import DataModule, DataSpec
from recsys.models.deepfm import DeepFM
from recsys.optimizers import RowWise, _Bags, _Places, coalesce

ROWS, DIM = 12, 3


class Toy(nn.Module):
    """A table and a layer over the mean of what is looked up."""

    def __init__(self, dim: int = DIM, *, sparse: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(ROWS, dim, sparse=sparse)
        self.layer = nn.Linear(dim, 2)

    def backward(self, ids: Sequence[int]) -> None:
        """Fresh gradients of a loss over some rows."""
        self.zero_grad()
        self.layer(self.table(torch.tensor(ids))).square().sum().backward()

    def groups(self) -> list[dict]:
        """As `Recommender` makes them."""
        return [{"params": [self.table.weight], "tables": True}, {"params": self.layer.parameters()}]


BATCHES = [[1, 4, 4, 7], [4, 2], [7, 7, 7, 1], [0], [4, 1, 2, 11]]


def train(model: Toy, optimizer: torch.optim.Optimizer, batches: Sequence[Sequence[int]] = BATCHES) -> None:
    for ids in batches:
        model.backward(ids)
        optimizer.step()


def dense_adagrad(weight_RD: Tensor, grads: Sequence[Tensor], lr: float, decay: float, eps: float = 1e-8) -> np.ndarray:
    """Row-wise Adagrad, row by row, on dense gradients."""
    weight, total = weight_RD.double().numpy().copy(), np.zeros(len(weight_RD))
    for grad in grads:
        for row, g in enumerate(grad.double().numpy()):
            if g.any():
                total[row] += sum(x * x for x in g) / len(g)
                weight[row] -= lr * decay * weight[row] + lr * g / (total[row] ** 0.5 + eps)
    return weight


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adagrad_equals_a_loop_over_the_rows_of_dense_gradients(decay):
    model = Toy()
    first, grads = model.table.weight.detach().clone(), []
    optimizer = RowWise(model.groups(), table_lr=0.1, lr=0.0, weight_decay=decay)
    for ids in BATCHES:
        model.backward(ids)
        grads.append(model.table.weight.grad.to_dense())
        optimizer.step()
    expected = dense_adagrad(first, grads, 0.1, decay)
    np.testing.assert_allclose(model.table.weight.detach().numpy(), expected, rtol=2e-5, atol=1e-6)


def test_adagrad_of_one_column_is_torchs():
    ours, theirs = Toy(1), Toy(1)
    train(ours, RowWise(ours.groups(), table_lr=0.1, lr=0.0))
    train(theirs, torch.optim.Adagrad([theirs.table.weight], lr=0.1, eps=1e-8))
    torch.testing.assert_close(ours.table.weight, theirs.table.weight)


def test_lazy_adam_is_torchs_sparse_adam():
    ours, theirs = Toy(), Toy()
    train(ours, RowWise(ours.groups(), table_rule="adam", table_lr=0.1, lr=0.0))
    train(theirs, torch.optim.SparseAdam([theirs.table.weight], lr=0.1))
    torch.testing.assert_close(ours.table.weight, theirs.table.weight)


def test_layers_are_trained_by_adamw():
    ours, theirs = Toy(), Toy()
    train(ours, RowWise(ours.groups(), lr=0.1, table_lr=0.0, weight_decay=0.2))
    train(theirs, torch.optim.AdamW(theirs.layer.parameters(), lr=0.1, weight_decay=0.2))
    torch.testing.assert_close(ours.layer.weight, theirs.layer.weight)
    torch.testing.assert_close(ours.layer.bias, theirs.layer.bias)


@pytest.mark.parametrize("rule", ["adagrad", "adam"])
def test_rows_that_a_batch_did_not_touch_stay_bit_identical(rule):
    model = Toy()
    optimizer = RowWise(model.groups(), table_rule=rule, weight_decay=0.5)
    train(model, optimizer)
    before = {name: value.clone() for name, value in optimizer.state[model.table.weight].items() if value.dim()}
    before["weight"] = model.table.weight.detach().clone()
    train(model, optimizer, [[4, 7]])
    after = {**optimizer.state[model.table.weight], "weight": model.table.weight.detach()}
    for name, value in before.items():
        same = (after[name] == value).view(ROWS, -1).all(1)
        assert torch.equal(same.nonzero().flatten(), torch.tensor([r for r in range(ROWS) if r not in (4, 7)])), name


@pytest.mark.parametrize("rule", ["adagrad", "adam"])
def test_a_restored_optimizer_goes_on_exactly(rule):
    whole, first, second = Toy(), Toy(), Toy()
    make = functools.partial(RowWise, table_rule=rule, weight_decay=0.1)
    train(whole, make(whole.groups()), BATCHES * 2)
    optimizer = make(first.groups())
    train(first, optimizer)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    restored = make(second.groups())
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(second, restored)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, 6), max_size=30), dim=st.integers(1, 5), seed=st.integers(0, 9))
def test_coalesced_gradients_equal_torchs(rows, dim, seed):
    values = torch.randn(len(rows), dim, generator=torch.Generator().manual_seed(seed))
    grad = torch.sparse_coo_tensor(torch.tensor([rows], dtype=torch.int64), values, (7, dim), check_invariants=True)
    expected = grad.coalesce()
    for ours in coalesce([grad, grad]):
        assert ours.is_coalesced()
        assert torch.equal(ours.indices(), expected.indices())
        torch.testing.assert_close(ours.values(), expected.values())
    assert coalesce([expected])[0] is expected


@given(rows=st.lists(st.integers(0, 6), min_size=1, max_size=30), dim=st.integers(1, 5))
def test_a_gpu_sums_by_other_kernels_to_the_same(rows, dim):
    row_N, value_ND = torch.tensor(rows), torch.randn(len(rows), dim, generator=torch.Generator().manual_seed(0))
    expected = torch.sparse_coo_tensor(row_N[None], value_ND, (7, dim), check_invariants=True).coalesce()
    for found in (_Places.of(row_N), _Bags.of(row_N)):
        assert torch.equal(found.rows_U, expected.indices()[0])
        torch.testing.assert_close(found.sums(value_ND), expected.values())


def test_gradients_of_the_same_look_ups_share_one_sort(monkeypatch):
    sorts = []
    sort = Tensor.sort
    monkeypatch.setattr(Tensor, "sort", lambda self, **options: sorts.append(1) or sort(self, **options))
    rows = torch.tensor([[3, 1, 3]])
    wide, narrow = (torch.sparse_coo_tensor(rows.clone(), torch.ones(3, d), (5, d)) for d in (4, 1))
    other = torch.sparse_coo_tensor(torch.tensor([[3, 1, 2]]), torch.ones(3, 1), (5, 1))
    summed = [grad.to_dense()[:, 0].tolist() for grad in coalesce([wide, narrow, other])]
    assert summed == [[0, 1, 0, 2, 0], [0, 1, 0, 2, 0], [0, 1, 1, 1, 0]]
    assert len(sorts) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"table_rule": "adagrat"}, "did you mean 'adagrad'"), ({"table_lr": -1.0}, "`table_lr` must not be negative")],
)
def test_a_wrong_option_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        RowWise(Toy().groups(), **options)


def test_tables_with_dense_gradients_are_refused():
    model = Toy(sparse=False)
    with pytest.raises(ValueError, match=r"got none; set `model.sparse=true`"):
        RowWise(model.parameters())
    model.backward([1])
    with pytest.raises(ValueError, match=r"the gradient of a table is dense.*set `model.sparse=true`"):
        RowWise(model.groups()).step()


def test_one_word_in_the_configuration_sets_what_the_optimizer_needs(composed):
    cfg = composed("trainer=cpu", "optimizer=rowwise")
    assert cfg.model.sparse
    check(cfg)
    with pytest.raises(ValueError, match=r"`optimizer`: .*set `model.sparse=true`"):
        check(composed("trainer=cpu", "optimizer=rowwise", "model.sparse=false"))


@pytest.fixture
def fit(tiny, tmp_path) -> Callable[..., DeepFM]:
    """Train DeepFM on the tiny shop, all of it or up to and on from a checkpoint."""

    def train_model(
        epochs: int = 2, resume: str | None = None, precision: str = "32-true", **options: object
    ) -> DeepFM:
        pl.seed_everything(0, verbose=False)
        data = DataModule(DataSpec.parse(tiny), cache=tmp_path, batch_size=64)
        data.prepare_data()
        data.setup()
        trainer = pl.Trainer(
            accelerator="cpu",
            precision=precision,
            max_epochs=epochs,
            gradient_clip_val=0.05,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        optimizer = functools.partial(RowWise, weight_decay=0.01)
        model = DeepFM(data.schema, hidden=[8], embedding_dim=4, sparse=True, optimizer=optimizer, **options)
        trainer.fit(model, datamodule=data, ckpt_path=resume)
        if not resume:
            trainer.save_checkpoint(tmp_path / "model.ckpt")
        return model

    return train_model


def test_a_resumed_training_equals_one_that_never_stopped(fit, tmp_path):
    options = {"embedding_weight_decay": 0.3, "embedding_l2": 0.1}
    whole = fit(4, **options).state_dict()
    fit(2, **options)
    resumed = fit(4, str(tmp_path / "model.ckpt"), **options).state_dict()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_mixed_precision_trains_with_clipping(fit):
    model = fit(1, precision="bf16-mixed")
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in model.parameters())


def test_tables_and_layers_each_follow_the_schedule_from_their_own_rate(fit):
    model = fit(1, schedule="linear", embedding_weight_decay=0.3)
    tables, layers = model.trainer.optimizers[0].param_groups
    assert (tables["initial_lr"], layers["initial_lr"]) == (0.02, 0.001)
    assert tables["lr"] / 0.02 == pytest.approx(layers["lr"] / 0.001)
    assert (tables["weight_decay"], layers["weight_decay"]) == (0.3, 0.01)
    assert {id(p) for p in tables["params"]} == {id(model.embedding.table.weight), id(model.first_order.table.weight)}
