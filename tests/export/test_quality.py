"""Scores judged by the metric that fits the label, against scikit-learn, plain loops and the model itself."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_absolute_error, roc_auc_score, root_mean_squared_error

from export.artifact import model_scores
from export.quality import Judge
from export.rows import RawRows
from recsys.data.candidates import EXCLUDED
from recsys.data.split import TEST, VALID

ALL = 10**6
KINDS = ["binary", "rating", "implicit"]


def random_scores(judge: Judge, seed: int) -> torch.Tensor:
    """Probabilities with ties."""
    return torch.from_numpy(np.random.default_rng(seed).integers(1, 20, len(judge.row_B)) / 20).float()


def ndcg_of_one_liked(score_QC: np.ndarray, label_QC: np.ndarray) -> list[float]:
    """NDCG@10 of each query: its liked item stands at place 0, and ties count against it."""
    found = []
    for score_C, label_C in zip(score_QC, label_QC, strict=True):
        above = sum(s >= score_C[0] and label == 0 for s, label in zip(score_C, label_C, strict=True))
        found.append(1 / np.log2(above + 2) if above < 10 else 0.0)
    return found


def test_yes_or_no_labels_are_judged_by_auc_and_logloss(raw_rows):
    raw = raw_rows("binary")
    judge = Judge(raw, VALID, ALL)
    rows = np.flatnonzero(raw.store.part_E == VALID)
    assert judge.row_B.tolist() == rows.tolist()
    assert judge.item_B.tolist() == raw.store.item_E[rows].tolist()
    score, label = random_scores(judge, 0), raw.store.label_E[rows]
    expected = {"auc": roc_auc_score(label, score), "logloss": log_loss(label, score.double())}
    assert judge.metrics(score) == pytest.approx(expected)
    assert judge.metric == "auc"


def test_ratings_are_judged_by_their_errors(raw_rows):
    raw = raw_rows("rating")
    judge = Judge(raw, TEST, ALL)
    score, label = random_scores(judge, 0), raw.store.label_E[raw.store.part_E == TEST]
    expected = {"rmse": root_mean_squared_error(label, score), "mae": mean_absolute_error(label, score)}
    assert judge.metrics(score) == pytest.approx(expected)
    assert judge.metric == "rmse"


def test_implicit_data_is_judged_by_the_place_of_each_liked_item_among_others(raw_rows):
    raw = raw_rows("implicit")
    judge, store = Judge(raw, VALID, ALL), raw.store
    users, items = (of.reshape(-1, judge.width) for of in (store.user_E[judge.row_B], judge.item_B))
    labels = judge.label.numpy().reshape(-1, judge.width)
    assert judge.metric == f"ndcg@10[{judge.width - 1} sampled]"
    for user_C, item_C, label_C in zip(users, items, labels, strict=True):
        assert len(set(user_C)) == 1
        met = set(store.item_E[(store.user_E == user_C[0]) & (store.part_E <= VALID)])
        assert label_C[0] == 1
        assert item_C[0] in met
        assert not met & {item for item, label in zip(item_C, label_C, strict=True) if label == 0}
    score = random_scores(judge, 0)
    expected = ndcg_of_one_liked(score.numpy().reshape(labels.shape), labels)
    assert judge.metrics(score) == pytest.approx({judge.metric: np.mean(expected)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_is_how_much_worse_the_other_scores_are(raw_rows, kind):
    judge = Judge(raw_rows(kind), VALID, ALL)
    best = judge.label.clamp(0, 1)
    noisy = 0.2 * best + 0.8 * random_scores(judge, 1)
    loss, low, high = judge.loss(best, noisy)
    assert 0 < low <= loss <= high
    name = judge.metric
    assert loss == pytest.approx(abs(judge.metrics(best)[name] - judge.metrics(noisy)[name]))
    assert judge.loss(noisy, best) == pytest.approx((-loss, -high, -low))
    assert judge.loss(noisy, noisy) == (0, 0, 0)


def test_the_interval_of_an_implicit_loss_is_that_of_resampled_users(raw_rows):
    judge = Judge(raw_rows("implicit"), VALID, ALL)
    scores = [random_scores(judge, seed) for seed in (0, 1)]
    label_QC = judge.label.numpy().reshape(-1, judge.width)
    ours, theirs = (np.array(ndcg_of_one_liked(s.numpy().reshape(label_QC.shape), label_QC)) for s in scores)
    rng, user_Q = np.random.default_rng(0), judge.user.numpy()
    of_user = [ours[user_Q == user] - theirs[user_Q == user] for user in np.unique(user_Q)]
    draws = (rng.integers(len(of_user), size=len(of_user)) for _ in range(1000))
    means = [np.mean(list(itertools.chain(*(of_user[n] for n in drawn)))) for drawn in draws]
    assert judge.loss(*scores)[1:] == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-9)


@pytest.mark.parametrize(("kind", "rows"), [("binary", 60), ("rating", 60), ("implicit", 250)])
def test_fewer_rows_are_drawn_among_all_and_always_the_same(raw_rows, kind, rows):
    whole, some, again = (Judge(raw_rows(kind), VALID, most) for most in (ALL, rows, rows))
    assert rows // 2 < len(some.row_B) <= rows < len(whole.row_B)
    assert set(zip(some.row_B, some.item_B, strict=True)) <= set(zip(whole.row_B, whole.item_B, strict=True))
    assert (some.row_B == again.row_B).all()
    assert (some.row_B[1:] >= some.row_B[:-1]).all()
    assert len(some.label) == len(some.row_B)


@pytest.mark.parametrize(("name", "kind"), [("deepfm", "binary"), ("mf", "implicit")])
def test_scores_are_the_models(exported, name, kind):
    made = exported(name, kind)
    judge = Judge(made.raw, VALID, ALL)
    expected = model_scores(made.model, made.raw, judge.row_B, judge.item_B)
    np.testing.assert_allclose(judge.scores(made.open("recommender")), expected, atol=1e-5)
    assert (judge.label[judge.label == EXCLUDED].numel() > 0) == (kind == "implicit")


def test_rows_of_one_label_are_refused(raw_rows):
    raw = raw_rows("binary")
    ones = dataclasses.replace(raw.store, label_E=np.ones_like(raw.store.label_E))
    with pytest.raises(ValueError, match=r"the 9 rows to judge by hold one label only; judge more \(`compress.rows`\)"):
        Judge(RawRows(ones, raw.events), VALID, 9)
