from math import inf, log2, nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score, ndcg_score
from torch import tensor

from recsys.metrics import (
    average_precision_at_k,
    f1_at_k,
    hit_rate_at_k,
    mrr,
    ndcg_at_k,
    precision_at_k,
    ranked_hits,
    ranking_metrics,
    recall_at_k,
)

AT_K = [precision_at_k, recall_at_k, f1_at_k, hit_rate_at_k, ndcg_at_k, average_precision_at_k]

# Places:           1  2  3  4  5
HIT_QI = tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()

cell = st.tuples(st.sampled_from([-inf, -1.0, -0.0, 0.0, 0.5, 2.0, inf]), st.booleans(), st.booleans())
grids = st.integers(1, 7).flatmap(
    lambda n_items: st.lists(st.lists(cell, min_size=n_items, max_size=n_items), min_size=1, max_size=4)
)
brute_force = settings(deadline=None, max_examples=50)


def unzip(grid):
    score, relevant, excluded = (tensor([[c[field] for c in row] for row in grid]) for field in range(3))
    return score, relevant, excluded


def ranking_by_loop(row):
    """Rank candidates one by one: the best score first, wrong items first among equals, then in the row's order."""
    left = {item: cell for item, cell in enumerate(row) if not cell[2]}
    hits, items = [], []
    while left:
        best = max(score for score, _, _ in left.values())
        equals = [item for item, (score, _, _) in left.items() if score == best]
        items.append(min(equals, key=lambda item: row[item][1]))
        hits.append(left.pop(items[-1])[1])
    missing = len(row) - len(hits)
    return hits + [False] * missing, items + [-1] * missing


def metrics_by_loop(hits, k):
    top, n_relevant = hits[:k], sum(hits)
    if n_relevant == 0:
        return [0.0] * 7
    precision, recall = sum(top) / k, sum(top) / n_relevant
    f1 = 2 * precision * recall / (precision + recall) if any(top) else 0.0
    dcg = sum(1 / log2(1 + place) for place, hit in enumerate(top, 1) if hit)
    ideal = sum(1 / log2(1 + place) for place in range(1, min(k, n_relevant) + 1))
    averaged = sum(sum(hits[:place]) / place for place, hit in enumerate(top, 1) if hit) / min(k, n_relevant)
    return [precision, recall, f1, float(any(top)), dcg / ideal, averaged, 1 / (1 + hits.index(True))]


def near(expected):
    return pytest.approx(expected, abs=1e-14)


@brute_force
@given(grids)
def test_ranked_hits_match_picking_items_one_by_one(grid):
    hit_QI, item_QI = ranked_hits(*unzip(grid))
    assert list(zip(hit_QI.tolist(), item_QI.tolist(), strict=True)) == [ranking_by_loop(row) for row in grid]


@brute_force
@given(grids, st.integers(1, 9))
def test_metrics_match_a_double_loop(grid, k):
    hit_QI, _ = ranked_hits(*unzip(grid))
    actual = torch.stack(list(ranking_metrics(hit_QI, [k]).values()), dim=1)
    expected = [metrics_by_loop(ranking_by_loop(row)[0], k) for row in grid]
    assert np.allclose(actual.numpy(), expected, rtol=0, atol=1e-14)


def test_a_constant_scorer_finds_nothing_before_the_wrong_items():
    relevant_QI = tensor([[True, False, False, True, False]])
    hit_QI, _ = ranked_hits(torch.zeros(1, 5), relevant_QI, torch.zeros(1, 5))
    assert hit_QI.tolist() == [[False, False, False, True, True]]
    assert ndcg_at_k(hit_QI, 3).item() == 0


def test_excluded_items_go_last_and_never_count():
    score_QI = tensor([[inf, 3.0, -inf, 2.0]])
    relevant_QI, excluded_QI = tensor([[1, 0, 1, 0]]), tensor([[1, 0, 0, 1]])
    hit_QI, item_QI = ranked_hits(score_QI, relevant_QI, excluded_QI)
    assert hit_QI.tolist() == [[False, True, False, False]]
    assert item_QI.tolist() == [[1, 2, -1, -1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_any_float_dtype_are_ranked(dtype):
    score_QI = tensor([[1.0, 3.0, 2.0]], dtype=dtype, requires_grad=True)
    hit_QI, _ = ranked_hits(score_QI, tensor([[False, True, False]]), torch.zeros(1, 3, dtype=torch.bool))
    assert hit_QI.tolist() == [[True, False, False]]
    assert all(value_Q.dtype == torch.float64 for value_Q in ranking_metrics(hit_QI, [1]).values())


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        ranked_hits(tensor([[1.0, nan]]), torch.zeros(1, 2), torch.ones(1, 2))


@pytest.mark.parametrize("shape", [(2,), (2, 3), (1, 2)])
def test_shapes_that_would_broadcast_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \(Q, I\)"):
        ranked_hits(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(shape))


def test_metrics_by_hand():
    assert precision_at_k(HIT_QI, 2).tolist() == near([1 / 2, 1 / 2, 0])
    assert recall_at_k(HIT_QI, 2).tolist() == near([1 / 3, 1 / 1, 0])
    assert f1_at_k(HIT_QI, 2).tolist() == near([2 / (2 + 3), 2 / (2 + 1), 0])
    assert hit_rate_at_k(HIT_QI, 1).tolist() == [0, 1, 0]
    assert mrr(HIT_QI).tolist() == [1 / 2, 1, 0]
    assert average_precision_at_k(HIT_QI, 2).tolist() == near([1 / 2 / 2, 1, 0])
    assert average_precision_at_k(HIT_QI, 4).tolist() == near([(1 / 2 + 2 / 4) / 3, 1, 0])
    ideal = 1 / log2(2) + 1 / log2(3)
    assert ndcg_at_k(HIT_QI, 2).tolist() == near([1 / log2(3) / ideal, 1, 0])
    ideal += 1 / log2(4)
    assert ndcg_at_k(HIT_QI, 4).tolist() == near([(1 / log2(3) + 1 / log2(5)) / ideal, 1, 0])


def test_k_may_exceed_the_number_of_items():
    assert precision_at_k(HIT_QI, 10).tolist() == near([3 / 10, 1 / 10, 0])
    assert recall_at_k(HIT_QI, 10).tolist() == [1, 1, 0]
    assert ndcg_at_k(HIT_QI, 10).tolist() == ndcg_at_k(HIT_QI, 5).tolist()
    assert average_precision_at_k(HIT_QI, 10).tolist() == near([(1 / 2 + 2 / 4 + 3 / 5) / 3, 1, 0])


@pytest.mark.parametrize("metric", [ndcg_at_k, average_precision_at_k])
def test_a_perfect_ranking_scores_exactly_1(metric):
    n_relevant_Q = torch.arange(1, 101)
    hit_QI = torch.arange(100) < n_relevant_Q[:, None]
    assert all((metric(hit_QI, k) == 1).all() for k in (1, 7, 100))


@pytest.mark.parametrize("k", [1, 10, 500])
def test_ndcg_matches_sklearn(k):
    rng = np.random.default_rng(0)
    score, relevant = rng.normal(size=(20, 500)), rng.random((20, 500)) < 0.05
    hit_QI, _ = ranked_hits(tensor(score), tensor(relevant), torch.zeros(20, 500))
    assert ndcg_at_k(hit_QI, k).mean().item() == pytest.approx(ndcg_score(relevant, score, k=k), abs=1e-12)


def test_mrr_of_one_relevant_item_matches_sklearn():
    rng = np.random.default_rng(0)
    score = rng.integers(0, 20, (50, 100)).astype(float)
    relevant = np.eye(100, dtype=bool)[rng.integers(0, 100, 50)]
    hit_QI, _ = ranked_hits(tensor(score), tensor(relevant), torch.zeros(50, 100))
    expected = label_ranking_average_precision_score(relevant, score)
    assert mrr(hit_QI).mean().item() == pytest.approx(expected, abs=1e-12)


def test_average_precision_of_the_full_ranking_matches_sklearn():
    rng = np.random.default_rng(0)
    score, relevant = rng.normal(size=(20, 300)), rng.random((20, 300)) < 0.05
    hit_QI, _ = ranked_hits(tensor(score), tensor(relevant), torch.zeros(20, 300))
    expected = [average_precision_score(y, s) for y, s in zip(relevant, score, strict=True)]
    assert average_precision_at_k(hit_QI, 300).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", AT_K)
@pytest.mark.parametrize("k", [0, -1])
def test_k_below_1_is_refused(metric, k):
    with pytest.raises(ValueError, match=f"`k` must be at least 1, got {k}"):
        metric(HIT_QI, k)


def test_blocks_of_queries_have_the_names_and_values_of_the_whole():
    whole = ranking_metrics(HIT_QI, [1, 3])
    assert list(whole) == [
        *("precision@1", "recall@1", "f1@1", "hit_rate@1", "ndcg@1", "map@1"),
        *("precision@3", "recall@3", "f1@3", "hit_rate@3", "ndcg@3", "map@3"),
        "mrr",
    ]
    blocks = [ranking_metrics(block_QI, [1, 3]) for block_QI in HIT_QI.split(2)]
    for name, value_Q in whole.items():
        assert torch.equal(torch.cat([block[name] for block in blocks]), value_Q)
