from itertools import combinations
from math import isnan, log2, nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from recsys.metrics import (
    GROUPS,
    activity_groups,
    beyond_accuracy,
    diversity,
    item_coverage,
    novelty,
    popularity_lift,
)

ITEMS = 6
brute_force = settings(deadline=None, max_examples=50)
lists = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.lists(st.integers(-1, ITEMS - 1), min_size=k, max_size=k), min_size=1, max_size=5)
)


def catalogue(width):
    """Values of an attribute with 0 to `width` values per item, repetitions included."""
    return st.lists(st.lists(st.integers(0, 3), min_size=width, max_size=width), min_size=ITEMS, max_size=ITEMS)


def listed(row):
    return [item for item in row if item >= 0]


def mean(values):
    return sum(values) / len(values) if values else nan


def jaccard(one, two):
    one, two = set(one) - {0}, set(two) - {0}
    return len(one & two) / len(one | two) if one | two else 1.0


def near(expected):
    return pytest.approx(expected, abs=1e-14, nan_ok=True)


@brute_force
@given(lists)
def test_coverage_counts_distinct_items(top):
    assert item_coverage(tensor(top), ITEMS) == len({item for row in top for item in listed(row)}) / ITEMS


def test_coverage_without_queries_is_0():
    assert item_coverage(torch.empty(0, 3, dtype=torch.int64), ITEMS) == 0


@brute_force
@given(lists, st.lists(st.integers(0, 1000), min_size=ITEMS, max_size=ITEMS))
def test_novelty_matches_a_loop(top, count):
    information = [-log2((n + 1) / (sum(count) + ITEMS)) for n in count]
    expected = [mean([information[item] for item in listed(row)]) for row in top]
    assert novelty(tensor(top), tensor(count)).tolist() == near(expected)


def test_rare_items_are_more_novel_and_unseen_ones_finite():
    bits_Q = novelty(tensor([[0], [1], [2]]), tensor([97, 0, 1]))
    assert bits_Q.tolist() == near([-log2(98 / 101), -log2(1 / 101), -log2(2 / 101)])


def test_diversity_by_hand():
    brand_IT, tags_IT = tensor([[1], [1], [2], [0]]), tensor([[1, 2, 3], [3, 2, 0], [4, 0, 0], [0, 0, 0]])
    pair_01 = (0 + (1 - 2 / 3)) / 2  # the same brand, two of three tags
    pair_02 = pair_12 = 1.0
    found_Q = diversity(tensor([[0, 1, 2], [0, -1, 1], [3, -1, -1], [-1, -1, -1]]), [brand_IT, tags_IT])
    assert found_Q.tolist() == near([(pair_01 + pair_02 + pair_12) / 3, pair_01, nan, nan])


def test_items_without_any_value_are_alike():
    nothing_IT = torch.zeros(2, 3, dtype=torch.int64)
    assert diversity(tensor([[0, 1]]), [nothing_IT]).tolist() == [0]


@brute_force
@given(lists, catalogue(1), catalogue(4))
def test_diversity_matches_a_loop_over_pairs(top, single, several):
    def distance(one, two):
        return mean([1 - jaccard(values[one], values[two]) for values in (single, several)])

    expected = [mean([distance(*pair) for pair in combinations(listed(row), 2)]) for row in top]
    assert diversity(tensor(top), [tensor(single), tensor(several)]).tolist() == near(expected)


def test_diversity_does_not_depend_on_the_block(monkeypatch):
    rng = np.random.default_rng(0)
    top_QK, tags_IT = tensor(rng.integers(-1, 50, (40, 7))), tensor(rng.integers(0, 9, (50, 4)))
    whole_Q = diversity(top_QK, [tags_IT])
    monkeypatch.setattr(beyond_accuracy, "BLOCK", 1)
    assert torch.equal(diversity(top_QK, [tags_IT]), whole_Q)


@pytest.mark.parametrize("attributes", [[], [torch.ones(6).long()], [torch.ones(6, 1).long(), torch.ones(5, 1).long()]])
def test_attributes_that_do_not_describe_the_same_items_are_refused(attributes):
    with pytest.raises(ValueError, match=r"`attributes` must be one or more tensors of shape \(I, T\)"):
        diversity(tensor([[0, 1]]), attributes)


def test_popularity_lift_by_hand():
    top_QK, count_I = tensor([[0, 1], [1, -1], [2, 2], [-1, -1]]), tensor([9, 3, 30])
    profile_Q = tensor([4.0, 2.0, nan, 8.0])  # the third user is unknown, the fourth gets no list
    assert popularity_lift(top_QK, count_I, profile_Q) == near(((9 + 3) / 2 + 3) / (4 + 2) - 1)


def test_popularity_lift_of_repeating_the_profile_is_0():
    top_QK, count_I = tensor([[0, 1], [2, 3]]), tensor([9, 3, 30, 4])
    assert popularity_lift(top_QK, count_I, tensor([(9 + 3) / 2, (30 + 4) / 2])) == 0


def test_popularity_lift_without_profiles_is_nan():
    assert isnan(popularity_lift(tensor([[0]]), tensor([1]), tensor([nan])))


def test_popularity_lift_needs_a_profile_for_each_query():
    with pytest.raises(ValueError, match=r"`profile_Q` must have shape \(2,\)"):
        popularity_lift(tensor([[0], [0]]), tensor([1]), tensor([1.0]))


@pytest.mark.parametrize("wrong", [-2, ITEMS])
def test_positions_outside_the_catalogue_are_refused(wrong):
    with pytest.raises(ValueError, match=f"positions of {ITEMS} items, or -1 for none, got {wrong}"):
        item_coverage(tensor([[0, wrong]]), ITEMS)


@pytest.mark.parametrize("metric", [novelty, lambda top_QK, count_I: diversity(top_QK, [count_I[:, None]])])
def test_a_list_alone_is_refused(metric):
    with pytest.raises(ValueError, match=r"shape \(Q, K\), got \(2,\)"):
        metric(tensor([0, 1]), torch.ones(ITEMS).long())


def groups_by_loop(count):
    """Move the busiest into the hot group one by one until it holds half of the events."""
    group, held = ["warm" if n else "cold" for n in count], 0
    for n, position in sorted((-n, position) for position, n in enumerate(count)):
        if 2 * held < sum(count):
            group[position], held = "hot", held - n
    return group


@brute_force
@given(st.lists(st.integers(0, 9), max_size=12))
def test_activity_groups_match_a_loop(count):
    group_N = activity_groups(tensor(count, dtype=torch.int64))
    assert group_N.dtype == torch.int8
    assert [GROUPS[group] for group in group_N] == groups_by_loop(count)


def test_nobody_is_hot_without_events():
    assert activity_groups(tensor([0, 0])).tolist() == [GROUPS.index("cold")] * 2
