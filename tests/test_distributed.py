"""Tables with sparse gradients: two processes on half batches train as one process on whole batches."""

import functools
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from recsys.data.module import DataModule, DataSpec
from recsys.distributed import add_up_gradients, start_alike
from recsys.layers.embedding import Table
from recsys.models.base import Recommender
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.optimizers import RowWise

BATCH, STEPS = 32, 8  # whole batches of an epoch, of which two processes take equal shares
MODELS = {"deepfm": DeepFM, "din": DIN}
TABLE = "embedding.table.weight"


class Losses(pl.Callback):
    """The loss of every step, the mean over all processes; and which table rows were read."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.read: set[int] = set()

    def on_train_batch_end(self, trainer: pl.Trainer, _: Any, outputs: Any, batch: Any, *__: Any) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach())))
        for ids in (batch.ids_BF, *batch.lists.values()):
            self.read.update(ids.flatten().tolist())


def fit(tiny: dict, cache: Path, name: str, processes: int, **options: Any) -> dict[str, Any]:
    """Losses, rows read, weights before and after, and what the optimizer remembers of the table."""
    pl.seed_everything(0, verbose=False)
    data = DataModule(DataSpec.parse(tiny), cache=cache, batch_size=BATCH // processes)
    data.prepare_data()
    data.setup()
    losses = Losses()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=2,
        limit_train_batches=STEPS,
        limit_val_batches=0,
        gradient_clip_val=0.3,
        accumulate_grad_batches=2,
        callbacks=[losses],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    optimizer = functools.partial(RowWise, weight_decay=0.1)
    model: Recommender = MODELS[name](
        data.schema, hidden=[8], embedding_dim=4, sparse=True, embedding_l2=0.01, optimizer=optimizer, **options
    )
    first = {n: w.clone() for n, w in model.state_dict().items()}
    trainer.fit(model, datamodule=data)
    table = dict(model.named_parameters())[TABLE]
    return {
        "losses": losses.losses,
        "read": losses.read,
        "first": first,
        "last": model.state_dict(),
        "state": trainer.optimizers[0].state[table],
    }


@pytest.mark.parametrize(("name", "options"), [("deepfm", {}), ("din", {"activation": "prelu"})])
def test_two_processes_on_half_batches_train_as_one_on_whole_batches(tiny, tmp_path, two_processes, name, options):
    one = fit(tiny, tmp_path, name, 1, **options)
    two = two_processes(lambda: fit(tiny, tmp_path, name, 2, **options))
    assert len(one["losses"]) == 2 * STEPS
    for found in two:
        assert found["losses"] == pytest.approx(one["losses"], abs=1e-5)
        for weight, value in one["last"].items():
            torch.testing.assert_close(found["last"][weight], value, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found["state"], one["state"], atol=1e-5, rtol=1e-4)
        assert torch.equal(found["last"][TABLE], two[0]["last"][TABLE])
    untouched = sorted(set(range(len(one["first"][TABLE]))) - two[0]["read"] - two[1]["read"])
    assert untouched
    assert torch.equal(two[0]["last"][TABLE][untouched], one["first"][TABLE][untouched])
    assert two[0]["read"] | two[1]["read"] == one["read"]


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
