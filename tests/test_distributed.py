"""Embedding tables in several processes: two on half batches train as one on whole batches, copied or shared out."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from recsys.data.module import DataModule, DataSpec
from recsys.distributed import add_up_gradients, keep_from_ddp, start_alike
from recsys.evaluation import Evaluation, evaluate
from recsys.layers.embedding import Table
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.ncf import NCF
from recsys.optimizers import RowWise
from recsys.sharding import ShardedStrategy, ShardedTable, gathered, own_block, shard_tables

BATCH, STEPS = 32, 8  # whole batches of an epoch, of which two processes take equal shares
DEEPFM = functools.partial(DeepFM, hidden=[8], embedding_dim=4, embedding_l2=0.01, sparse=True)
PRELU = functools.partial(DIN, hidden=[8], embedding_dim=4, activation="prelu", embedding_l2=0.01, sparse=True)
DENSE = functools.partial(NCF, embedding_dim=4, hidden=[8])
ROWWISE = functools.partial(RowWise, weight_decay=0.1)
LAZY = functools.partial(RowWise, table_rule="adam")
with_torchrec = pytest.mark.skipif(not importlib.util.find_spec("torchrec"), reason="needs TorchRec")


class Losses(pl.Callback):
    """The loss of every step, the mean over all processes; and which table rows were read."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.read: set[int] = set()

    def on_train_batch_end(self, trainer: pl.Trainer, _: Any, outputs: Any, batch: Any, *__: Any) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach())))
        for ids in (batch.ids_BF, *batch.lists.values()):
            self.read.update(ids.flatten().tolist())


def open_data(tiny: dict, cache: Path, batch_size: int) -> DataModule:
    data = DataModule(DataSpec.parse(tiny), cache=cache, batch_size=batch_size)
    data.prepare_data()
    data.setup()
    return data


def make_trainer(strategy: Any, **options: Any) -> pl.Trainer:
    """One process without a strategy, else two."""
    return pl.Trainer(
        accelerator="cpu",
        devices=2 if strategy else 1,
        strategy=strategy or "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


def fit(data: DataModule, make: Any, optimizer: Any, path: Path, strategy: Any = None, **options: Any) -> tuple:
    """Train two epochs and save the checkpoint `path`; returns all losses and the rows read."""
    pl.seed_everything(0, verbose=False)
    losses = Losses()
    options = {"max_epochs": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 0.3, **options}
    resume = options.pop("resume", None)
    trainer = make_trainer(strategy, callbacks=[losses], limit_train_batches=STEPS, limit_val_batches=0, **options)
    trainer.fit(make(data.schema, optimizer=optimizer), datamodule=data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(path)
    return losses.losses, losses.read


def assert_same_training(first: Path, second: Path) -> None:
    """The same weights, whole ones, and the same state of the optimizer."""
    found, expected = (torch.load(path, weights_only=True) for path in (first, second))
    torch.testing.assert_close(found["state_dict"], expected["state_dict"], atol=1e-5, rtol=1e-5)
    for one, other in zip(found["optimizer_states"], expected["optimizer_states"], strict=True):
        assert one["param_groups"] == other["param_groups"]
        torch.testing.assert_close(one["state"], other["state"], atol=1e-5, rtol=1e-4)


STRATEGIES = [pytest.param(lambda: "ddp", id="ddp"), pytest.param(ShardedStrategy, id="sharded", marks=with_torchrec)]
TRAININGS = [
    pytest.param(DEEPFM, ROWWISE, id="deepfm-adagrad"),
    pytest.param(PRELU, LAZY, id="din-adam"),
    pytest.param(DENSE, torch.optim.Adam, id="ncf-dense"),
]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("make", "optimizer"), TRAININGS)
def test_two_processes_on_half_batches_train_as_one_on_whole_batches(
    tiny, tmp_path, two_processes, make, optimizer, strategy
):
    whole, half = (open_data(tiny, tmp_path, BATCH // n) for n in (1, 2))
    one = fit(whole, make, optimizer, tmp_path / "one.ckpt")
    two = two_processes(lambda: fit(half, make, optimizer, tmp_path / "two.ckpt", strategy()))
    assert len(one[0]) == 2 * STEPS
    for losses, _ in two:
        assert losses == pytest.approx(one[0], abs=1e-5)
    assert two[0][1] | two[1][1] == one[1]
    assert_same_training(tmp_path / "two.ckpt", tmp_path / "one.ckpt")


def test_what_every_process_has_made_alike_is_not_sent(schema):
    """Bug: DDP sent DIN's counts, one per table row, before every step."""
    model = DIN(schema, activation="dice", minibatch_aware_l2=0.1)
    keep_from_ddp(model)
    sent = {name for name, _ in model.named_buffers()} - set(model._ddp_params_and_buffers_to_ignore)
    assert sent
    assert {name.rpartition(".")[2] for name in sent} == {"running_mean", "running_var"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_that_no_process_read_stay_bit_identical(tiny, tmp_path, two_processes, strategy):
    data = open_data(tiny, tmp_path, 4)
    fit(data, DEEPFM, ROWWISE, tmp_path / "start.ckpt", max_epochs=0)
    options = {"max_steps": 1, "accumulate_grad_batches": 1}
    two = two_processes(lambda: fit(data, DEEPFM, ROWWISE, tmp_path / "end.ckpt", strategy(), **options)[1])
    start, end = (torch.load(tmp_path / name)["state_dict"] for name in ("start.ckpt", "end.ckpt"))
    for name in ("embedding.table.weight", "first_order.table.weight"):
        changed = (start[name] != end[name]).any(1).nonzero().flatten().tolist()
        assert set(changed) == (two[0] | two[1]) - {0}, name


@with_torchrec
@pytest.mark.parametrize("processes", [1, 2])
def test_any_number_of_processes_goes_on_from_a_sharded_checkpoint_exactly(tiny, tmp_path, two_processes, processes):
    whole, half = (open_data(tiny, tmp_path, BATCH // n) for n in (1, 2))
    first, second, expected = (tmp_path / f"{name}.ckpt" for name in ("first", "second", "expected"))
    fit(whole, DEEPFM, ROWWISE, expected)
    two_processes(lambda: fit(half, DEEPFM, ROWWISE, first, ShardedStrategy(), max_epochs=1))
    if processes == 1:
        fit(whole, DEEPFM, ROWWISE, second, resume=first)
    else:
        two_processes(lambda: fit(half, DEEPFM, ROWWISE, second, ShardedStrategy(), resume=first))
    assert_same_training(second, expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_metrics_of_two_processes_are_those_of_one_to_the_last_digit(tiny, tmp_path, two_processes, strategy):
    data = open_data(tiny, tmp_path, BATCH)
    torch.manual_seed(0)
    model = DIN(data.schema, hidden=[8], embedding_dim=4)

    def judge(strategy: Any = None) -> dict[str, Any]:
        found = evaluate(make_trainer(strategy, callbacks=[Evaluation()]), model, data)
        assert type(model.embedding.table) is Table
        return found

    one = judge()
    assert two_processes(lambda: judge(strategy())) == [one, one]


def exchange() -> tuple[Tensor, Tensor]:
    """A table's weights and its gradient, after an exchange between processes that began apart."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)
    table = Table(6, 2, [], std=1.0, sparse=True, l2=0.0)
    start_alike(table)
    ids = torch.tensor([[1, 4, 4], [5]][rank])
    (table(ids).sum() * (1 + rank)).backward()
    add_up_gradients(table)
    grad = table.weight.grad
    assert grad.is_sparse
    dist.destroy_process_group()
    return table.weight.detach(), grad.to_dense()


def test_gradients_are_means_over_processes_and_tables_start_alike(two_processes):
    (weight, grad), (other_weight, other_grad) = two_processes(exchange)
    assert torch.equal(weight, other_weight)
    expected = [0, 1 / 2, 0, 0, 2 * 1 / 2, 2 / 2]  # row 4 twice in the first process, row 5 in the second
    assert grad[:, 0].tolist() == other_grad[:, 0].tolist() == grad[:, 1].tolist() == expected


def share_out() -> list[Any]:
    """What a process looks up in a table of 7 rows of which it holds 4, its gradient, and the table put together."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    layers = torch.nn.Sequential(Table(7, 2, [], std=1.0, sparse=True, l2=0.0))
    with torch.no_grad():
        layers[0].weight.copy_(torch.arange(14.0).view(7, 2))
    shard_tables(layers, torch.device("cpu"))
    table = layers[0]
    assert isinstance(table, ShardedTable)
    assert len(table.weight) == 4
    ids = torch.tensor([[[6, 0, 1], [3, 6, 1]], [[]]][rank], dtype=torch.int64)[:, :2]  # strided
    vectors = table(ids)
    (vectors.sum() * (1 + rank)).backward()
    found = [vectors.detach(), table.weight.grad.to_dense(), gathered(table.weight.detach(), 7)]
    assert torch.equal(own_block(torch.arange(14.0).view(7, 2), 4), table.weight.detach())
    dist.destroy_process_group()
    return found


@with_torchrec
def test_rows_come_from_whoever_holds_them_and_padding_has_no_gradient(two_processes):
    (vectors, grad, whole), (nothing, other_grad, _) = two_processes(share_out)
    assert vectors[..., 0].tolist() == [[12, 0], [6, 12]]
    assert nothing.shape == (1, 0, 2)
    assert grad[:, 0].tolist() == [0, 0, 0, 1 / 2]
    assert other_grad[:, 0].tolist() == [0, 0, 2 / 2, 0]
    assert torch.equal(whole, torch.arange(14.0).view(7, 2))


def test_without_torchrec_the_strategy_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"trainer=sharded needs TorchRec; install it with pip install 'recsys\[sh"):
        ShardedStrategy()
