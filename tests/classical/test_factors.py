import numpy as np
import pytest

from recsys.classical.biases import fit_biases
from recsys.classical.ease import EASE
from recsys.classical.ials import IALS
from recsys.classical.nmf import NMF, FullNMF
from recsys.classical.popularity import Popularity
from recsys.classical.ratings import Ratings
from recsys.classical.svd import SVD
from recsys.classical.truncated_svd import TruncatedSVD

GRID = tuple(a.ravel() for a in np.meshgrid(np.arange(40), np.arange(30), indexing="ij"))


def low_rank(seed=0, share=0.7):
    """The whole of a table of rank 2 with positive factors, and the ratings of a share of it."""
    rng = np.random.default_rng(seed)
    table = rng.uniform(0.5, 1.5, (40, 2)) @ rng.uniform(0.5, 1.5, (2, 30))
    seen = rng.random(table.shape) < share
    user_E, item_E = np.nonzero(seen)
    return table, seen, Ratings.from_events(user_E, item_E, table[seen], users=40, items=30)


@pytest.mark.parametrize(
    "model",
    [
        SVD(embedding_dim=2, reg=1e-3, reg_bias=1e-3, epochs=100),
        NMF(embedding_dim=2, reg=1e-4, epochs=300),
    ],
)
def test_ratings_held_out_of_a_table_of_rank_two_are_found_again(model):
    table, seen, ratings = low_rank()
    score = model.fit(ratings).score(*GRID).reshape(table.shape)
    assert np.abs(score - table)[~seen].max() < 0.05


@pytest.mark.parametrize(
    "model",
    [SVD(embedding_dim=2), NMF(), FullNMF(embedding_dim=2), Popularity()]
    + [TruncatedSVD(embedding_dim=2, centre=centre) for centre in ("user", "item", "baseline")],
    ids=lambda model: type(model).__name__,
)
def test_products_of_vectors_are_the_scores(model):
    _, _, ratings = low_rank()
    user_UD, item_ID = model.fit(ratings).vectors()
    expected = model.score(*GRID).reshape(40, 30)
    np.testing.assert_allclose(user_UD @ item_ID.T, expected, atol=1e-12)


def test_factors_of_nmf_are_never_negative():
    _, _, ratings = low_rank()
    for model in (NMF(), FullNMF(embedding_dim=3)):
        model.fit(ratings)
        assert model.learned["factor_UD"].min() >= 0
        assert model.learned["factor_ID"].min() >= 0


def test_nmf_refuses_negative_ratings():
    ratings = Ratings.from_events([0, 1], [0, 1], [-1.0, 2.0], users=2, items=2)
    with pytest.raises(ValueError, match="at least 0, got -1; use model=svd"):
        NMF().fit(ratings)


def test_svd_solves_items_exactly_in_its_last_half_sweep():
    """Biases and factors of every item minimise the regularised squared error, given the users'."""
    _, _, ratings = low_rank(share=0.3)
    model = SVD(embedding_dim=3, epochs=2, reg=0.7, reg_power=0.5, reg_bias=0.4).fit(ratings)
    learned, value, mean = model.learned, ratings.by_item.toarray(), ratings.value_N.mean()
    for i in range(30):
        users = np.flatnonzero(value[i])
        error = value[i, users] - mean - learned["bias_U"][users] - learned["bias_I"][i]
        error -= learned["factor_UD"][users] @ learned["factor_ID"][i]
        slope_bias = -error.sum() + 0.4 * learned["bias_I"][i]
        slope = -error @ learned["factor_UD"][users] + 0.7 * len(users) ** 0.5 * learned["factor_ID"][i]
        np.testing.assert_allclose([slope_bias, *slope], 0, atol=1e-9)


@pytest.mark.parametrize("centre", ["user", "item", "baseline"])
def test_truncated_svd_is_that_of_the_dense_centred_matrix(centre):
    _, seen, ratings = low_rank(share=0.4)
    value = ratings.by_user.toarray()
    bias_U, bias_I = fit_biases(ratings)
    centred = {
        "user": value.sum(1, keepdims=True) / seen.sum(1, keepdims=True),
        "item": value.sum(0) / seen.sum(0),
        "baseline": ratings.value_N.mean() + bias_U[:, None] + bias_I,
    }[centre] * np.ones(value.shape)
    left, singular, right = np.linalg.svd(np.where(seen, value - centred, 0))
    expected = centred + left[:, :4] * singular[:4] @ right[:4]
    score = TruncatedSVD(embedding_dim=4, centre=centre).fit(ratings).score(*GRID)
    np.testing.assert_allclose(score.reshape(value.shape), expected, atol=1e-9)


def test_truncated_svd_needs_fewer_dimensions_than_items(seven):
    with pytest.raises(ValueError, match="must be below the 6 users or items, got 6"):
        TruncatedSVD(embedding_dim=6).fit(seven)


def test_full_nmf_needs_no_more_dimensions_than_items(seven):
    """Bug: scikit-learn answered with the name of its own option, `init`."""
    FullNMF(embedding_dim=6).fit(seven)
    with pytest.raises(ValueError, match=r"`embedding_dim` must be at most the 6 users or items, got 7"):
        FullNMF(embedding_dim=7).fit(seven)


def test_ease_is_a_ridge_regression_of_each_item_on_all_others(checkerboard):
    met = checkerboard.by_user.toarray()
    model = EASE(reg=3.0).fit(checkerboard)
    for item in range(16):
        others = np.delete(np.arange(16), item)
        left = met[:, others].T @ met[:, others] + 3 * np.eye(15)
        expected = np.linalg.solve(left, met[:, others].T @ met[:, item])
        np.testing.assert_allclose(model.learned["weight_II"][others, item], expected, atol=1e-10)
    assert (np.diag(model.learned["weight_II"]) == 0).all()
    np.testing.assert_allclose(model.score_items(np.arange(24)), met @ model.learned["weight_II"])


def test_ease_says_how_many_items_it_takes():
    ratings = Ratings.from_events([0], [0], users=1, items=30_001)
    with pytest.raises(ValueError, match="up to 30,000 items, got 30,001; use model=ials"):
        EASE().fit(ratings)


def test_ials_solves_items_exactly_in_its_last_half_sweep(checkerboard):
    model = IALS(embedding_dim=4, epochs=2, unobserved=0.2, reg=0.1, reg_power=0.7).fit(checkerboard)
    user, item = model.learned["factor_UD"], model.learned["factor_ID"]
    met = checkerboard.by_item.toarray()
    error = met * (item @ user.T - 1) + 0.2 * item @ user.T
    reg = 0.1 * (met.sum(1) + 0.2 * 24) ** 0.7
    np.testing.assert_allclose(error @ user + reg[:, None] * item, 0, atol=1e-9)


@pytest.mark.parametrize(("model", "at_most"), [(SVD(), 0.936), (NMF(), 0.963), (TruncatedSVD(), 0.936)])
def test_movielens_ratings_are_predicted_as_well_as_by_surprise(real_data, folds_rmse, model, at_most):
    assert folds_rmse(real_data, model) <= at_most
