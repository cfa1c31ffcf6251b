"""Evaluation: collect a model's scores over Lightning's validation and test loops and turn them into metrics."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed
from torch import Tensor

from recsys.data.batches import Batch, Rows
from recsys.data.candidates import Candidates
from recsys.data.module import DataModule
from recsys.declare import nearest
from recsys.metrics import LESS_IS_BETTER, auc, best_threshold, logloss
from recsys.models.base import Recommender
from recsys.results import K, Ranked, Results, labelled_results, merge_results, ranking_results

LABELLED = ["auc", "gauc", "logloss", "calibration_error", "precision", "recall", "f1"]
RANKING = ["precision", "recall", "f1", "hit_rate", "ndcg", "map"]
MONITORS = {"rating": "rmse", "implicit": "ndcg@10"}


class Evaluation(pl.Callback):
    """Judges the validation and test loops by the logits that the model returns there.

    Logits rather than probabilities, for a float32 sigmoid near 0 or 1 makes ties of different logits. Labelled rows
    are judged over the whole part at once (`labelled_results`), with the threshold of the best validation F1;
    `Candidates` give the ranking metrics at 10 and at each of `k`, means over queries (`ranking_results`). Queries are
    ranked as soon as their last item is scored, so memory holds one block of them. `results` holds the last results of
    each part, "valid" and "test"; intervals and groups for the test part only. `rows` keeps the scores and labels of
    the last labelled rows of each part, for plots; `seconds` says how long scoring and ranking a part took.

    A loop cut short (`limit_val_batches`, `limit_test_batches`) is judged by the rows and the whole queries that it
    scored. Raises ValueError where several processes share such a loop, or where it scores no whole query.
    """

    def __init__(self, k: Sequence[int] = (5, 10, 20)) -> None:
        self.k = cut_offs(k)
        self.results: dict[str, Results] = {}
        self.rows: dict[str, tuple[Tensor, Tensor]] = {}
        self.seconds: dict[str, float] = {}
        self.threshold = 0.0
        self._pending: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._ranked: dict[int, list[Ranked]] = {}
        self._started = 0.0

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Forget the last loop."""
        self._pending, self._ranked = {}, {}
        self._started = time.perf_counter()

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
        """Keep logits and labels; rank a query as soon as all of its items are scored."""
        pending = self._pending.setdefault(dataloader_idx, [])
        if not len(batch):
            return
        pending.append((outputs.detach().float().cpu(), batch.label_B.cpu()))
        dataset = self._dataset(trainer, dataloader_idx)
        if isinstance(dataset, Candidates):
            self._pending[dataloader_idx] = self._rank(pending, dataset, dataloader_idx)

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

    def _rank(
        self, pending: list[tuple[Tensor, Tensor]], queries: Candidates, index: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Rank every complete query of `pending`; what is left waits for the next batch."""
        count = sum(len(score) for score, _ in pending)
        if count < queries.width:
            return pending
        score, label = (torch.cat([pair[n] for pair in pending]) for n in (0, 1))
        whole = count // queries.width * queries.width
        score_QI, label_QI = (x[:whole].view(-1, queries.width) for x in (score, label))
        self._ranked.setdefault(index, []).append(Ranked.of(score_QI, label_QI, self.k))
        return [(score[whole:], label[whole:])] if whole < count else []

    def _finish(self, trainer: pl.Trainer, pl_module: Any, part: str) -> None:
        if trainer.sanity_checking:
            return
        self.seconds[part] = time.perf_counter() - self._started
        found = []
        for index in sorted({*self._pending, *self._ranked}):
            dataset = self._dataset(trainer, index)
            if isinstance(dataset, Candidates):
                found.append(self._ranking(dataset, index, details=part == "test"))
            else:
                found.append(self._labelled(pl_module, dataset, index, part))
        self.results[part] = merge_results(found)
        pl_module.log_dict({f"{part}/{name}": value for name, value in self.results[part].metrics.items()})

    def _ranking(self, queries: Candidates, index: int, *, details: bool) -> Results:
        ranks = _gather(self._ranked.get(index, []))
        blocks = [block for rank in ranks for block in rank]
        count = sum(len(block.place_QK) for block in blocks)
        if not count:
            raise ValueError(
                f"no query was scored in whole: each has {queries.width} items; raise `trainer.limit_val_batches` and "
                "`trainer.limit_test_batches`."
            )
        _check_scored(count, len(queries.rows_Q), len(ranks))
        ranked = Ranked.joined(blocks)
        return ranking_results(queries.head(count), ranked.values, ranked.place_QK, ranked.hit_QK, details=details)

    def _labelled(self, model: Recommender, dataset: Rows, index: int, part: str) -> Results:
        ranks = _gather(self._pending[index])
        logit_B, label_B = (torch.cat([pair[n] for rank in ranks for pair in rank]) for n in (0, 1))
        _check_scored(len(logit_B), len(dataset), len(ranks))
        score_B = model.to_score(logit_B)
        self.rows[part] = (score_B, label_B)
        if part == "valid" and model.schema.label.kind != "rating":
            self.threshold = best_threshold(logit_B, label_B)
        details = part == "test"
        row_B = dataset.rows[: len(logit_B)]
        return labelled_results(dataset.store, row_B, logit_B, score_B, label_B, self.threshold, details=details)


def cut_offs(k: Sequence[int]) -> tuple[int, ...]:
    """The cut-offs of ranking metrics in order, 10 among them. Raises ValueError for others than positive integers."""
    if not isinstance(k, Sequence) or not k or any(not isinstance(n, int) or n < 1 for n in k):
        raise ValueError(f"`evaluation.k` must be a list of positive integers such as [5,10,20], got {k!r}.")
    return tuple(sorted({*k, K}))


def _check_scored(scored: int, due: int, processes: int) -> None:
    """Several processes share a loop in runs of its batches, so what a shorter loop scores is no first part of it."""
    if scored < due and processes > 1:
        raise ValueError(
            f"{processes} processes scored {scored} of {due} rows or queries; `trainer.limit_val_batches` and "
            "`trainer.limit_test_batches` need one process (`trainer.devices=1`)."
        )


def _gather(mine: list[Any]) -> list[list[Any]]:
    """Every process's list, in rank order, on every process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def monitor_of(
    kind: str, monitor: str | None, k: Sequence[int] = (K,), candidates: int | None = None
) -> tuple[str, str]:
    """The logged name that early stopping watches and whether it is to be "min" or "max".

    `monitor` null means AUC, RMSE (ratings) or NDCG@10 (implicit). With `candidates`, the names of ranking metrics
    say so. Raises ValueError naming the nearest metric that validation computes for labels of this `kind`.
    """
    note = f"[{candidates} sampled]" if candidates and kind == "implicit" else ""
    name = monitor or MONITORS.get(kind, "auc") + note
    ranking = [f"{metric}@{n}{note}" for n in cut_offs(k) for metric in RANKING]
    valid = {"rating": ["rmse", "mae"], "implicit": [*ranking, f"mrr{note}"]}.get(kind, LABELLED)
    if name not in valid:
        raise ValueError(f"`evaluation.monitor` got {name!r} for labels of kind {kind!r}: {nearest(name, valid)}")
    return f"valid/{name}", "min" if name in LESS_IS_BETTER else "max"


def best_possible(data: DataModule, part: int) -> dict[str, float]:
    """The scores of the true probability itself, which a simulation declares (`label.oracle`) of a yes-or-no label."""
    store = data.store
    if store.oracle_E is None or store.schema.label.kind not in ("binary", "threshold"):
        return {}
    here = np.asarray(store.part_E) == part
    score_B, label_B = (torch.from_numpy(np.array(a[here])) for a in (store.oracle_E, store.label_E))
    return {"auc": auc(score_B, label_B), "logloss": logloss(score_B, label_B)}


def evaluate(trainer: pl.Trainer, model: Recommender, data: DataModule) -> dict[str, Any]:
    """Metrics of the validation and the test part, and the test part's intervals and groups.

    `trainer` must carry an `Evaluation` callback and compute in float32.
    """
    return part_metrics(validate(trainer, model, data), test(trainer, model, data))


def validate(trainer: pl.Trainer, model: Recommender, data: DataModule) -> Results:
    """Judge the validation part, from which the threshold for F1 comes.

    Of validation rows that it has learned a model says nothing, and the threshold is its own.
    """
    evaluation = evaluation_of(trainer)
    if model.threshold is not None:
        evaluation.threshold = model.threshold
        return Results(metrics={})
    trainer.validate(model, datamodule=data, verbose=False)
    return evaluation.results["valid"]


def test(trainer: pl.Trainer, model: Recommender, data: DataModule) -> Results:
    """Judge the test part, after `validate`."""
    trainer.test(model, datamodule=data, verbose=False)
    return evaluation_of(trainer).results["test"]


def evaluation_of(trainer: pl.Trainer) -> Evaluation:
    """The `Evaluation` that a trainer carries."""
    return next(c for c in trainer.callbacks if isinstance(c, Evaluation))  # type: ignore[attr-defined]


def part_metrics(valid: Results, test: Results) -> dict[str, Any]:
    """The metrics of both parts, and the test part's intervals and groups, as metrics.json holds them."""
    return {
        "valid": valid.metrics,
        "test": test.metrics,
        "intervals": {"test": test.intervals},
        "groups": {"users": test.users, "items": test.items},
    }
