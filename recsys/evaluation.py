"""Evaluation: collect a model's scores over Lightning's validation and test loops and turn them into metrics."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed
from torch import Tensor

from recsys.data.batches import EXCLUDED, Batch, Candidates
from recsys.data.module import DataModule
from recsys.declare import nearest
from recsys.metrics import (
    auc,
    best_threshold,
    logloss,
    mae,
    precision_recall_f1,
    ranked_hits,
    ranking_metrics,
    rmse,
)
from recsys.models.base import Recommender

LESS_IS_BETTER = ("rmse", "mae", "logloss")
LABELLED = ["auc", "logloss", "precision", "recall", "f1"]
RANKING = ["precision", "recall", "f1", "hit_rate", "ndcg"]
MONITORS = {"rating": "rmse", "implicit": "ndcg@10"}


class Evaluation(pl.Callback):
    """Judges the validation and test loops by the logits that the model returns there.

    Logits rather than probabilities, for a float32 sigmoid near 0 or 1 makes ties of different logits. Labelled rows
    give AUC, logloss and, at the threshold of the best validation F1, precision, recall and F1 (or RMSE and MAE for
    ratings), computed over the whole part at once. `Candidates` give the ranking metrics at 10 and at each of `k`,
    means over users. `metrics` holds the last results as Python floats: {"valid": {...}, "test": {...}}.
    `rows` keeps the scores and labels of the last labelled rows of each part, for plots.
    """

    def __init__(self, k: Sequence[int] = (5, 10, 20)) -> None:
        if not k or any(not isinstance(n, int) or n < 1 for n in k):
            raise ValueError(f"`k` must be a list of positive integers such as [5,10,20], got {k!r}.")
        self.k = tuple(sorted({*k, 10}))
        self.metrics: dict[str, dict[str, float]] = {}
        self.rows: dict[str, tuple[Tensor, Tensor]] = {}
        self.threshold = 0.0
        self._pending: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._ranked: dict[int, list[dict[str, Tensor]]] = {}

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Forget the last loop."""
        self._pending, self._ranked = {}, {}

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Batch,
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,
    ) -> None:
        """Keep logits and labels; rank a user as soon as all of the catalogue is scored for it."""
        pending = self._pending.setdefault(dataloader_idx, [])
        pending.append((outputs.detach().float().cpu(), batch.label_B.cpu()))
        dataset = self._dataset(trainer, dataloader_idx)
        if isinstance(dataset, Candidates):
            self._pending[dataloader_idx] = self._rank(pending, dataset.items, dataloader_idx)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute and log the metrics under `valid/`."""
        self._finish(trainer, pl_module, "valid")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute and log the metrics under `test/`."""
        self._finish(trainer, pl_module, "test")

    @staticmethod
    def _dataset(trainer: pl.Trainer, index: int) -> Any:
        loaders: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        return (loaders[index] if isinstance(loaders, list) else loaders).dataset

    def _rank(self, pending: list[tuple[Tensor, Tensor]], items: int, index: int) -> list[tuple[Tensor, Tensor]]:
        """Turn every complete query of `pending` into per-query metrics; what is left waits for the next batch."""
        count = sum(len(score) for score, _ in pending)
        if count < items:
            return pending
        score, label = (torch.cat([pair[n] for pair in pending]) for n in (0, 1))
        whole = count // items * items
        score_QI, label_QI = score[:whole].view(-1, items), label[:whole].view(-1, items)
        hit_QI, _ = ranked_hits(score_QI, label_QI == 1, label_QI == EXCLUDED)
        self._ranked.setdefault(index, []).append(ranking_metrics(hit_QI, self.k))
        return [(score[whole:], label[whole:])] if whole < count else []

    def _finish(self, trainer: pl.Trainer, pl_module: Any, part: str) -> None:
        if trainer.sanity_checking:
            return
        found: dict[str, float] = {}
        for index in sorted({*self._pending, *self._ranked}):
            if isinstance(self._dataset(trainer, index), Candidates):
                assert not self._pending[index], "every process scores whole queries"
                found |= self._ranking(index)
            else:
                found |= self._labelled(pl_module, index, part)
        self.metrics[part] = found
        pl_module.log_dict({f"{part}/{name}": value for name, value in found.items()})

    def _ranking(self, index: int) -> dict[str, float]:
        blocks = [block for rank in _gather(self._ranked.get(index, [])) for block in rank]
        if not blocks:
            return {}
        return {name: float(torch.cat([b[name] for b in blocks]).mean()) for name in blocks[0]}

    def _labelled(self, model: Recommender, index: int, part: str) -> dict[str, float]:
        pairs = [pair for rank in _gather(self._pending[index]) for pair in rank]
        logit_B, label_B = (torch.cat([pair[n] for pair in pairs]) for n in (0, 1))
        score_B = model.to_score(logit_B)
        self.rows[part] = (score_B, label_B)
        if model.schema.label.kind == "rating":
            return {"rmse": rmse(score_B, label_B), "mae": mae(score_B, label_B)}
        if part == "valid":
            self.threshold = best_threshold(logit_B, label_B)
        metrics = {"auc": auc(logit_B, label_B), "logloss": logloss(score_B, label_B)}
        return metrics | precision_recall_f1(logit_B, label_B, self.threshold)


def _gather(mine: list[Any]) -> list[list[Any]]:
    """Every process's list, in rank order, on every process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def monitor_of(kind: str, monitor: str | None, k: Sequence[int] = ()) -> tuple[str, str]:
    """The logged name that early stopping watches and whether it is to be "min" or "max".

    `monitor` null means AUC, RMSE (ratings) or NDCG@10 (implicit). Raises ValueError naming the nearest metric
    that validation computes for labels of this `kind`.
    """
    name = monitor or MONITORS.get(kind, "auc")
    ranking = [f"{metric}@{n}" for n in sorted({*k, 10}) for metric in RANKING]
    valid = {"rating": ["rmse", "mae"], "implicit": [*ranking, "mrr"]}.get(kind, LABELLED)
    if name not in valid:
        raise ValueError(f"`evaluation.monitor` got {name!r} for labels of kind {kind!r}: {nearest(name, valid)}")
    return f"valid/{name}", "min" if name in LESS_IS_BETTER else "max"


def best_possible(data: DataModule, part: int) -> dict[str, float]:
    """The scores of the true probability itself, where a simulation declares it (`label.oracle`)."""
    store = data.store
    if store.oracle_E is None:
        return {}
    here = np.asarray(store.part_E) == part
    score_B, label_B = (torch.from_numpy(np.array(a[here])) for a in (store.oracle_E, store.label_E))
    return {"auc": auc(score_B, label_B), "logloss": logloss(score_B, label_B)}


def evaluate(trainer: pl.Trainer, model: pl.LightningModule, data: DataModule) -> dict[str, dict[str, float]]:
    """Metrics of the validation and the test part; the threshold for F1 comes from the validation part.

    `trainer` must carry an `Evaluation` callback and compute in float32.
    """
    evaluation = next(c for c in trainer.callbacks if isinstance(c, Evaluation))  # type: ignore[attr-defined]
    trainer.validate(model, datamodule=data, verbose=False)
    trainer.test(model, datamodule=data, verbose=False)
    return {part: dict(evaluation.metrics[part]) for part in ("valid", "test")}
