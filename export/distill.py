"""What pruning cost is learned back from the trained model, whose scores take the place of the labels."""

import warnings
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from recsys.config import build_trainer, training_of
from recsys.data.batches import Batch
from recsys.data.module import DataModule
from recsys.layers.embedding import Table
from recsys.models.base import Recommender, learning_rate_factor
from recsys.models.objectives import Logistic


class Distillation(pl.LightningModule):
    """Knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531) of a teacher into a student.

    The student learns to give the training rows the teacher's scores: a label tells a trained model little that is new
    and much that is chance. Dropout is off, and nothing pulls the tables to zero, so that a table of few rows may learn
    the teacher's answers by heart: freeze it. The student's own optimizer takes the steps, with a learning rate that
    falls to 0 by a line.
    """

    def __init__(self, student: Recommender, teacher: Recommender) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def train(self, mode: bool = True) -> "Distillation":
        """Training mode, if so, for the student alone, its dropout and tables excepted."""
        super().train(mode)
        self.teacher.eval()
        for layer in self.student.modules():
            if isinstance(layer, nn.Dropout | Table):
                layer.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's signature
        """Binary cross entropy with the teacher's probabilities; where it gives none, squared error to its logits."""
        with torch.no_grad():
            wanted_B = self.teacher(batch).float()
        logit_B = self.student(batch).float()
        self.student.take_penalties()
        if isinstance(self.teacher.objective, Logistic):
            loss = F.binary_cross_entropy_with_logits(logit_B, wanted_B.sigmoid())
        else:
            loss = F.mse_loss(logit_B, wanted_B)
        self.log("train/distillation", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch))
        return loss

    def configure_optimizers(self) -> Any:
        """The student's optimizer and its schedule, stepped every batch."""
        optimizer = self.student.optimizer(self.student.parameter_groups())
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor("linear", 0.0, step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def distill(
    student: Recommender,
    teacher: Recommender,
    data: DataModule,
    cfg: DictConfig,
    *,
    epochs: int,
    lr_share: float,
    freeze_tables: bool,
) -> Recommender:
    """Let a pruned model learn from the one it came from for some epochs, on one device, without validation.

    `cfg` is the run's configuration; learning rates begin at `lr_share` times those of its optimizer, and with
    `freeze_tables` embedding tables stay as they are. Returns the student in evaluation mode; the teacher stays as it
    was.
    """
    if epochs:
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        rates = {name: cfg.optimizer[name] * lr_share for name in ("lr", "table_lr") if name in cfg.optimizer}
        changes = {"optimizer": rates, "embedding_weight_decay": 0.0}
        changes |= {"trainer": {"max_epochs": epochs, "limit_val_batches": 0, "gradient_clip_val": None}}
        lesson: Any = OmegaConf.merge(cfg, changes)
        student.set_training(**training_of(lesson))
        for table in _tables(student):
            table.requires_grad_(requires_grad=not freeze_tables)
        trainer = build_trainer(lesson, teacher.schema.label.kind)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*(validation_step|eval mode)")  # both as intended
            trainer.fit(Distillation(student, teacher).train(), datamodule=data)  # Lightning keeps the mode
        for table in _tables(student):
            table.requires_grad_(requires_grad=True)
    return student.cpu().eval()


def _tables(model: Recommender) -> list[Table]:
    return [module for module in model.modules() if isinstance(module, Table)]
