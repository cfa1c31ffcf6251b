import numpy as np
import pytest

from recsys.classical.biases import fit_biases
from recsys.classical.knn import ItemKNN, UserKNN
from recsys.classical.ratings import Ratings

BY_SIDE = {"user": UserKNN, "item": ItemKNN}
UNRATED = [(0, 3), (1, 4), (2, 0), (3, 1), (4, 2), (4, 4), (5, 1), (5, 3), (6, 0), (6, 2)]
# Surprise 1.1.5 on `seven` for the pairs above: KNNBasic, KNNWithMeans, KNNBaseline and KNNWithZScore with k=2 and
# min_support=2.
SURPRISE = {
    ("user", "pearson", "zero"): [1.46410162, 1, 3.24, 5, 3, 3, 3, 3.32, 3.32, 2],
    ("user", "pearson", "mean"): [
        1.89273441, 1, 4.42666667, 4, 2.04166667, 2.04166667, 3.41666667, 3.66666667, 3.66666667, 1.66666667
    ],
    ("user", "pearson", "baseline"): [
        1.53192347, 1, 3.48426723, 4.77456723, 2.82724220, 2.82724220, 3.06617853, 3.26091319, 3.56352135, 1.91646931
    ],
    ("user", "pearson", "zscore"): [
        1.78637190, 1.47872234, 4.25990848, 4.29099445, 1.70983514, 2.06771792, 3.45584816, 3.66666667, 3.66666667,
        2.12706595
    ],
    ("user", "cosine", "zero"): [
        1.50068490, 3.50460127, 3.00002520, 4.02106957, 3.00480331, 2.99039339, 2.49291013, 3.25587901, 4.48683298,
        3.01209127
    ],
    ("user", "msd", "zscore"): [
        1.78609667, 1.57607574, 3.00559430, 3.51388850, 3.92540217, 1.57780455, 2.86361923, 2.85035540, 3.83297439,
        3.54558581
    ],
    ("user", "pearson_baseline", "baseline"): [
        1.65067796, 2.67843262, 1.22543277, 4.55845343, 3.94481180, 2.94063952, 2.71620570, 2.11249060, 4.64387050,
        3.07035570
    ],
    ("item", "pearson", "mean"): [3, 2.4, 3.66753011, 3.30133103, 4.6, 2.4, 2.4, 3, 3.8, 3.4],
    ("item", "cosine", "mean"): [
        1.81765088, 2.4, 4.10874553, 2.60100925, 3.60099165, 1.88954975, 2.42814289, 2.95736530, 4.38800026, 3.4
    ],
    ("item", "msd", "zero"): [
        2.33333333, 2, 2.62376238, 4.70967742, 4.29213483, 1.45, 3.17857143, 2.93103448, 3.76923077, 3
    ],
    ("item", "pearson_baseline", "baseline"): [
        2.47499334, 2.12194312, 2.15060438, 4.69021101, 4.84939562, 1.65372914, 1.87640824, 1.87992936, 3.56352135,
        3.41291696
    ],
}  # fmt: skip


@pytest.mark.parametrize(("side", "similarity", "deviations"), SURPRISE)
def test_predictions_are_those_of_surprise(seven, side, similarity, deviations):
    shrinkage = 100.0 if similarity == "pearson_baseline" else 0.0
    setting = {"over": "common", "min_support": 2, "shrinkage": shrinkage, "deviations": deviations}
    model = BY_SIDE[side](k=2, similarity=similarity, **setting).fit(without_cold(seven))
    user_B, item_B = (np.array(column) for column in zip(*UNRATED, strict=True))
    np.testing.assert_allclose(model.score(user_B, item_B), SURPRISE[side, similarity, deviations], atol=1e-6)


def without_cold(ratings):
    """Surprise knows no cold users and items: they would count in no mean, but say so."""
    return Ratings.from_events(ratings.user_N, ratings.item_N, ratings.value_N, users=7, items=5, scale=ratings.scale)


def random_ratings(seed, users=12, items=9):
    rng = np.random.default_rng(seed)
    pair = rng.permutation(users * items)[: users * items // 2]
    return Ratings.from_events(
        pair // items, pair % items, rng.integers(1, 11, len(pair)) / 2, users=users, items=items
    )


def predict_by_loop(model, side, ratings, u, i):
    """The class's formula for one pair, over all neighbours one by one."""
    by_x, by_y = (ratings.by_user, ratings.by_item) if side == "user" else (ratings.by_item, ratings.by_user)
    value = by_x.toarray()
    x, y = (u, i) if side == "user" else (i, u)
    bias_U, bias_I = fit_biases(ratings)
    bias_X, bias_Y = (bias_U, bias_I) if side == "user" else (bias_I, bias_U)
    overall = ratings.value_N.mean()

    def centre(z):
        mean = value[z][value[z] > 0].mean()
        return {"zero": 0.0, "baseline": overall + bias_X[z] + bias_Y[y]}.get(model.deviations, mean)

    def spread(z):
        return (value[z][value[z] > 0].std() or ratings.value_N.std()) if model.deviations == "zscore" else 1.0

    similarity = np.maximum(model.similarity_rows(np.array([x]))[0], 0)
    raters = by_y.indices[by_y.indptr[y] : by_y.indptr[y + 1]]
    near = [z for z in sorted(raters, key=lambda z: -similarity[z])[: model.k] if similarity[z] > 0]
    if len(near) < model.min_k:
        return overall if model.deviations == "zero" else centre(x)
    said = sum(similarity[z] * (value[z, y] - centre(z)) / spread(z) for z in near)
    return centre(x) + spread(x) * said / similarity[near].sum()


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("deviations", ["zero", "mean", "baseline", "zscore"])
@pytest.mark.parametrize("table", [None, 3])
def test_predictions_are_the_formula_pair_by_pair(side, deviations, table):
    ratings = random_ratings(seed=3)
    model = BY_SIDE[side](k=3, min_k=2, deviations=deviations, similarity="adjusted_cosine", table=table).fit(ratings)
    user_B, item_B = (a.ravel() for a in np.meshgrid(np.arange(12), np.arange(9)))
    expected = [predict_by_loop(model, side, ratings, u, i) for u, i in zip(user_B, item_B, strict=True)]
    np.testing.assert_allclose(model.score(user_B, item_B), expected, atol=1e-9)


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_table_of_everyone_changes_nothing(side):
    ratings = random_ratings(seed=4)
    user_B, item_B = (a.ravel() for a in np.meshgrid(np.arange(12), np.arange(9)))
    exact, kept = (BY_SIDE[side](k=4, table=table).fit(ratings).score(user_B, item_B) for table in (None, 12))
    np.testing.assert_allclose(kept, exact, atol=1e-5)


def test_a_pairs_own_rating_is_not_its_neighbour():
    """Were it one, the similarity 1 of an item to itself would draw every training rating's estimate to the rating."""
    user_E, item_E = (a.ravel() for a in np.meshgrid(np.arange(4), np.arange(3)))
    value_E = np.where(item_E == 0, [1, 5, 1, 5] * 3, 3).astype(float)
    model = ItemKNN(similarity="msd", deviations="zero").fit(
        Ratings.from_events(user_E, item_E, value_E, users=4, items=3)
    )
    np.testing.assert_allclose(model.score(np.array([0, 1]), np.array([0, 0])), [3, 3])


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("similarity", ["cosine", "jaccard"])
def test_implicit_scores_add_up_the_nearest_that_were_met(side, similarity):
    explicit = random_ratings(seed=5)
    ratings = Ratings.from_events(explicit.user_N, explicit.item_N, users=12, items=9)
    model = BY_SIDE[side](k=3, similarity=similarity).fit(ratings)
    met = ratings.by_user.toarray()
    vectors = met if side == "user" else met.T
    count, common = vectors.sum(1), vectors @ vectors.T
    among = np.sqrt(np.outer(count, count)) if similarity == "cosine" else count[:, None] + count - common
    weight = common / among * (1 - np.eye(len(vectors)))
    for row in weight:
        row[sorted(range(len(row)), key=lambda z: -row[z])[3:]] = 0
    expected = weight @ met if side == "user" else met @ weight.T
    np.testing.assert_allclose(model.score_items(np.arange(12)), expected, atol=1e-6)
    user_B, item_B = (a.ravel() for a in np.meshgrid(np.arange(12), np.arange(9), indexing="ij"))
    np.testing.assert_allclose(model.score(user_B, item_B).reshape(12, 9), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k": 0}, "`k` must be an integer of at least 1, got 0"),
        ({"table": 0}, "`table` must be an integer of at least 1, got 0"),
        ({"table": "abc"}, "`table` must be an integer of at least 1, got 'abc'"),
        ({"deviations": "means"}, "`deviations` got 'means'.*mean"),
        ({"similarity": "pearsn"}, "`similarity` got 'pearsn'.*pearson"),
    ],
)
def test_a_wrong_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        ItemKNN(**setting)


def test_implicit_pairs_have_no_correlation(checkerboard):
    with pytest.raises(ValueError, match="must be cosine or jaccard, got 'pearson'"):
        UserKNN(similarity="pearson").fit(checkerboard)


@pytest.mark.parametrize(
    ("model", "at_most"),
    [
        (ItemKNN(similarity="pearson_baseline", over="common", shrinkage=100.0), 0.918),
        (UserKNN(over="common", deviations="zero"), 1.012),
        (ItemKNN(), 0.918),
        (UserKNN(), 0.94),
    ],
)
def test_movielens_ratings_are_predicted_as_well_as_by_surprise(real_data, folds_rmse, model, at_most):
    assert folds_rmse(real_data, model) <= at_most
