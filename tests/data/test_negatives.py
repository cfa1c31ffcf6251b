import itertools
from collections import Counter

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys.data.negatives import NegativeSampler

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=25)


@settings(deadline=None, max_examples=60)
@given(pairs, st.integers(0, 10))
def test_every_free_item_and_no_other_is_drawn(known, seed):
    """With 400 draws a free item of at most 9 stays undrawn with a chance of (8/9)^400 < 1e-20."""
    user_P, item_P = np.array(known).T
    pool = set(item_P.tolist())
    free = {user: pool - {i for u, i in known if u == user} for user in range(5)}
    assume(all(free.values()))
    sampler = NegativeSampler(user_P, item_P, users=5)
    assert sampler.pool.tolist() == sorted(pool)
    assert sampler.free_U.tolist() == [len(free[user]) for user in range(5)]
    drawn = sampler.sample(np.repeat(np.arange(5), 400), np.random.default_rng(seed)).reshape(5, 400)
    assert {user: set(drawn[user].tolist()) for user in range(5)} == free


def test_free_items_are_equally_likely():
    """User 0 knows 1, 4 and 5 of the seen items 1, 2, 4, 5, 7, 9; a newcomer knows none of them."""
    known = [(0, 1), (0, 4), (0, 5), (1, 2), (1, 7), (1, 9)]
    user_P, item_P = np.array(known).T
    sampler = NegativeSampler(user_P, item_P, users=3)
    for user, free in ((0, [2, 7, 9]), (2, [1, 2, 4, 5, 7, 9])):
        draws = 60_000
        counts = Counter(sampler.sample(np.full(draws, user), np.random.default_rng(0)).tolist())
        assert sorted(counts) == free
        share = 1 / len(free)
        deviation = (draws * share * (1 - share)) ** 0.5
        assert all(abs(count - draws * share) < 5 * deviation for count in counts.values())


def test_same_seed_same_draw():
    sampler = NegativeSampler(np.array([0, 1, 1]), np.array([0, 1, 2]), users=2)
    users = np.array([0, 1] * 50)
    first, again, other = (sampler.sample(users, np.random.default_rng(seed)).tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_repeated_positives_count_once():
    sampler = NegativeSampler(np.array([0, 0, 0, 1]), np.array([5, 5, 5, 6]), users=2)
    assert set(sampler.sample(np.array([0, 1] * 20), np.random.default_rng(0)).tolist()) == {5, 6}


def test_a_user_who_knows_everything_has_no_negative():
    sampler = NegativeSampler(np.array([0, 1, 1]), np.array([3, 3, 8]), users=2)
    assert sampler.has_negatives_U.tolist() == [True, False]
    assert not NegativeSampler(np.array([1, 1]), np.array([3, 8]), users=2).has_negatives_U[1]


def test_distinct_draws_are_every_set_of_free_items_equally_often():
    """User 0 has met item 9 of 5 .. 9, so 4 are free: 6 pairs of them, or all 4 and no more."""
    sampler = NegativeSampler(np.array([0, 1, 1, 1, 1]), np.array([9, 5, 6, 7, 8]), users=2)
    draws = 60_000
    item_QC = sampler.sample_distinct(np.zeros(draws, dtype="int32"), 2, np.random.default_rng(0))
    counts = Counter(frozenset(row) for row in item_QC.tolist())
    assert set(counts) == {frozenset(pair) for pair in itertools.combinations([5, 6, 7, 8], 2)}
    deviation = (draws * 1 / 6 * 5 / 6) ** 0.5
    assert all(abs(count - draws / 6) < 5 * deviation for count in counts.values())
    for user, free in ((0, [5, 6, 7, 8]), (1, [9])):
        (row,) = sampler.sample_distinct(np.array([user]), 6, np.random.default_rng(0)).tolist()
        assert sorted(row) == [-1] * (6 - len(free)) + free
