import warnings
from functools import partial
from math import isnan, log

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, precision_recall_curve, precision_recall_fscore_support, roc_auc_score
from torch import tensor
from torchmetrics.functional.classification import binary_calibration_error

from recsys.metrics import auc, best_threshold, calibration_error, gauc, logloss, precision_recall_f1

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


def test_gauc_by_hand():
    # Group 1: of its pairs, one in order and one tie. Group 2: the one pair is out of order. Groups 3, 4: one class.
    score_B = tensor([5.0, 3.0, 3.0, 1.0, 2.0, 9.0, 0.0])
    label_B = tensor([1, 1, 0, 1, 0, 1, 0])
    group_B = tensor([1, 1, 1, 2, 2, 3, 4])
    assert gauc(score_B, label_B, group_B) == pytest.approx((3 * (1 + 1 / 2) / 2 + 2 * 0) / (3 + 2), abs=1e-15)


def gauc_by_loop(rows, groups):
    score, label = (column.numpy() for column in columns(rows))
    total = weight = 0.0
    for group in set(groups):
        here = np.array(groups) == group
        if len(set(label[here])) == 2:
            total += here.sum() * auc(tensor(score[here]), tensor(label[here]))
            weight += here.sum()
    return total / weight if weight else float("nan")


@brute_force
@given(scored_labels, st.data())
def test_gauc_is_the_mean_auc_of_groups(rows, data):
    groups = [data.draw(st.sampled_from([-3, 0, 10**12])) for _ in rows]
    expected = gauc_by_loop(rows, groups)
    assert gauc(*columns(rows), tensor(groups)) == pytest.approx(expected, abs=1e-15, nan_ok=True)


def test_gauc_of_200k_rows_matches_sklearn():
    rng = np.random.default_rng(0)
    score, label, group = rng.integers(0, 50, N), rng.integers(0, 2, N), rng.integers(0, 300, N) ** 2
    parts = [(score[group == g], label[group == g]) for g in np.unique(group)]
    expected = np.average([roc_auc_score(y, s) for s, y in parts], weights=[len(y) for _, y in parts])
    assert gauc(tensor(score), tensor(label), tensor(group)) == pytest.approx(expected, abs=1e-12)


def test_gauc_of_one_group_is_the_auc():
    rng = np.random.default_rng(0)
    score_B, label_B = tensor(rng.integers(0, 9, 1000)), tensor(rng.integers(0, 2, 1000))
    assert gauc(score_B, label_B, torch.full((1000,), 7)) == auc(score_B, label_B)


def test_gauc_gains_nothing_from_knowing_who_clicks():
    label_B, group_B = tensor([1, 1, 1, 0, 1, 0, 0, 0]), tensor([0, 0, 0, 0, 1, 1, 1, 1])
    score_B = 1 - group_B
    assert auc(score_B, label_B) > 1 / 2
    assert gauc(score_B, label_B, group_B) == 1 / 2


def test_gauc_without_a_group_of_both_classes_is_nan():
    assert isnan(gauc(tensor([0.1, 0.9]), tensor([0, 1]), tensor([1, 2])))


def test_groups_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\) as the rows, got \(2,\)"):
        gauc(torch.rand(3), tensor([0, 1, 1]), tensor([1, 2]))


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


@pytest.mark.parametrize("metric", [logloss, calibration_error])
@pytest.mark.parametrize("outside", [-1e-9, 1 + 1e-9])
def test_a_score_that_is_no_probability_is_refused(metric, outside):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        metric(tensor([0.5, outside], dtype=torch.float64), tensor([0, 1]))


def test_calibration_error_by_hand():
    probability_B, label_B = tensor([0.0, 0.5, 0.75, 1.0], dtype=torch.float64), tensor([0, 1, 0, 1])
    # Two bins: 0 and 0.5 fall into the first, 0.75 and 1 into the second.
    first, second = abs((0 + 1) / 2 - (0 + 0.5) / 2), abs((0 + 1) / 2 - (0.75 + 1) / 2)
    assert calibration_error(probability_B, label_B, bins=2) == 2 / 4 * first + 2 / 4 * second


def calibration_error_by_loop(probability, label, bins):
    total = 0.0
    for m in range(bins):
        here = (probability > m / bins) & (probability <= (m + 1) / bins) | (m == 0) & (probability == 0)
        total += here.sum() * abs(label[here].mean() - probability[here].mean()) if here.any() else 0
    return total / len(label)


@brute_force
@given(st.lists(st.tuples(st.integers(0, 16), st.integers(0, 1)), min_size=1, max_size=12), st.sampled_from([1, 4, 8]))
def test_calibration_error_on_the_edges_of_bins_matches_a_loop(rows, bins):
    sixteenths, label = np.array(rows).T
    expected = calibration_error_by_loop(sixteenths / 16, label, bins)
    assert calibration_error(tensor(sixteenths / 16), tensor(label), bins) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("bins", [1, 15, 100])
def test_calibration_error_matches_torchmetrics(bins):
    rng = np.random.default_rng(0)
    probability_B, label_B = tensor(rng.beta(1, 3, N)), tensor(rng.integers(0, 2, N))
    expected = binary_calibration_error(probability_B, label_B, n_bins=bins, norm="l1").item()
    assert calibration_error(probability_B, label_B, bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_needs_a_bin():
    with pytest.raises(ValueError, match="`bins` must be at least 1, got 0"):
        calibration_error(tensor([0.5]), tensor([1]), bins=0)


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


@pytest.mark.parametrize(
    "metric",
    [
        auc,
        logloss,
        best_threshold,
        calibration_error,
        partial(precision_recall_f1, threshold=0.5),
        lambda score_B, label_B: gauc(score_B, label_B, torch.zeros(len(score_B)).long()),
    ],
)
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
