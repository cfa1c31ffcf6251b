import warnings
from functools import partial
from math import log

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, precision_recall_curve, precision_recall_fscore_support, roc_auc_score
from torch import tensor

from recsys.metrics import auc, best_threshold, logloss, precision_recall_f1

EPS = np.finfo(np.float64).eps
N = 200_000

scored_labels = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.0, 0.0, 0.5, 0.5 + EPS, 7.0, float("inf")]), st.integers(0, 1)),
    min_size=1,
    max_size=12,
)
brute_force = settings(deadline=None, max_examples=50)


def columns(rows):
    score, label = zip(*rows, strict=True)
    return tensor(score, dtype=torch.float64), tensor(label)


def f1_by_loop(rows, threshold):
    hits = sum(y for s, y in rows if s >= threshold)
    predicted, actual = sum(s >= threshold for s, _ in rows), sum(y for _, y in rows)
    return 2 * hits / (predicted + actual)


def test_auc_by_hand():
    label_B = tensor([1, 0, 1, 0])
    assert auc(tensor([4.0, 3.0, 2.0, 1.0]), label_B) == (1 + 1 + 0 + 1) / 4
    assert auc(tensor([4.0, 2.0, 2.0, 1.0]), label_B) == (1 + 1 + 1 / 2 + 1) / 4
    assert auc(tensor([7.0, 7.0, 7.0, 7.0]), label_B) == 1 / 2


@brute_force
@given(scored_labels)
def test_auc_is_the_share_of_pairs_in_order(rows):
    pairs = [(p > n) + (p == n) / 2 for p, y in rows for n, z in rows if y == 1 and z == 0]
    assume(pairs)
    assert auc(*columns(rows)) == pytest.approx(sum(pairs) / len(pairs), abs=1e-15)


@pytest.mark.parametrize(
    ("draw", "positive_rate"),
    [
        pytest.param(lambda rng: rng.random(N), 0.3, id="uniform"),
        pytest.param(lambda rng: rng.integers(0, 5, N) / 4, 0.3, id="five values"),
        pytest.param(lambda _: np.full(N, 0.5), 0.3, id="constant"),
        pytest.param(lambda rng: rng.normal(0, 1000, N), 0.3, id="where a sigmoid saturates"),
        pytest.param(lambda rng: 1 + rng.integers(0, 9, N) * EPS, 0.3, id="one ulp apart"),
        pytest.param(lambda rng: rng.random(N), 1e-4, id="rare positives"),
    ],
)
def test_auc_of_200k_rows_matches_sklearn(draw, positive_rate):
    rng = np.random.default_rng(0)
    score, label = draw(rng), (rng.random(N) < positive_rate).astype(int)
    assert auc(tensor(score), tensor(label)) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_auc_takes_any_dtype(dtype):
    assert auc(tensor([3, 1, 2]).to(dtype), tensor([True, False, False])) == 1


@pytest.mark.parametrize("label", [0, 1])
def test_auc_of_one_class_is_refused(label):
    with pytest.raises(ValueError, match="both classes"):
        auc(torch.rand(3), torch.full((3,), label))


def test_logloss_by_hand():
    probability_B = tensor([0.8, 0.4], dtype=torch.float64)
    expected = -(log(0.8) + log(1 - 0.4)) / 2
    assert logloss(probability_B, tensor([1, 0])) == pytest.approx(expected, abs=1e-15)


def test_a_certain_mistake_costs_the_log_of_eps():
    assert logloss(tensor([0.0, 1.0]), tensor([1, 0])) == pytest.approx(-log(EPS), abs=1e-12)


def test_logloss_of_extreme_probabilities_matches_sklearn():
    rng = np.random.default_rng(0)
    edges = [0.0, 1.0, EPS, EPS / 2, 1 - EPS, 1e-300, 5e-324]
    sigmoid = 1 / (1 + np.exp(rng.normal(0, 40, N)))
    probability = np.concatenate([rng.random(N), sigmoid, np.tile(edges, 1000)])
    label = rng.integers(0, 2, len(probability))
    expected = log_loss(label, probability)
    assert logloss(tensor(probability), tensor(label)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("outside", [-1e-9, 1 + 1e-9])
def test_logloss_of_a_score_that_is_no_probability_is_refused(outside):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        logloss(tensor([0.5, outside], dtype=torch.float64), tensor([0, 1]))


def test_best_threshold_by_hand():
    score_B, label_B = tensor([4.0, 3.0, 2.0, 1.0]), tensor([1, 0, 1, 0])
    # F1 at 4, 3, 2, 1: 2 * 1 / (1 + 2), 2 * 1 / (2 + 2), 2 * 2 / (3 + 2), 2 * 2 / (4 + 2)
    assert best_threshold(score_B, label_B) == 2


def test_best_threshold_is_the_highest_of_equal_ones():
    # F1 at 3, 2, 1: 2 * 1 / (1 + 2) = 2 / 3, then 2 * 1 / (2 + 2), then 2 * 2 / (4 + 2) = 2 / 3
    assert best_threshold(tensor([3.0, 2.0, 1.0, 1.0]), tensor([1, 0, 1, 0])) == 3
    assert best_threshold(tensor([3.0, 2.0]), tensor([0, 0])) == 3


@brute_force
@given(scored_labels)
def test_best_threshold_beats_every_other(rows):
    expected = max((s for s, _ in rows), key=lambda s: (f1_by_loop(rows, s), s))
    assert best_threshold(*columns(rows)) == expected


def test_best_threshold_of_200k_tied_rows_matches_sklearn():
    rng = np.random.default_rng(0)
    score = rng.integers(0, 1000, N) / 7 - 50
    label = (rng.random(N) < 1 / (1 + np.exp(-score / 20))).astype(int)
    precision, recall, threshold = precision_recall_curve(label, score)
    f1 = 2 * precision * recall / (precision + recall)
    assert best_threshold(tensor(score), tensor(label)) == threshold[f1[:-1].argmax()]


@brute_force
@given(scored_labels, st.sampled_from([-9.0, 0.0, 0.5, 0.6, 9.0]))
def test_precision_recall_f1_match_sklearn(rows, threshold):
    score_B, label_B = columns(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = precision_recall_fscore_support(
            label_B.numpy(), (score_B >= threshold).numpy(), average="binary", zero_division=0
        )[:3]
    actual = precision_recall_f1(score_B, label_B, threshold)
    assert actual == pytest.approx(dict(zip(("precision", "recall", "f1"), expected, strict=True)), abs=1e-15)


def test_undefined_precision_recall_and_f1_are_0():
    zeros = {"precision": 0, "recall": 0, "f1": 0}
    assert precision_recall_f1(tensor([0.1, 0.2]), tensor([0, 1]), threshold=0.5) == zeros
    assert precision_recall_f1(tensor([0.1, 0.2]), tensor([0, 0]), threshold=0.0) == zeros
    assert precision_recall_f1(tensor([0.1, 0.2]), tensor([0, 0]), threshold=0.5) == zeros


def test_the_best_threshold_keeps_its_f1_through_float32():
    score_B, label_B = tensor([0.1, 0.7, 0.9]), tensor([0, 1, 1])
    assert precision_recall_f1(score_B, label_B, best_threshold(score_B, label_B))["f1"] == 1


@pytest.mark.parametrize("metric", [auc, logloss, best_threshold, partial(precision_recall_f1, threshold=0.5)])
@pytest.mark.parametrize(
    ("score_B", "label_B", "rule"),
    [
        (torch.zeros(0), torch.zeros(0), "at least one row"),
        (torch.zeros(2, 1), tensor([0, 1]), "shape"),
        (tensor([0.5, float("nan")]), tensor([0, 1]), "NaN"),
        (tensor([0.5, 0.5]), tensor([0, 5]), "0 and 1 only, got 5.0"),
    ],
)
def test_unusable_input_is_refused(metric, score_B, label_B, rule):
    with pytest.raises(ValueError, match=rule):
        metric(score_B, label_B)
