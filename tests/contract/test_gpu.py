"""On a GPU the same comes out as on a CPU; tested where torch sees one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from export.core import example_batch
from recsys.data.module import DataModule, DataSpec
from recsys.data.request import split
from recsys.data.resident import Resident
from recsys.models.base import Recommender
from recsys.models.deepfm import DeepFM
from recsys.optimizers import RowWise, coalesce
from recsys.schema import FeatureSchema

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
GPU = torch.device("cuda")
CPU = torch.device("cpu")


def learned(model: Recommender, schema: FeatureSchema) -> Tensor:
    """What the model says of three batches after a step on each, as Lightning takes them.

    Not its weights: those before a batch norm may drift by rounding errors, which change nothing.
    """
    optimizer = model.configure_optimizers()
    batches = [example_batch(schema, rows=64, length=4, seed=seed) for seed in range(3)]
    batches = [replace(batch, numbers_BN=batch.numbers_BN.double()).to(model.device) for batch in batches]
    for batch in batches:
        optimizer.zero_grad()
        model.training_step(batch, 0).backward()
        model.on_before_optimizer_step(optimizer)
        model.configure_gradient_clipping(optimizer, 0.5, "norm")
        optimizer.step()
    with torch.no_grad():
        return torch.cat([model(batch) for batch in batches]).cpu()


def test_the_same_is_learned(build, every_role, rule):
    make, sparse, decay = rule
    found = []
    for device in (CPU, GPU):
        pl.seed_everything(0, verbose=False)
        model = build(every_role, sparse=sparse, optimizer=make, embedding_l2=0.01, embedding_weight_decay=decay)
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        found.append(learned(model.double().to(device), every_role))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_layers_learn_the_same(every_role):
    found = []
    for compiled in (False, True):
        pl.seed_everything(0, verbose=False)
        model = DeepFM(every_role, hidden=[16, 8], sparse=True, optimizer=RowWise).double().to(GPU)
        model.log = lambda *_, **__: None
        if compiled:
            model.compile_layers()
        found.append(learned(model, every_role))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_scores_are_the_same(build, every_role):
    batch, model = example_batch(every_role, rows=64, length=4), build(every_role).eval()
    found = []
    for device in (CPU, GPU):
        model, on_device = model.to(device), batch.to(device)
        with torch.inference_mode():
            scores = model.score(on_device), model.score_candidates(*split(on_device, every_role))
        found.append([score.cpu() for score in scores])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 10, 5000])
def test_gradients_of_the_same_rows_are_added_up(rows):
    torch.manual_seed(0)
    row_N = torch.randint(0, rows, (20_000,)) * torch.randint(0, 2, (20_000,))  # half of all are row 0
    grads = [torch.sparse_coo_tensor(row_N[None], torch.randn(20_000, dim), (rows, dim)) for dim in (1, 16)]
    for grad, found in zip(grads, coalesce([g.to(GPU) for g in grads]), strict=True):
        assert found.is_coalesced()
        torch.testing.assert_close(found.to_dense().cpu(), grad.to_dense(), rtol=1e-4, atol=1e-3)
        assert torch.equal(found.indices().cpu(), grad.coalesce().indices())


@pytest.mark.parametrize("label", [{"kind": "binary", "column": "bought"}, {"kind": "implicit", "negatives": 2}])
def test_batches_of_the_resident_data_are_those_made_in_memory(tiny, tmp_path: Path, label):
    data = DataModule(DataSpec.parse({**tiny, "label": label}), cache=tmp_path, batch_size=32)
    data.prepare_data()
    data.setup()
    made: Callable[[], list] = lambda: [*data.train_dataloader(), *data.val_dataloader()]  # noqa: E731
    plain = made()
    data._resident = lambda _: Resident(data.store, GPU)  # type: ignore[method-assign]
    data.on_device = True
    for one, other in zip(plain, made(), strict=True):
        assert other.ids_BF.device.type == "cuda"
        for a, b in [(getattr(x, name) for x in (one, other)) for name in ("ids_BF", "numbers_BN", "label_B")]:
            assert torch.equal(a, b.cpu())
        assert all(torch.equal(one.lists[name], other.lists[name].cpu()) for name in one.lists)
