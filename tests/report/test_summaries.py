"""Summaries of labelled rows against scikit-learn and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import auc, log_loss, roc_auc_score, roc_curve, root_mean_squared_error

from recsys.report.summaries import by_count, by_true_rating, calibration, histogram, roc, summarise

RATES = ("false_positive_rate", "true_positive_rate")


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score_B = rng.random(count)
    return score_B, (rng.random(count) < score_B**2).astype("float32")


@pytest.mark.parametrize("decimals", [1, 16])
def test_roc_follows_scikit_learn(decimals):
    score_B, label_B = rows(5000)
    score_B = score_B.round(decimals)
    curve = roc(score_B, label_B)
    x, y = (curve[rate] for rate in RATES)
    exact_x, exact_y, _ = roc_curve(label_B, score_B, drop_intermediate=False)
    assert len(x) <= 200
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert {*zip(x, y, strict=True)} <= {*zip(exact_x.tolist(), exact_y.tolist(), strict=True)}
    assert auc(x, y) == pytest.approx(roc_auc_score(label_B, score_B), abs=1e-3)


def test_roc_without_one_class_keeps_its_rate_at_zero():
    assert roc(np.array([0.2, 0.4]), np.ones(2)) == {RATES[0]: [0, 0, 0], RATES[1]: [0, 1 / 2, 1]}


def test_calibration_by_loop():
    score_B, label_B = rows(1000)
    order = np.argsort(score_B)
    found = calibration(score_B, label_B)
    assert len(found) == 20
    for number, row in enumerate(found):
        here = order[number * 50 : (number + 1) * 50]
        assert row["rows"] == 50
        assert row["predicted"] == pytest.approx(score_B[here].mean())
        assert row["observed"] == pytest.approx(label_B[here].mean())


def test_equal_scores_share_a_bin():
    """A constant model is one point, not twenty random ones."""
    label_B = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    assert calibration(np.full(5, 0.25), label_B) == [{"predicted": 0.25, "observed": 3 / 5, "rows": 5}]


def test_histogram_counts_every_row_once():
    found = histogram(np.array([0.0, 0.01, 0.5, 1.0]), np.array([0, 1, 1, 0]))
    assert len(found["edges"]) == 41
    assert (found["negative"][0], found["negative"][-1], sum(found["negative"])) == (1, 1, 2)
    assert (found["positive"][0], found["positive"][20], sum(found["positive"])) == (1, 1, 2)


def test_ratings_by_true_rating():
    score_B, label_B = np.array([1.0, 2.0, 3.0, 4.0, 4.5]), np.array([1.0, 1.0, 1.0, 5.0, 5.0])
    assert by_true_rating(score_B, label_B) == [
        {"rating": 1, "mean": (1 + 2 + 3) / 3, "low": 1.5, "median": 2, "high": 2.5, "rows": 3},
        {"rating": 5, "mean": (4 + 4.5) / 2, "low": 4.125, "median": 4.25, "high": 4.375, "rows": 2},
    ]
    fine = by_true_rating(np.zeros(1000), np.linspace(1, 5, 1000))
    assert [row["rows"] for row in fine] == [100] * 10


def test_counts_are_binned_and_named():
    count_B = np.repeat([0, 1, 4, 5, 40], [10, 2, 3, 5, 5])
    found = by_count(count_B, count_B, count_B, {"least": lambda score_B, _: int(score_B.min())}, bins=4)
    assert [(row["events"], row["rows"], row["least"]) for row in found] == [
        ("0", 10, 0),
        ("1-4", 5, 1),
        ("5", 5, 5),
        ("6-40", 5, 40),
    ]


def test_metrics_by_activity_are_those_of_scikit_learn():
    score_B, label_B = rows(3000)
    user_B, item_B = np.random.default_rng(1).integers(0, 50, (2, 3000))
    found = summarise(score_B, label_B, user_B, item_B, rating=False)
    assert len(found["by_user_activity"]) == 8
    assert sum(row["rows"] for row in found["by_item_popularity"]) == 3000
    for row in found["by_user_activity"]:
        low, _, high = row["events"].partition("-")
        here = (user_B >= int(low)) & (user_B <= int(high or low))
        assert row["rows"] == here.sum()
        assert row["auc"] == pytest.approx(roc_auc_score(label_B[here], score_B[here]))
        assert row["logloss"] == pytest.approx(log_loss(label_B[here], score_B[here]))


def test_ratings_have_their_own_summaries():
    score_B, label_B = rows(100)
    count_B = np.ones(100, dtype="int64")
    found = summarise(score_B, label_B, count_B, count_B, rating=True)
    assert set(found) == {"calibration", "by_user_activity", "by_item_popularity", "by_true_rating"}
    (row,) = found["by_user_activity"]
    assert row == {"events": "1", "rows": 100, "rmse": pytest.approx(root_mean_squared_error(label_B, score_B))}


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=12))
def test_any_few_rows_are_summarised(few):
    score_B, label_B, count_B = (np.array(column) for column in zip(*few, strict=True))
    for rating in (False, True):
        found = summarise(score_B / 4, label_B, count_B, count_B, rating=rating)
        for rows in (found["calibration"], found["by_user_activity"]):
            assert sum(row["rows"] for row in rows) == len(few)


def test_auc_of_one_class_is_none():
    found = summarise(np.array([0.5]), np.array([1.0]), np.array([0]), np.array([7]), rating=False)
    assert found["by_user_activity"] == [{"events": "0", "rows": 1, "auc": None, "logloss": pytest.approx(np.log(2))}]
    assert found["by_item_popularity"][0]["events"] == "1-7"
