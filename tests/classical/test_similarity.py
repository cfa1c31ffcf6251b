"""Every similarity against a double loop over the definition."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.classical import products
from recsys.classical.ratings import Ratings
from recsys.classical.similarity import Measure, Similarities

KINDS = ["cosine", "pearson", "adjusted_cosine", "pearson_baseline", "msd", "jaccard"]
cell = st.sampled_from([0.0, 0.0, 1.0, 2.0, 2.5, 4.0, 5.0])  # 0: not rated
tables = st.tuples(st.integers(2, 7), st.integers(1, 6)).flatmap(
    lambda shape: st.lists(st.lists(cell, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0])
)
measures = st.builds(
    Measure,
    kind=st.sampled_from(KINDS),
    over=st.sampled_from(["all", "common"]),
    shrinkage=st.sampled_from([0.0, 3.5]),
    min_support=st.integers(1, 3),
)


def mean(values):
    return sum(values) / len(values) if values else 0.0


def centred_values(measure, table, x, biases):
    """What each y that x rated contributes."""
    rated = {y: value for y, value in enumerate(table[x]) if value}
    if measure.kind == "pearson" and measure.over == "all":
        return {y: value - mean(list(rated.values())) for y, value in rated.items()}
    if measure.kind == "adjusted_cosine":
        return {y: value - mean([row[y] for row in table if row[y]]) for y, value in rated.items()}
    if measure.kind == "pearson_baseline":
        average, bias_X, bias_Y = biases
        return {y: value - average - bias_X[x] - bias_Y[y] for y, value in rated.items()}
    return rated


def similarity_by_loop(measure, table, x, z, biases):
    of_x, of_z = (centred_values(measure, table, one, biases) for one in (x, z))
    common = [y for y in of_x if y in of_z]
    n, least = len(common), measure.min_support
    if measure.kind == "pearson_baseline" and measure.over == "common":
        least = max(least, 2)
    if not common or n < least or x == z:
        return 0.0
    shrink = (n - 1) / (n - 1 + measure.shrinkage) if measure.shrinkage else 1.0
    if measure.kind == "jaccard":
        return shrink * n / len({*of_x, *of_z})
    if measure.kind == "msd":
        return shrink / (1 + mean([(of_x[y] - of_z[y]) ** 2 for y in common]))
    over_x, over_z = (common, common) if measure.over == "common" else (list(of_x), list(of_z))
    if measure.kind == "pearson" and measure.over == "common":
        centre_x, centre_z = mean([of_x[y] for y in common]), mean([of_z[y] for y in common])
        of_x, of_z = {y: of_x[y] - centre_x for y in common}, {y: of_z[y] - centre_z for y in common}
    norm = sqrt(sum(of_x[y] ** 2 for y in over_x)) * sqrt(sum(of_z[y] ** 2 for y in over_z))
    return shrink * sum(of_x[y] * of_z[y] for y in common) / norm if norm > 1e-12 else 0.0


def similarities_of(measure, table):
    """The similarities and the biases they go by; a row of the table is one X."""
    x_E, y_E = np.nonzero(table)
    ratings = Ratings.from_events(x_E, y_E, np.array(table)[x_E, y_E], users=len(table), items=len(table[0]))
    rng = np.random.default_rng(0)
    biases = (3.0, rng.normal(size=ratings.users), rng.normal(size=ratings.items))
    mean_X, mean_Y = (m.sum(axis=1) / np.maximum(np.diff(m.indptr), 1) for m in (ratings.by_user, ratings.by_item))
    return Similarities(measure, measure.centre(ratings.by_user, mean_X, mean_Y, biases)), biases


@settings(deadline=None, max_examples=300)
@given(measure=measures, table=tables.filter(lambda table: np.any(table)))
def test_every_similarity_is_its_definition(measure, table):
    similarities, biases = similarities_of(measure, table)
    size = range(len(table))
    expected = [[similarity_by_loop(measure, table, x, z, biases) for z in size] for x in size]
    np.testing.assert_allclose(similarities.rows(np.arange(len(table))), expected, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("over", ["all", "common"])
@pytest.mark.parametrize("mkl", [True, False])
def test_a_block_holds_the_rows_of_the_whole_with_and_without_mkl(kind, over, mkl, monkeypatch):
    table = np.random.default_rng(1).integers(0, 6, (30, 20))
    measure = Measure(kind=kind, over=over, shrinkage=2.0, min_support=3)
    whole = similarities_of(measure, table)[0].rows(np.arange(30))
    monkeypatch.setattr(products.torch.backends.mkl, "is_available", lambda: mkl)
    some = np.array([17, 3, 29])
    np.testing.assert_allclose(similarities_of(measure, table)[0].rows(some), whole[some], atol=1e-12)
    np.testing.assert_allclose(whole, whole.T, atol=1e-12)


def test_one_common_rating_is_no_support_for_a_baseline_correlation():
    """Its two deviations alone would correlate by 1 or -1, whatever they are."""
    table = [[5, 1, 0], [0, 4, 2]]
    for over, expected in (("common", 0), ("all", 1)):
        similarity = similarities_of(Measure(kind="pearson_baseline", over=over), table)[0].rows(np.arange(2))
        assert (similarity[0, 1] != 0) == expected


def test_equal_ratings_have_no_correlation_even_where_rounding_would_make_one():
    table = [[0.1, 0.1, 0.1, 0.7], [3.3, 3.3, 3.3, 0.0], [1.1, 2.2, 3.3, 0.0]]
    similarity = similarities_of(Measure(kind="pearson", over="common"), table)[0].rows(np.arange(3))
    assert (similarity == 0).all()


@pytest.mark.parametrize("kind", ["pearson", "adjusted_cosine", "msd", "jaccard"])
@pytest.mark.parametrize("over", ["all", "common"])
def test_a_rating_of_0_is_a_rating(kind, over):
    """These do not change when the same is taken off all ratings, as when 1 to 5 becomes 0 to 4."""
    rng = np.random.default_rng(2)
    pair = rng.permutation(200)[:90]
    value = rng.integers(1, 6, 90)
    found = []
    for taken in (0, 1):
        ratings = Ratings.from_events(pair // 10, pair % 10, value - taken, users=20, items=10)
        mean_X, mean_Y = (m.sum(axis=1) / np.diff(m.indptr) for m in (ratings.by_user, ratings.by_item))
        measure = Measure(kind=kind, over=over)
        centred = measure.centre(ratings.by_user, mean_X, mean_Y, (0.0, mean_X, mean_Y))
        found.append(Similarities(measure, centred).rows(np.arange(20)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)
    assert np.abs(found[0]).sum() > 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"kind": "cosin"}, "`similarity` got 'cosin'.*cosine"),
        ({"kind": "cosine", "over": "some"}, "`over` got 'some'"),
        ({"kind": "cosine", "shrinkage": -1}, "`shrinkage` must not be negative, got -1"),
        ({"kind": "cosine", "min_support": 0}, "`min_support` must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        Measure(**setting)
