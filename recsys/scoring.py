"""Evaluation of a classical model: the results of Lightning's loops, from whole blocks of scores."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, from_numpy

from recsys.classical.base import blocks
from recsys.classical.fitted import Fitted
from recsys.data.batches import Rows
from recsys.data.candidates import Candidates
from recsys.data.module import DataModule
from recsys.data.split import TEST, VALID
from recsys.evaluation import part_metrics
from recsys.metrics import best_threshold
from recsys.results import Ranked, Results, labelled_results, merge_results, ranking_results


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A part's results; scores and labels (B,) of its labelled rows, if any; `seconds` that scoring and ranking took.

    `threshold` is the one that the F1 of its labels of 0 and 1 is computed with.
    """

    results: Results
    rows: tuple[Tensor, Tensor] | None
    threshold: float
    seconds: float


def judge(fitted: Fitted, data: DataModule, part: int, ks: Sequence[int], threshold: float | None = None) -> Judged:
    """Score and rank a part; intervals and groups for the test part only.

    Without a `threshold`, the one with this part's best F1 is taken.
    """
    details, found, rows, seconds = part == TEST, [], None, 0.0
    for dataset in data.judged(part):
        started = time.perf_counter()
        if isinstance(dataset, Candidates):
            ranked = rank(fitted, dataset, ks)
            seconds += time.perf_counter() - started
            found.append(ranking_results(dataset, ranked.values, ranked.place_QK, ranked.hit_QK, details=details))
            continue
        logit_B, label_B = fitted.score_rows(dataset), _labels(dataset)
        seconds += time.perf_counter() - started
        if threshold is None and fitted.schema.label.kind != "rating":
            threshold = best_threshold(logit_B, label_B)
        rows = fitted.to_score(logit_B), label_B
        found.append(labelled_results(data.store, dataset.rows, logit_B, *rows, threshold or 0.0, details=details))
    return Judged(results=merge_results(found), rows=rows, threshold=threshold or 0.0, seconds=seconds)


def evaluate_fitted(fitted: Fitted, data: DataModule, ks: Sequence[int]) -> dict[str, Any]:
    """What `recsys.evaluation.evaluate` says of a deep model; none of validation rows it learned."""
    valid = Results(metrics={}) if fitted.saw_valid else judge(fitted, data, VALID, ks, fitted.threshold).results
    return part_metrics(valid, judge(fitted, data, TEST, ks, fitted.threshold).results)


def rank(fitted: Fitted, queries: Candidates, ks: Sequence[int]) -> Ranked:
    """Rank all queries, one block of users with all their items at a time."""
    found = []
    for block in blocks(len(queries.rows_Q), max(queries.width, queries.store.items)):
        score_QI, label_QI = fitted.rank_queries(queries, np.arange(block.start, block.stop))
        found.append(Ranked.of(score_QI, label_QI, ks))
    return Ranked.joined(found)


def _labels(rows: Rows) -> Tensor:
    return from_numpy(np.array(rows.store.label_E[rows.rows], dtype="float32"))
