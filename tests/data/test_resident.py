"""A dataset on the device makes the batches that are made in memory."""

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from recsys.data import resident
from recsys.data.batches import Batch
from recsys.data.module import DataModule, DataSpec
from recsys.data.resident import Resident
from recsys.models.din import DIN


def opened(mapping: dict, cache: Path, **options) -> DataModule:
    data = DataModule(DataSpec.parse(mapping), cache=cache, batch_size=32, **options)
    data.prepare_data()
    data.setup()
    return data


def assert_equal(one: Batch, other: Batch) -> None:
    assert torch.equal(one.ids_BF, other.ids_BF)
    assert torch.equal(one.numbers_BN, other.numbers_BN)
    assert torch.equal(one.label_B, other.label_B)
    assert one.lists.keys() == other.lists.keys()
    assert all(torch.equal(one.lists[name], other.lists[name]) for name in one.lists)
    assert {name: ids.dtype for name, ids in one.lists.items()} == dict.fromkeys(other.lists, torch.int64)


@pytest.mark.parametrize("label", [{"kind": "binary", "column": "bought"}, {"kind": "implicit", "negatives": 2}])
def test_batches_are_those_made_in_memory(tiny, tmp_path, label):
    plain, on_device = (opened({**tiny, "label": label}, tmp_path, on_device=on) for on in (False, True))
    loaders = [(d.train_dataloader(), d.val_dataloader(), *d.test_dataloader()) for d in (plain, on_device)]
    for one, other in zip(*loaders, strict=True):
        batches = list(zip(one, other, strict=True))
        assert batches
        for made, gathered in batches:
            assert_equal(gathered, made)


def test_lists_that_are_not_read_are_not_made(tiny, tmp_path):
    data = opened(tiny, tmp_path)
    rows, zeros = np.arange(3), np.zeros(3, dtype="int64")
    batch = Resident(data.store, torch.device("cpu")).batch(zeros, zeros, rows, zeros, {"history.sku"})
    assert set(batch.lists) == {"history.sku"}


def test_training_reads_the_device_and_learns_the_same(tiny, tmp_path):
    def weights(on_device: bool) -> torch.Tensor:
        pl.seed_everything(0, verbose=False)
        data = opened(tiny, tmp_path, on_device=on_device)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet)
        model = DIN(data.schema)
        trainer.fit(model, datamodule=data)
        return torch.cat([p.detach().ravel() for p in model.parameters()])

    assert torch.equal(weights(True), weights(False))


def test_a_device_that_is_too_small_is_named(tiny, tmp_path, monkeypatch):
    data = opened(tiny, tmp_path)
    monkeypatch.setattr(resident.torch.cuda, "mem_get_info", lambda _: (1000, 10**9))
    with pytest.raises(ValueError, match=r"`on_device` needs .* GiB for the dataset, but cuda:0 has 0.0 GiB free"):
        Resident(data.store, torch.device("cuda:0"))


def test_other_processes_cannot_make_batches_there(tiny, tmp_path):
    with pytest.raises(ValueError, match="set `workers` to 0, got 2"):
        DataModule(DataSpec.parse(tiny), cache=tmp_path, on_device=True, workers=2)
