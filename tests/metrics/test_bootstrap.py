from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from recsys.metrics import (
    auc,
    auc_loss,
    bootstrap,
    gauc,
    labelled_intervals,
    logloss,
    mae,
    mean_intervals,
    precision_recall_f1,
    rating_intervals,
    rmse,
    rmse_loss,
)

THRESHOLD = 0.25
RESAMPLES = 40


def test_many_rows_are_resampled_less_often(monkeypatch):
    """Bug: 500 AUCs of a million rows took a minute."""
    columns = draw_rows(rows=200)
    monkeypatch.setattr(bootstrap, "AFFORDABLE", 200 * 120)
    found = labelled_intervals(*columns, THRESHOLD)
    assert found == labelled_intervals(*columns, THRESHOLD, resamples=120)
    assert found != labelled_intervals(*columns, THRESHOLD, resamples=500)


def draw_rows(users=30, rows=200, seed=0):
    """Logits with ties and a temperature, so that no probability is calibrated; users of very unequal activity."""
    rng = np.random.default_rng(seed)
    logit = np.round(rng.normal(0, 1, rows), 1)
    label = rng.random(rows) < 1 / (1 + np.exp(-logit))
    user = 7 * np.minimum(rng.geometric(3 / users, rows), users)
    return tensor(logit), torch.sigmoid(4 * tensor(logit)), tensor(label).long(), tensor(user)


def labelled_metrics(logit_B, probability_B, label_B, user_B):
    mixed = 0 < label_B.sum() < len(label_B)
    return {
        "auc": auc(logit_B, label_B) if mixed else np.nan,
        "gauc": gauc(logit_B, label_B, user_B),
        "logloss": logloss(probability_B, label_B),
        **precision_recall_f1(logit_B, label_B, THRESHOLD),
    }


def rating_metrics(score_B, label_B, user_B):
    return {"rmse": rmse(score_B, label_B), "mae": mae(score_B, label_B)}


def intervals_by_repeating_rows(metrics, *columns, seed=0, level=0.95):
    """Draw users and repeat their rows for real; each time that a user is drawn it is another user."""
    rng = np.random.default_rng(seed)
    rows_U = [np.flatnonzero(columns[-1] == user) for user in np.unique(columns[-1])]
    found = []
    for _ in range(RESAMPLES):
        drawn = [rows_U[n] for n in rng.integers(len(rows_U), size=len(rows_U))]
        repeated = [column[np.concatenate(drawn)] for column in columns[:-1]]
        draw_B = np.repeat(np.arange(len(drawn)), [len(rows) for rows in drawn])
        found.append(metrics(*repeated, tensor(draw_B)))
    tails = [(1 - level) / 2, (1 + level) / 2]
    return {name: tuple(np.nanquantile([values[name] for values in found], tails)) for name in found[0]}


def near(expected):
    return {name: pytest.approx(value, rel=1e-10, abs=1e-12, nan_ok=True) for name, value in expected.items()}


labelled = partial(labelled_intervals, threshold=THRESHOLD, resamples=RESAMPLES)


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("users", [3, 30])
def test_labelled_intervals_match_repeating_rows(users, level):
    columns = draw_rows(users)
    expected = intervals_by_repeating_rows(labelled_metrics, *columns, seed=5, level=level)
    assert labelled(*columns, seed=5, level=level) == near(expected)


def test_rating_intervals_match_repeating_rows():
    score_B, _, label_B, user_B = draw_rows()
    expected = intervals_by_repeating_rows(rating_metrics, score_B, label_B, user_B, seed=5, level=0.8)
    assert rating_intervals(score_B, label_B, user_B, resamples=RESAMPLES, seed=5, level=0.8) == near(expected)


def test_mean_intervals_match_repeating_queries():
    first_Q, second_Q, _, user_Q = draw_rows()
    second_Q = second_Q.masked_fill(user_Q % 3 == 0, torch.nan)

    def means(first, second, _):
        return {"first": first.mean().item(), "second": second.nanmean().item()}

    expected = intervals_by_repeating_rows(means, first_Q, second_Q, user_Q, seed=5, level=0.8)
    values = {"first": first_Q, "second": second_Q}
    assert mean_intervals(values, user_Q, resamples=RESAMPLES, seed=5, level=0.8) == near(expected)


def losses(of, less_is_better):
    """The loss of the second scores against the first, of a metric."""

    def loss(first, second, label, _):
        ours, theirs = of(first, label), of(second, label)
        return {"loss": theirs - ours if less_is_better else ours - theirs}

    return loss


@pytest.mark.parametrize(("interval", "of", "less"), [(auc_loss, auc, False), (rmse_loss, rmse, True)])
def test_losses_match_repeating_rows_for_both_scores_at_once(interval, of, less):
    score_B, other_B, label_B, user_B = draw_rows()
    other_B = other_B + tensor(np.random.default_rng(1).normal(0, 0.3, len(other_B)))
    expected = intervals_by_repeating_rows(losses(of, less), score_B, other_B, label_B, user_B, seed=5, level=0.8)
    found = interval(score_B, other_B, label_B, user_B, resamples=RESAMPLES, seed=5, level=0.8)
    assert {"loss": found} == near(expected)
    back = interval(other_B, score_B, label_B, user_B, resamples=RESAMPLES, seed=5, level=0.8)
    assert back == pytest.approx((-found[1], -found[0]))
    assert interval(score_B, score_B, label_B, user_B) == (0, 0)


@pytest.fixture
def everyone_once(monkeypatch):
    """Every resample is the users themselves."""
    monkeypatch.setattr(bootstrap, "_weights", lambda _, *shape: torch.ones(shape).double())


def test_weights_of_1_give_the_metrics_themselves(everyone_once):
    columns = draw_rows(rows=5000)
    found, expected = labelled(*columns), labelled_metrics(*columns)
    assert found == near({name: (value, value) for name, value in expected.items()})
    for name in ("auc", "precision", "recall", "f1"):
        assert found[name] == (expected[name], expected[name])


def test_weights_of_1_give_the_errors_themselves(everyone_once):
    score_B, _, label_B, user_B = draw_rows(rows=5000)
    expected = rating_metrics(score_B, label_B, user_B)
    assert rating_intervals(score_B, label_B, user_B) == near({name: (x, x) for name, x in expected.items()})


rows = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 0.25, 3.0]), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=10
)


@pytest.mark.filterwarnings("ignore:All-NaN")
@settings(deadline=None, max_examples=30)
@given(rows)
def test_intervals_of_few_rows_match_repeating_rows(rows):
    logit_B, label_B, user_B = (tensor(column) for column in zip(*rows, strict=True))
    columns = logit_B, logit_B.sigmoid(), label_B, user_B
    assert labelled(*columns) == near(intervals_by_repeating_rows(labelled_metrics, *columns))


def test_intervals_contain_the_metric():
    columns = draw_rows(users=200, rows=5000)
    found, expected = labelled_intervals(*columns, THRESHOLD), labelled_metrics(*columns)
    assert list(found) == list(expected)
    for name, (low, high) in found.items():
        assert low < expected[name] < high, name


@pytest.mark.parametrize("seed", range(3))
def test_more_users_make_narrower_intervals(seed):
    few = labelled_intervals(*draw_rows(users=50, rows=1000, seed=seed), THRESHOLD)
    many = labelled_intervals(*draw_rows(users=5000, rows=100_000, seed=seed), THRESHOLD, resamples=100)
    for name, (low, high) in many.items():
        assert high - low < (few[name][1] - few[name][0]) / 3, name


def test_the_interval_of_a_mean_agrees_with_the_central_limit_theorem():
    value_Q = tensor(np.random.default_rng(0).exponential(size=2000))
    low, high = mean_intervals({"gain": value_Q}, torch.arange(2000), resamples=4000)["gain"]
    half = 1.96 * value_Q.std().item() / 2000**0.5
    assert (low, high) == pytest.approx((value_Q.mean().item() - half, value_Q.mean().item() + half), abs=0.05 * half)


def test_repeating_the_rows_of_users_adds_no_certainty():
    columns = draw_rows()
    tripled = [column.repeat(3) for column in columns]
    assert labelled(*tripled) == near(labelled(*columns))


def test_a_seed_repeats_its_intervals_and_leaves_global_generators_alone():
    columns = draw_rows()
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert labelled(*columns, seed=3) == labelled(*columns, seed=3) != labelled(*columns, seed=4)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002


def test_intervals_do_not_depend_on_the_block(monkeypatch):
    columns = draw_rows()
    whole = labelled(*columns)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * len(columns[0]))
    assert labelled(*columns) == near(whole)


def test_resamples_of_one_class_are_left_out_of_the_auc():
    """Of users 1 and 2, drawn twice, only both together have both classes, and then in order."""
    logit_B, label_B, user_B = tensor([1.0, 2.0]), tensor([0, 1]), tensor([1, 2])
    found = labelled(logit_B, logit_B.sigmoid(), label_B, user_B)
    assert found["auc"] == (1, 1)
    assert np.isnan(found["gauc"]).all()


def test_a_metric_without_values_has_no_interval():
    found = mean_intervals({"mrr": tensor([0.5, 0.5]), "novelty": tensor([torch.nan, torch.nan])}, tensor([1, 2]))
    assert found == {"mrr": (0.5, 0.5), "novelty": pytest.approx((np.nan, np.nan), nan_ok=True)}


@pytest.mark.parametrize(
    ("values", "users", "options", "rule"),
    [
        ({}, 2, {}, "`values` must hold at least one metric"),
        ({"mrr": torch.ones(3)}, 2, {}, r"`mrr` must have shape \(2,\) as the users, got \(3,\)"),
        ({"mrr": torch.ones(0)}, 0, {}, "at least one row"),
        ({"mrr": torch.ones(2)}, 2, {"resamples": 0}, "`resamples` must be at least 1, got 0"),
        ({"mrr": torch.ones(2)}, 2, {"level": 95}, r"`level` must be in \(0, 1\) such as 0.95, got 95"),
    ],
)
def test_unusable_arguments_are_refused(values, users, options, rule):
    with pytest.raises(ValueError, match=rule):
        mean_intervals(values, torch.arange(users), **options)


def test_users_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(200,\) as the rows, got \(199,\)"):
        labelled(*draw_rows()[:3], torch.zeros(199).long())
