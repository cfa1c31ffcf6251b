"""The base class of all deep recommenders: training and scoring; a model adds its `forward`."""

import importlib
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from recsys.data.batches import Batch
from recsys.data.candidates import Candidates
from recsys.data.request import join
from recsys.declare import nearest
from recsys.distributed import add_up_gradients, keep_from_ddp, start_alike, total_norm, values_of
from recsys.layers.embedding import Table
from recsys.layers.mlp import MLP
from recsys.models.objectives import Logistic, Objective, SquaredError
from recsys.optimizers import TABLES, coalesce
from recsys.schema import FeatureSchema

log = logging.getLogger(__name__)

Schedule = Literal["constant", "linear", "cosine"]
CLASS_KEY = "recsys_model"
THRESHOLD_KEY = "recsys_threshold"
CHUNK = 8192  # candidates scored at once


class Training(TypedDict, total=False):
    """How a model is trained; not part of the model, so not saved with it.

    `optimizer` makes one from the parameters. `schedule` shapes the learning rate over all steps after a linear
    rise during the share `warmup` of them. `embedding_weight_decay` is the optimizer's `weight_decay` for the embedding
    tables alone: rare ids need far more of it than the dense layers bear.
    """

    objective: Objective
    optimizer: Callable[..., Optimizer]
    embedding_weight_decay: float | None
    schedule: Schedule
    warmup: float


class Recommender(pl.LightningModule):
    """A model that gives every row of a batch one logit (or one rating).

    A subclass takes the schema and its own keywords, passes `**training` on, builds its layers and implements
    `forward(batch) -> logit_B`. `self.bias` starts at the training labels' mean (as a logit for probabilities).
    A model whose logit is the dot product of a user's and an item's vector says that it is `separable` and implements
    both; another may compute what a request's candidates share once, in `forward_candidates`.
    All constructor keywords but the training ones are saved in the checkpoint as plain values.

    `threshold` is None, or, in a model that has learned the validation rows too (`saw_valid`), the logit from which on
    F1 counts a row as positive: these rows can no longer give it.
    """

    threshold: float | None = None

    def __init__(self, schema: FeatureSchema | Mapping[str, Any], **training: Any) -> None:
        super().__init__()
        self.schema = schema if isinstance(schema, FeatureSchema) else FeatureSchema.parse(schema)
        self.save_hyperparameters(ignore=["schema", "training", *Training.__annotations__])
        self.hparams["schema"] = self.schema.to_dict()
        self._hparams_initial = dict(self.hparams)
        for name in training:
            if name not in Training.__annotations__:
                own = inspect.signature(type(self).__init__).parameters
                names = {*own, *Training.__annotations__} - {"self", "training"}
                raise TypeError(f"{type(self).__name__} has no keyword {name!r}: {nearest(name, names)}")
        self.set_training(**training)
        mean, rating = self.schema.label_mean, self.schema.label.kind == "rating"
        clipped = min(max(mean, 1e-6), 1 - 1e-6)
        self.bias = nn.Parameter(torch.tensor(mean if rating else math.log(clipped / (1 - clipped))))

    def set_training(
        self,
        *,
        objective: Objective | None = None,
        optimizer: Callable[..., Optimizer] = torch.optim.Adam,
        embedding_weight_decay: float | None = None,
        schedule: Schedule = "constant",
        warmup: float = 0.0,
    ) -> None:
        """Say how the model is to be trained from here on (see `Training`). Raises ValueError where it does not fit."""
        kind = self.schema.label.kind
        self.objective = objective or (SquaredError() if kind == "rating" else Logistic())
        if kind not in self.objective.kinds:
            fitting = {"rating": "squared_error", "implicit": "logistic, bpr or sampled_softmax"}
            raise ValueError(
                f"the objective {type(self.objective).__name__} does not fit labels of kind {kind!r}; "
                f"use objective={fitting.get(kind, 'logistic')}."
            )
        if schedule not in get_args(Schedule):
            raise ValueError(f"`schedule` got {schedule!r}: {nearest(schedule, get_args(Schedule))}")
        if not isinstance(warmup, int | float) or not 0 <= warmup < 1:
            raise ValueError(f"`warmup` must be a share of all steps in [0, 1), got {warmup!r}.")
        if not isinstance(embedding_weight_decay, int | float | None):
            raise ValueError(f"`embedding_weight_decay` must be a number or null, got {embedding_weight_decay!r}.")
        if embedding_weight_decay is not None and not embedding_weight_decay >= 0:
            raise ValueError(f"`embedding_weight_decay` must not be negative, got {embedding_weight_decay}.")
        self.optimizer, self.embedding_weight_decay = optimizer, embedding_weight_decay
        self.schedule, self.warmup = schedule, warmup

    def forward(self, batch: Batch) -> Tensor:
        """Logits (or ratings), float32 (B,)."""
        raise NotImplementedError

    def score(self, batch: Batch) -> Tensor:
        """Probabilities, or ratings inside `label.range`, float32 (B,)."""
        return self.to_score(self(batch).float())

    @property
    def reads(self) -> frozenset[str]:
        """The columns and histories (as `history_name`) that the model's layers read."""
        layers = [module for child in self.children() for module in child.modules()]
        return frozenset(name for layer in layers for name in getattr(layer, "reads", ()))

    @property
    def probable(self) -> bool:
        """Whether scores are probabilities."""
        return self.schema.label.kind != "rating"

    @property
    def saw_valid(self) -> bool:
        """Whether the model has learned the validation rows too."""
        return self.threshold is not None

    @property
    def separable(self) -> bool:
        """Whether the logit is the dot product of `user_vector` and `item_vectors`."""
        return False

    def user_vector(self, context: Batch) -> Tensor:  # noqa: ARG002 - for models that have one
        """The vector (1, K) of the request's user. Raises ValueError where the model is not separable."""
        raise self._not_separable()

    def item_vectors(self, items: Batch) -> Tensor:  # noqa: ARG002
        """The vectors (N, K) of items. Raises ValueError where the model is not separable."""
        raise self._not_separable()

    def _not_separable(self) -> ValueError:
        return ValueError(
            f"{type(self).__name__} with these options has no vector apart for users and items, since its score is not "
            "their dot product; rank by `forward_candidates`, or take model=mf or model=ncf model.branch=gmf."
        )

    def forward_candidates(self, context: Batch, items: Batch) -> Tensor:
        """Logits (N,) of N items for one user in one scene, in evaluation mode (see `recsys.data.request`)."""
        if self.separable:
            return (self.item_vectors(items) @ self.user_vector(context).T).squeeze(1)
        return self(join(context, items, self.schema))

    def score_candidates(self, context: Batch, items: Batch) -> Tensor:
        """Probabilities, or ratings inside `label.range`, float32 (N,) of N items for one user in one scene."""
        return self.to_score(self.forward_candidates(context, items).float())

    @torch.inference_mode()
    def score_query(self, candidates: Candidates, query: int) -> tuple[Tensor, Tensor]:
        """What the candidates of a query are ranked by, and their scores, float32 (I,) each, on the CPU."""
        place_I = query * candidates.width + np.arange(candidates.width)
        chunks = [place_I[start : start + CHUNK] for start in range(0, len(place_I), CHUNK)]
        logit_I = torch.cat([self(candidates[chunk].to(self.device)).float().cpu() for chunk in chunks])
        return logit_I, self.to_score(logit_I)

    def to_score(self, logit_B: Tensor) -> Tensor:
        """Logits as probabilities; ratings held inside `label.range`."""
        label = self.schema.label
        if self.probable:
            return logit_B.sigmoid()
        return logit_B.clamp(*label.range) if label.range else logit_B

    def compile_layers(self, *, graphs: bool = True) -> None:  # noqa: ARG002 - for models that use them
        """Compile the fully connected layers in place (`torch.compile`); weights keep their names in checkpoints.

        With `graphs`, a GPU may replay kernels as CUDA graphs, whose gradients do not outlive the next step.
        """
        layers = [module for module in self.modules() if isinstance(module, MLP) and len(module)]
        if not layers:
            log.warning("`compile` is ignored: %s has no fully connected layers", type(self).__name__)
        for module in layers:
            module.compile()

    def start_from(self, models: Sequence["Recommender"]) -> None:  # noqa: ARG002 - for models that can
        """Start from trained models instead of random weights. Raises ValueError where they do not fit."""
        raise ValueError(f"`pretrained` is for model=ncf; {type(self).__name__} trains from scratch.")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's signature
        """One optimisation step's loss."""
        loss = self.objective(self(batch).float(), batch.label_B, self.schema.label.negatives)
        loss = loss + self.take_penalties()
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=len(batch))
        return loss

    def take_penalties(self) -> Tensor | float:
        """The sum of what the embedding tables ask for since it was last taken."""
        tables = [module for module in self.modules() if isinstance(module, Table)]
        total = sum(table.penalty for table in tables)
        for table in tables:
            table.penalty = 0.0
        return total

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:  # noqa: ARG002
        """Logits (B,) for the evaluation to collect, in float32 whatever the training precision."""
        with torch.autocast(self.device.type, enabled=False):
            return self(batch).float()

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Scores (B,), in float32 whatever the training precision."""
        return self.to_score(self.validation_step(batch, batch_idx, dataloader_idx))

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        """Tables with sparse gradients are not for DDP (see `recsys.distributed`)."""
        keep_from_ddp(self)

    def on_train_start(self) -> None:
        """All processes start from the same tables."""
        start_alike(self)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:  # noqa: ARG002
        """All processes take the same step; clipping comes after it."""
        add_up_gradients(self)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's clipping, also where gradients are sparse or in parts, which torch cannot clip itself."""
        sparse = [p for p in self.parameters() if p.grad is not None and p.grad.is_sparse]
        whole = all(module.replicated for module in self.modules() if isinstance(module, Table))
        if not gradient_clip_val or (whole and not sparse):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        for parameter, grad in zip(sparse, coalesce([p.grad for p in sparse if p.grad is not None]), strict=True):
            parameter.grad = grad
        factor = (gradient_clip_val / (total_norm(self) + 1e-6)).clamp(max=1.0)
        for value in [values_of(p.grad) for p in self.parameters() if p.grad is not None]:
            if gradient_clip_algorithm == "value":
                value.clamp_(-gradient_clip_val, gradient_clip_val)
            else:
                value.mul_(factor)

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule, stepped every batch."""
        optimizer = self.optimizer(self.parameter_groups())
        if self.schedule == "constant" and not self.warmup:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(self.schedule, self.warmup, step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[Any]:
        """All parameters; the tables in a group of their own where they have sparse gradients or their own decay."""
        tables = [module for module in self.modules() if isinstance(module, Table)]
        decay = self.embedding_weight_decay
        own: dict[str, Any] = {} if decay is None else {"weight_decay": decay}
        if any(table.sparse for table in tables):
            own[TABLES] = True
        if not own:
            return list(self.parameters())
        weights = [table.weight for table in tables]
        dense = [p for p in self.parameters() if not any(p is weight for weight in weights)]
        return [{"params": weights, **own}, {"params": dense}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note which class the weights belong to, and the threshold."""
        checkpoint[CLASS_KEY] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint[THRESHOLD_KEY] = self.threshold

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the threshold."""
        self.threshold = checkpoint.get(THRESHOLD_KEY)


def learning_rate_factor(schedule: Schedule, warmup: float, step: int, steps: int) -> float:
    """The multiple of the learning rate at a step: a linear rise, then constant, or down to 0 by line or cosine.

    >>> [learning_rate_factor("linear", 0.5, step, 4) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rise = round(steps * warmup)
    if step < rise:
        return (step + 1) / rise
    if schedule == "constant":
        return 1.0
    left = 1.0 - (step - rise) / max(1, steps - rise)
    return max(0.0, left) if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, left)))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of this package; nothing in the file is executed.

    Raises FileNotFoundError, or ValueError when the file is damaged or something else.
    """
    if not Path(path).is_file():
        hint = "; it lies in checkpoints/ inside the run's folder" if Path(path).is_dir() else ""
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r}{hint}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{str(path)!r} is not a checkpoint, or is damaged or incomplete.") from error
    if not isinstance(content, dict) or CLASS_KEY not in content:
        raise ValueError(f"{str(path)!r} is not a checkpoint of this package.")
    return content


def load_model(path: str | Path) -> Recommender:
    """The model of a checkpoint, in evaluation mode on the CPU.

    Raises FileNotFoundError, or ValueError when the file holds no Recommender.
    """
    name = read_checkpoint(path)[CLASS_KEY]
    cls = class_named(name)
    if not (isinstance(cls, type) and issubclass(cls, Recommender)):
        raise ValueError(f"{str(path)!r} names {name!r}, which is not a Recommender.")
    return cls.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()


def class_named(name: str) -> Any:
    """What stands under a dotted name such as that of a checkpoint's model; None where there is no such thing."""
    module, _, class_name = name.rpartition(".")
    return getattr(importlib.import_module(module), class_name, None)
