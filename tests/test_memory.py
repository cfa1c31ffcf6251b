"""Tables that do not fit are refused before the first step."""

import functools
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from recsys.memory import check_tables_fit, device_memory, table_bytes
from recsys.models.mf import MF
from recsys.optimizers import RowWise
from recsys.sharding import ShardedStrategy, check_precision

LAZY = functools.partial(RowWise, table_rule="adam")


def trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)


@pytest.mark.parametrize(
    ("optimizer", "sparse", "numbers"),
    [
        (RowWise, True, 4 + 1),  # numbers of a row of 4: itself and one for the row
        (LAZY, True, 3 * 4),
        (torch.optim.Adam, False, 4 * 4),  # itself, two moments, its gradient
        (functools.partial(torch.optim.SGD, lr=0.1), True, 4),
    ],
)
def test_tables_take_their_weights_the_optimizers_state_and_dense_gradients(schema, optimizer, sparse, numbers):
    model = MF(schema, embedding_dim=4, sparse=sparse, optimizer=optimizer)
    ones = {4 + 1: 2, 3 * 4: 3, 4 * 4: 4, 4: 1}[numbers]  # the same for the biases, rows of 1
    assert table_bytes(model) == 4 * (1 + 11 + 21) * (numbers + ones)


def test_tables_larger_than_a_device_are_refused_unless_they_are_shared_out(schema):
    pytest.importorskip("torchrec")
    model = MF(schema, embedding_dim=4, sparse=True, optimizer=RowWise)
    need = table_bytes(model)
    check_tables_fit(model, trainer(devices=1), memory=need)
    message = (
        r"what RowWise keeps of them take .* GiB.*; share them out over at least {} machine\(s\) with trainer=sharded"
    )
    for machines, options in ((2, {"devices": 1}), (1, {"devices": 2, "strategy": "ddp"})):
        with pytest.raises(ValueError, match=message.format(machines)):
            check_tables_fit(model, trainer(**options), memory=need - 1)
    shared = trainer(devices=2, strategy=ShardedStrategy())
    check_tables_fit(model, shared, memory=-(-need // 2))
    with pytest.raises(ValueError, match=r"at least 3 machine"):
        check_tables_fit(model, shared, memory=need // 4 - 1)


def test_the_memory_of_a_processor_is_shared_by_its_processes(monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.get)
    assert device_memory(trainer(devices=2, strategy="ddp")) == 4096 * 500


def test_processes_that_would_skip_different_steps_are_refused(schema, monkeypatch):
    sparse, dense = (MF(schema, embedding_dim=4, sparse=sparse, optimizer=RowWise) for sparse in (True, False))
    for precision in ("bf16-mixed", "16-mixed"):  # the latter needs a GPU
        monkeypatch.setattr(pl.Trainer, "precision", precision)
        check_precision(dense, trainer(devices=2, strategy="ddp"))
        check_precision(sparse, trainer(devices=1))
    with pytest.raises(ValueError, match=r"16-mixed.*bf16-mixed"):
        check_precision(sparse, trainer(devices=2, strategy="ddp"))
