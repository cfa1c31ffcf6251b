"""Distillation: a pruned model comes back to the scores of the one it was made from, which stays as it is."""

import copy

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from export.compress import calibration
from export.distill import Distillation, distill
from export.prune import prune_hidden
from recsys.data.batches import Batch, Rows
from recsys.data.split import TRAIN
from recsys.models.base import Recommender
from recsys.models.objectives import BPR

OPTIONS = {"hidden": (32, 16), "dropout": 0.5, "batch_norm": True, "embedding_l2": 0.1}


@pytest.fixture
def lesson(composed):
    """Teach a student for some epochs, with the optimizer that its tables need."""

    def teach(
        student: Recommender, teacher: Recommender, data, epochs: int = 80, *, freeze_tables: bool = True
    ) -> Recommender:
        cfg = composed("trainer=cpu", f"optimizer={'rowwise' if student.hparams.get('sparse') else 'adam'}")
        OmegaConf.set_struct(cfg, value=False)  # as that of a checkpoint
        cfg.optimizer.lr = 0.005
        return distill(student, teacher, data, cfg, epochs=epochs, lr_share=1.0, freeze_tables=freeze_tables)

    return teach


def train_rows(data) -> Batch:
    rows = Rows(data.store, TRAIN)
    return rows[range(len(rows))]


def distance(model: Recommender, other: Recommender, batch: Batch) -> float:
    """Root mean square of the difference between logits."""
    with torch.no_grad():
        return float((model.eval()(batch) - other.eval()(batch)).square().mean().sqrt())


@pytest.mark.parametrize(
    ("kind", "name", "options", "freeze_tables"),
    [
        ("binary", "deepfm", OPTIONS, True),
        ("binary", "deepfm", {**OPTIONS, "batch_norm": False}, False),
        ("binary", "deepfm", {**OPTIONS, "sparse": True}, True),
        ("binary", "deepfm", {**OPTIONS, "batch_norm": False, "sparse": True}, False),
        ("rating", "din", {"hidden": (32, 16)}, True),
        ("implicit", "ncf", {"hidden": (32, 16)}, False),
    ],
)
def test_a_pruned_model_comes_back_to_its_teachers_scores(
    kind, name, options, freeze_tables, datasets, raw_rows, build, lesson
):
    data = datasets(kind)
    teacher = build(data, name, **options)
    if kind == "implicit":
        teacher.set_training(objective=BPR())
    before = copy.deepcopy(teacher.state_dict())
    student = prune_hidden(teacher, calibration(raw_rows(kind)), 0.25)
    with torch.no_grad():  # on so few rows, pruning alone costs next to nothing
        for name, parameter in student.named_parameters():
            if "table" not in name:
                parameter += 0.1 * torch.randn(parameter.shape)
    rows = train_rows(data)
    far = distance(student, teacher, rows)
    near = distance(lesson(student, teacher, data, freeze_tables=freeze_tables), teacher, rows)
    assert 0 < near < 0.5 * far
    assert not student.training
    tables = [name for name in student.state_dict() if name.endswith("table.weight")]
    assert tables
    assert all(torch.equal(student.state_dict()[name], before[name]) for name in tables) == freeze_tables
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())
    assert all(p.requires_grad for p in student.parameters())


def test_labels_dropout_and_penalties_have_no_part_in_it(datasets, build):
    """A student that is its teacher has nothing to learn: no gradient, whatever the labels say."""
    teacher = build(datasets("binary"), "deepfm", hidden=(32, 16), dropout=0.5, embedding_l2=0.1)
    student = copy.deepcopy(teacher)
    module = Distillation(student, teacher).train()
    module.log = lambda *_, **__: None
    assert not any(layer.training for layer in student.modules() if isinstance(layer, nn.Dropout))
    module.training_step(train_rows(datasets("binary")), 0).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert max(float(p.grad.abs().max()) for p in student.parameters() if p.grad is not None) < 1e-6


def test_batch_norm_follows_the_student(datasets, build, lesson):
    """Bug: the student learned in evaluation mode, with the statistics of layers that were changing under them."""
    data = datasets("binary")
    teacher = build(data, "deepfm", **OPTIONS)
    student = copy.deepcopy(teacher)
    before = [layer.running_mean.clone() for layer in student.modules() if isinstance(layer, nn.BatchNorm1d)]
    lesson(student, teacher, data, epochs=2)
    after = [layer.running_mean for layer in student.modules() if isinstance(layer, nn.BatchNorm1d)]
    assert len(after) == 2
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_without_epochs_nothing_is_learned(datasets, build, lesson):
    teacher = build(datasets("binary"), "ncf", hidden=(16,))
    student = copy.deepcopy(teacher)
    assert lesson(student, build(datasets("binary"), "ncf"), datasets("binary"), epochs=0) is student
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), teacher.parameters(), strict=True))
