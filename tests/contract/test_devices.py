"""What runs on a GPU mixes no devices and waits for it no more than it must, seen without one.

PyTorch's meta device takes the GPU's place: its tensors have shapes and no values, so a value that is read back is an
error. `FakeTensorMode` cannot: a CPU build of torch has no backward pass for tensors that pretend to be on a GPU.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.fx.experimental._config as meta_kernels
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from export.core import example_batch
from export.distill import Distillation
from recsys.data.batches import Batch
from recsys.data.module import DataModule, DataSpec
from recsys.data.request import split
from recsys.data.resident import Resident
from recsys.models.base import Recommender
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.mf import MF
from recsys.models.objectives import BPR, Logistic, Objective, SampledSoftmax, SquaredError

GPU = torch.device("meta")
ANSWERS: dict[str, Callable[..., Any]] = {  # what has none on the meta device: all values differ, all tensors are equal
    "_unique2": lambda x, *_: (x.flatten(), x.new_empty(x.shape, dtype=torch.int64), x.new_empty(0)),
    "equal": lambda x, other: x.shape == other.shape,
}
SHAPED_BY_VALUES = {"nonzero", *ANSWERS}  # whoever launches the next kernel must wait for them


class Apart(TorchDispatchMode):
    """Refuses operations on tensors of two devices, and notes those for which a process waits for its GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: set[str] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = operation.overloadpacket.__name__, kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        numbers_too = name.startswith("_fused")  # elsewhere a kernel takes a number from main memory
        devices = {x.device.type for x in tensors if x.dim() or numbers_too}
        if len(devices) > 1:
            raise RuntimeError(f"{operation} mixes devices: {', '.join(sorted(devices))}")
        if name == "index" and any(x.dtype == torch.bool for x in tensors[1:]):
            name = "nonzero"
        sent = name == "_to_copy" and devices == {"cpu"} and kwargs.get("device") == GPU
        if (sent and not kwargs.get("non_blocking")) or (name in SHAPED_BY_VALUES and devices == {GPU.type}):
            self.waits.add(name)
        if name in ANSWERS and devices == {GPU.type}:
            return ANSWERS[name](*args)
        return operation(*args, **kwargs)


class Unsent(TorchFunctionMode):
    """Refuses to send Python's numbers to a GPU: the process waits for the copy, and so for all work before it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = function is torch.tensor and kwargs.get("device") == GPU
        index = args[1] if function is Tensor.__getitem__ else ()
        if made or any(isinstance(x, list) for x in (index if isinstance(index, tuple) else (index,))):
            raise RuntimeError(f"{function.__name__} sends Python's numbers")
        return function(*args, **kwargs)


@pytest.fixture(autouse=True)
def _for_the_meta_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It has no autocast, no fused optimizers, and nothing is zero."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    optimizers = sys.modules[torch.optim.Optimizer.__module__]
    monkeypatch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["cuda", "cpu", "meta"])
    with meta_kernels.patch(meta_nonzero_assume_all_nonzero=True):
        yield


def looked_up(table: Tensor) -> Tensor:
    """A gradient with rows, which autograd loses where it accumulates sparse tensors on the meta device."""
    rows, value_ND = torch.zeros(1, 6, dtype=torch.int64, device=GPU), table.new_zeros(6, table.shape[1])
    return torch.sparse_coo_tensor(rows, value_ND, table.shape, check_invariants=False)


def take_step(model: Recommender, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """As Lightning takes it."""
    optimizer.zero_grad()
    model.training_step(batch, 0).backward()
    for parameter in model.parameters():
        if parameter.device == GPU and parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = looked_up(parameter)
    model.on_before_optimizer_step(optimizer)
    model.configure_gradient_clipping(optimizer, 5.0, "norm")
    optimizer.step()


def test_a_training_step_stays_on_the_device(build, every_role, rule):
    make, sparse, decay = rule
    model = build(every_role, sparse=sparse, optimizer=make, embedding_l2=0.01, embedding_weight_decay=decay).to(GPU)
    optimizer = model.configure_optimizers()
    batch = example_batch(every_role, rows=6, length=4).to(GPU)
    with Apart() as apart, Unsent():
        take_step(model, optimizer, batch)
        take_step(model, optimizer, batch)
    assert apart.waits <= (SHAPED_BY_VALUES if sparse or isinstance(model, DIN) else set())
    assert not sparse or "_unique2" in apart.waits  # distinct rows were looked for
    assert all(p.grad is not None and p.grad.device == GPU for p in model.parameters())
    kept = [(n, x) for state in optimizer.state.values() for n, x in state.items() if isinstance(x, Tensor)]
    assert all(x.device == GPU for n, x in kept if n != "step")


def test_a_resumed_optimizer_goes_on_there(every_role, rule):
    """Bug: the counted steps of lazy Adam moved to the GPU, and every step read them back."""
    make, sparse, _ = rule
    batch = example_batch(every_role, rows=6, length=4)
    before, after = (DeepFM(every_role, sparse=sparse, optimizer=make).to(device) for device in ("cpu", GPU))
    for model in (before, after):
        model.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        model.log = lambda *_, **__: None
    saved = before.configure_optimizers()
    take_step(before, saved, batch)
    optimizer = after.configure_optimizers()
    optimizer.load_state_dict(saved.state_dict())
    batch = batch.to(GPU)
    with Apart() as apart:
        take_step(after, optimizer, batch)
    assert apart.waits <= SHAPED_BY_VALUES


@pytest.mark.parametrize("objective", [Logistic(), SquaredError(), BPR(), SampledSoftmax()])
def test_an_objective_stays_on_the_device(objective: Objective):
    logit_B = torch.zeros(10, device=GPU, requires_grad=True)
    with Apart() as apart:
        objective(logit_B, torch.zeros(10, device=GPU), 4).backward()
    assert not apart.waits
    assert logit_B.grad is not None


def test_scoring_stays_on_the_device(build, every_role):
    model = build(every_role).to(GPU).eval()
    batch = example_batch(every_role, rows=6, length=4).to(GPU)
    context, items = split(batch, every_role)
    with Apart() as apart, torch.inference_mode():
        for step in (model.validation_step, model.test_step, model.predict_step):
            assert step(batch, 0).shape == (6,)
        assert model.score_candidates(context, items).shape == (6,)
    assert not apart.waits


def test_distillation_stays_on_the_device(every_role):
    student, teacher = DeepFM(every_role, optimizer=torch.optim.Adam), DeepFM(every_role)
    lesson = Distillation(student, teacher).to(GPU).train()
    lesson.log = lambda *_, **__: None
    batch = example_batch(every_role, rows=6, length=4).to(GPU)
    with Apart() as apart:
        lesson.training_step(batch, 0).backward()
    assert not apart.waits


@pytest.fixture
def data(tiny: dict, tmp_path: Path) -> DataModule:
    module = DataModule(DataSpec.parse(tiny), cache=tmp_path, batch_size=32)
    module.prepare_data()
    module.setup()
    return module


def test_a_batch_travels_without_waiting_for_the_step_before(data):
    """Bug: Lightning asks this of tensors alone, so every batch waited for the end of the last step."""
    batch = next(iter(data.train_dataloader()))
    with Apart() as apart:
        moved = data.transfer_batch_to_device(batch, GPU, 0)
    assert not apart.waits
    assert {x.device for x in (moved.ids_BF, moved.numbers_BN, moved.label_B, *moved.lists.values())} == {GPU}


@pytest.mark.parametrize("stored", [True, False])
def test_a_batch_of_the_resident_data_is_made_without_waiting(data, stored):
    resident, rows, store = Resident(data.store, GPU), np.arange(8), data.store
    with Apart() as apart:
        if stored:
            batch = resident.events(rows)
        else:
            batch = resident.batch(store.user_E[rows], store.item_E[rows], rows, store.label_E[rows])
    assert not apart.waits
    assert {x.device for x in (batch.ids_BF, batch.numbers_BN, batch.label_B, *batch.lists.values())} == {GPU}


FAULTS = {
    "a constant in main memory": lambda logit_B: logit_B * torch.ones(len(logit_B)),
    "an index in main memory": lambda logit_B: logit_B[torch.arange(len(logit_B))],
    "a way over main memory": lambda logit_B: logit_B.cpu().to(GPU),
    "a list as an index": lambda logit_B: logit_B[[0]],
    "numbers of Python's": lambda logit_B: logit_B * torch.tensor([2.0], device=GPU),
    "a number read back": lambda logit_B: logit_B * logit_B.mean().item(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(schema, monkeypatch, fault):
    batch, forward = example_batch(schema, rows=6, length=4).to(GPU), MF.forward
    model = MF(schema).to(GPU)
    model.log = lambda *_, **__: None
    monkeypatch.setattr(MF, "forward", lambda self, batch: FAULTS[fault](forward(self, batch)))
    with Apart(), Unsent(), pytest.raises(RuntimeError, match=r"mixes devices|meta tensor|sends Python's numbers"):
        model.training_step(batch, 0)
