import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from recsys.classical import base, neighbours
from recsys.classical.neighbours import keep_largest, neighbour_table, table_rows, weigh_raters

value = st.sampled_from([0.0, 0.1, 0.25, 0.25, 0.5, 1.0])
grids = st.integers(1, 9).flatmap(
    lambda width: st.lists(st.lists(value, min_size=width, max_size=width), min_size=1, max_size=5)
)


def largest_by_sort(row, k):
    """Places of the k largest positive values; among equal ones the first."""
    return sorted(sorted(range(len(row)), key=lambda n: -row[n])[:k])


@settings(deadline=None)
@given(grid=grids, k=st.integers(1, 6))
def test_the_k_largest_stay_and_ties_go_to_the_first(grid, k):
    kept = np.array(grid)
    keep_largest(kept, k)
    for row, left in zip(grid, kept, strict=True):
        wanted = [n for n in largest_by_sort(row, k) if row[n] > 0]
        assert np.flatnonzero(left).tolist() == wanted
        assert left[wanted].tolist() == [row[n] for n in wanted]


@pytest.mark.parametrize("block", [1, 10, 2**22])
def test_the_table_lists_the_most_similar_first_whatever_the_block(block, monkeypatch):
    monkeypatch.setattr(base, "BLOCK", block)
    similarity = np.random.default_rng(0).choice([-0.5, 0.0, 0.2, 0.4, 0.4, 0.9], (7, 7))
    order = np.array([3, 1, 0, 6, 5, 4, 2])
    neighbour, weight = neighbour_table(lambda x_B: similarity[x_B], order, k=3)
    for x, row in enumerate(similarity):
        wanted = [z for z in sorted(range(7), key=lambda z: (-row[z], z))[:3] if row[z] > 0]
        assert neighbour[x].tolist() == wanted + [-1] * (3 - len(wanted))
        np.testing.assert_allclose(weight[x, : len(wanted)], row[wanted], rtol=1e-6)
    rows = table_rows(neighbour, weight, 7)
    np.testing.assert_allclose(rows[rows > 0], similarity[rows > 0], rtol=1e-6)
    assert (rows > 0).sum() == (neighbour >= 0).sum()


@pytest.mark.parametrize("chunk", [1, 7, 2**18])
def test_a_pair_is_weighed_by_the_k_most_similar_that_rated_it(chunk, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    similarity, deviation = rng.choice([0.0, 0.3, 0.3, 0.8, 0.9], (5, 12)), rng.normal(size=(6, 12))
    deviation[rng.random((6, 12)) < 0.5] = 0
    deviation[2] = 0  # nobody rated it
    row, y = (a.ravel() for a in np.meshgrid(np.arange(5), np.arange(6)))
    said, weight, count = weigh_raters(similarity, row, y, csr_array(deviation), k=3)
    for n in range(len(row)):
        raters = np.flatnonzero(deviation[y[n]])
        near = [raters[at] for at in largest_by_sort(similarity[row[n], raters], 3)]
        s = similarity[row[n], near]
        assert count[n] == (s > 0).sum()
        np.testing.assert_allclose([said[n], weight[n]], [(s * deviation[y[n], near]).sum(), s.sum()], atol=1e-12)
