"""What every classical model promises."""

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.classical import base
from recsys.classical.ease import EASE
from recsys.classical.ials import IALS
from recsys.classical.knn import ItemKNN, UserKNN
from recsys.classical.nmf import NMF, FullNMF
from recsys.classical.popularity import Popularity
from recsys.classical.ratings import Ratings
from recsys.classical.svd import SVD
from recsys.classical.truncated_svd import TruncatedSVD
from recsys.metrics import ndcg_at_k, ranked_hits

MODELS = {
    "popularity": Popularity,
    "item_knn": ItemKNN,
    "user_knn": UserKNN,
    "item_knn_table": lambda: ItemKNN(table=3),
    "svd": lambda: SVD(embedding_dim=3),
    "truncated_svd": lambda: TruncatedSVD(embedding_dim=3),
    "nmf": lambda: NMF(embedding_dim=3),
    "full_nmf": lambda: FullNMF(embedding_dim=3),
    "ease": lambda: EASE(reg=2.0),
    "ials": lambda: IALS(embedding_dim=4),
}
CASES = [(name, kind) for name in MODELS for kind in ("ratings", "implicit") if kind in MODELS[name]().feedback]
cases = pytest.mark.parametrize(("name", "kind"), CASES)


@cases
def test_a_model_fitted_again_forgets_what_it_knew(seven, name, kind):
    few = Ratings.from_events(
        *(a[:12] for a in (seven.user_N, seven.item_N, seven.value_N)), users=8, items=6, scale=seven.scale
    )
    again, fresh = MODELS[name](), MODELS[name]()
    again.fit(feedback(few, kind)).score_items(np.arange(8))
    expected = fresh.fit(feedback(seven, kind)).score_items(np.arange(8))
    assert (again.fit(feedback(seven, kind)).score_items(np.arange(8)) == expected).all()


def feedback(seven, kind):
    """The seven users' ratings, or just that they rated."""
    if kind == "ratings":
        return seven
    return Ratings.from_events(seven.user_N, seven.item_N, users=seven.users, items=seven.items)


@cases
def test_cold_users_and_items_get_a_prior_and_never_an_error(seven, name, kind):
    model = MODELS[name]().fit(feedback(seven, kind))
    user_B, item_B = (a.ravel() for a in np.meshgrid([0, 7, -1, 99], [0, 5, -1, 99]))
    score_B = model.score(user_B, item_B)
    assert score_B.shape == (16,)
    assert np.isfinite(score_B).all()
    assert len(model.score(np.array([]), np.array([]))) == 0
    scores_UI = model.score_items(np.array([7, -1, 0]))
    assert np.isfinite(scores_UI).all()
    assert (scores_UI[0] == scores_UI[1]).all()
    if kind == "implicit":  # a stranger is shown what most users met
        assert (np.argsort(-scores_UI[0], kind="stable") == np.argsort(-model.learned["count_I"], kind="stable")).all()
    else:
        assert score_B.min() >= 1
        assert score_B.max() <= 5


@cases
def test_all_items_are_scored_like_pairs(seven, name, kind):
    if name == "popularity" and kind == "ratings":
        pytest.skip("ranks by another figure than the mean rating")
    model = MODELS[name]().fit(feedback(seven, kind))
    user_UI, item_UI = np.meshgrid(np.arange(8), np.arange(6), indexing="ij")
    expected = model.score(user_UI.ravel(), item_UI.ravel()).reshape(8, 6)
    np.testing.assert_allclose(np.clip(model.score_items(np.arange(8)), *model.learned["scale"]), expected, atol=1e-9)


@cases
@pytest.mark.parametrize("block", [1, 2**22])
def test_the_best_items_come_first_without_those_met(seven, name, kind, block, monkeypatch):
    monkeypatch.setattr(base, "BLOCK", block)
    model = MODELS[name]().fit(feedback(seven, kind))
    item_UK, score_UK = model.top_k(np.arange(8), k=9)
    scores_UI, met_UI = model.score_items(np.arange(8)), np.zeros((8, 6), dtype=bool)
    met_UI[seven.user_N, seven.item_N] = True
    for user in range(8):
        wanted = sorted(np.flatnonzero(~met_UI[user]), key=lambda item: (-scores_UI[user, item], item))
        assert item_UK[user].tolist() == wanted + [-1] * (6 - len(wanted))
        np.testing.assert_allclose(score_UK[user, : len(wanted)], scores_UI[user, wanted], atol=1e-12)
    assert (model.top_k(np.arange(8), k=6, exclude_seen=False)[0] >= 0).all()


@cases
def test_a_model_is_its_settings_and_plain_arrays(seven, name, kind, tmp_path):
    model = MODELS[name]().fit(feedback(seven, kind))
    np.savez(tmp_path / "model.npz", **model.learned)
    with np.load(tmp_path / "model.npz", allow_pickle=False) as arrays:
        again = type(model).restore(model.settings, arrays)
    user_UI, item_UI = (a.ravel() for a in np.meshgrid(np.arange(8), np.arange(6)))
    assert (again.score(user_UI, item_UI) == model.score(user_UI, item_UI)).all()
    assert again.settings == model.settings


@cases
def test_fitting_again_gives_the_same_bits(seven, name, kind):
    ratings = feedback(seven, kind)
    one, other = MODELS[name]().fit(ratings), MODELS[name]().fit(ratings)
    assert all(np.array_equal(one.learned[n], other.learned[n]) for n in one.learned)


@pytest.mark.parametrize("name", [name for name, kind in CASES if kind == "implicit" and name != "popularity"])
def test_the_one_item_left_of_a_users_kind_is_recommended(checkerboard, name):
    item_UK, _ = MODELS[name]().fit(checkerboard).top_k(np.arange(24), k=1)
    user = np.arange(24)
    assert item_UK[:, 0].tolist() == ((user // 2) % 8 * 2 + user % 2).tolist()


def test_feedback_that_does_not_fit_is_refused(seven, checkerboard):
    with pytest.raises(ValueError, match="IALS cannot be fitted on ratings feedback; use model=svd"):
        IALS().fit(seven)
    with pytest.raises(ValueError, match="SVD cannot be fitted on implicit feedback; use model=ials"):
        SVD().fit(checkerboard)


def test_a_model_that_was_not_fitted_says_so():
    with pytest.raises(RuntimeError, match="Popularity has learned nothing yet: call fit"):
        Popularity().score(np.array([0]), np.array([0]))


def test_a_list_has_at_least_one_place(seven):
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        Popularity().fit(seven).top_k(np.array([0]), k=0)


def test_the_mean_of_few_ratings_is_drawn_to_that_of_all(seven):
    model = Popularity(damping=2.0).fit(seven)
    of_first = seven.by_item.toarray()[0]
    expected = (of_first.sum() + 2 * seven.value_N.mean()) / ((of_first > 0).sum() + 2)
    np.testing.assert_allclose(model.score(np.array([3, -1]), np.array([0, 0])), expected)


@pytest.mark.parametrize(
    ("model", "least", "most"),
    [
        (Popularity(), 0.24, 0.26),
        (EASE(), 0.485, 1),
        (IALS(), 0.48, 1),
        (ItemKNN(k=100), 0.42, 1),
        (UserKNN(k=100), 0.42, 1),
    ],
)
def test_movielens_top_10_reaches_the_published_quality(real_data, model, least, most):
    frame = pd.read_parquet(real_data / "ml-100k" / "topn_split.parquet")
    train, test = frame[frame.split == "train"], frame[frame.split == "test"]
    model.fit(Ratings.from_events(train.user, train.item, users=944, items=1683))
    relevant = torch.zeros(944, 1683, dtype=torch.bool)
    relevant[np.array(test.user), np.array(test.item)] = True
    users = np.unique(test.user)
    seen = torch.zeros(len(users), 1683, dtype=torch.bool)
    seen[model.seen(users)] = True
    seen[:, 0] = True  # the position 0 is no film
    hit, _ = ranked_hits(torch.from_numpy(model.score_items(users)), relevant[users], seen)
    assert least <= float(ndcg_at_k(hit, 10).mean()) <= most
