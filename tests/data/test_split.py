from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.cleaning import CleaningReport
from recsys.data.events import Events
from recsys.data.split import TEST, TRAIN, VALID, Split, split_events

brute_force = settings(deadline=None, max_examples=80)


def events(*, user=None, item=None, time=None, order=None, split=None):
    count = next(len(v) for v in (user, time, order, split) if v is not None)
    user_E = np.zeros(count, dtype="int32") if user is None else np.array(user, dtype="int32")
    time_E = None if time is None else np.array(time, dtype="float64")
    order_E = np.array(order, dtype="float64") if order is not None else time_E
    return Events(
        users=pd.DataFrame(),
        items=pd.DataFrame(),
        scene=pd.DataFrame(),
        user_E=user_E,
        item_E=np.arange(count, dtype="int32") if item is None else np.array(item, dtype="int32"),
        label_E=np.ones(count, dtype="float32"),
        order_E=np.arange(count, dtype="float64") if order_E is None else order_E,
        time_E=time_E if time_E is not None or order is None else order_E,
        split_E=None if split is None else np.array(split, dtype=object),
        oracle_E=None,
        past=None,
        report=CleaningReport(),
    )


def test_time_shares():
    time = np.random.default_rng(0).permutation(100)
    parts = split_events(Split(by="time", valid=0.2, test=0.1), events(time=time))
    assert sorted(time[parts == TRAIN]) == list(range(70))
    assert sorted(time[parts == VALID]) == list(range(70, 90))
    assert sorted(time[parts == TEST]) == list(range(90, 100))


@brute_force
@given(st.lists(st.integers(0, 9), min_size=3, max_size=40), st.sampled_from([0.1, 0.3]))
def test_one_moment_is_never_on_both_sides(time, share):
    try:
        parts = split_events(Split(valid=share, test=share), events(time=time))
    except ValueError as error:
        if "leaves no rows in" not in str(error):
            raise
        return
    by_moment = defaultdict(set)
    for moment, part in zip(time, parts, strict=True):
        by_moment[moment].add(part)
    assert all(len(found) == 1 for found in by_moment.values())
    ordered = [by_moment[moment].pop() for moment in sorted(by_moment)]
    assert ordered == sorted(ordered)
    assert set(parts) == {TRAIN, VALID, TEST}


@brute_force
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30))
def test_leave_one_out_by_loop(rows):
    user, time = zip(*rows, strict=True)
    expected = [TRAIN] * len(rows)
    for someone in set(user):
        own = sorted((t, n) for n, (u, t) in enumerate(rows) if u == someone)
        if len(own) >= 3:
            expected[own[-1][1]], expected[own[-2][1]] = TEST, VALID
    if TEST not in expected:
        with pytest.raises(ValueError, match="no user has three events"):
            split_events(Split(by="leave_one_out"), events(user=user, time=time))
    else:
        found = split_events(Split(by="leave_one_out"), events(user=user, time=time))
        assert found.tolist() == expected


def test_leave_one_out_follows_the_order_column():
    found = split_events(Split(by="leave_one_out"), events(time=[1, 2, 3, 4], order=[4, 3, 2, 1]))
    assert found.tolist() == [TEST, VALID, TRAIN, TRAIN]


def test_order_column_that_counts_the_rows():
    """Bug: an order column equal to the row numbers was taken for none."""
    parts = split_events(Split(valid=0.25, test=0.25), events(order=[0, 1, 2, 3]))
    assert parts.tolist() == [TRAIN, TRAIN, VALID, TEST]


def test_random_shares_and_seed():
    data = events(user=np.zeros(1000))
    first, again, other = (split_events(Split(by="random", valid=0.2, test=0.1, seed=s), data) for s in (1, 1, 2))
    assert np.bincount(first).tolist() == [700, 200, 100]
    assert first.tolist() == again.tolist() != other.tolist()
    # A random part has no trend: the mean row number of 100 rows out of 1000 has deviation 289 / sqrt(100).
    assert abs(np.flatnonzero(first == TEST).mean() - 500) < 5 * 28.9


def test_column():
    words = ["train", " Valid ", "TEST", "train"]
    assert split_events(Split(by="column", column="part"), events(split=words)).tolist() == [TRAIN, VALID, TEST, TRAIN]


@pytest.mark.parametrize(
    ("split", "data", "message"),
    [
        (Split(by="time"), events(user=[0] * 10), "`split.by=time` needs `time: {column: ...}`"),
        (Split(by="leave_one_out"), events(user=[0] * 10), "`split.by=leave_one_out` needs `time"),
        (Split(by="time"), events(time=[5] * 10), "no rows in train of 10: are all timestamps equal"),
        (Split(by="time"), events(time=[1, 2]), "no rows in valid of 2"),
        (Split(by="random"), events(user=[0, 0]), "no rows in valid of 2: give `valid` and `test` larger shares"),
        (
            Split(by="column", column="p"),
            events(split=["train", "test"]),
            "no rows in valid of 2: column 'p' must hold",
        ),
        (Split(by="column", column="p"), events(split=["train", "dev"]), "column 'p' must hold .*, got 'dev'"),
        (Split(by="column", column="p"), events(split=["train", None]), "column 'p' must hold .*, got None"),
        # Bug: files given per split were ignored in silence where `split.by` said otherwise.
        (Split(by="random"), events(split=["train"] * 10), "files per split, so use split.by=column"),
    ],
)
def test_impossible_splits(split, data, message):
    with pytest.raises(ValueError, match=message):
        split_events(split, data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid": 0.0}, "`valid` must be a share between 0 and 1, got 0.0"),
        ({"test": 1.5}, "`test` must be a share"),
        ({"valid": 0.5, "test": 0.5}, "must leave rows to train on, got 0.5 . 0.5"),
    ],
)
def test_impossible_shares(options, message):
    with pytest.raises(ValueError, match=message):
        Split(**options)


def test_a_draw_of_training_rows_takes_all_rows_of_a_pair():
    """Bug: rows were drawn one by one, so the leak check found pairs of a drawn part in training and refused them."""
    user, item = [0] * 60 + [1] * 60, [*range(20)] * 6
    data = events(user=[*user, 2], item=[*item, 0], split=["train"] * 120 + ["test"])
    parts = split_events(Split(by="column", valid=0.1), data)[:120]
    of_pair = defaultdict(set)
    for pair, part in zip(zip(user, item, strict=True), parts, strict=True):
        of_pair[pair].add(int(part))
    assert all(len(found) == 1 for found in of_pair.values())
    assert (parts == VALID).sum() == 0.1 * 120  # pairs have three rows each


def test_a_column_without_valid_gives_up_a_share_of_train():
    words = ["train"] * 50 + ["test"] * 10
    parts = split_events(Split(by="column", valid=0.2), events(split=words))
    assert (parts[50:] == TEST).all()
    assert (parts[:50] == VALID).sum() == 0.2 * 50
    again = split_events(Split(by="column", valid=0.2), events(split=words))
    other = split_events(Split(by="column", valid=0.2, seed=1), events(split=words))
    assert (parts == again).all()
    assert (parts != other).any()


def test_a_fold_is_the_test_part_and_validation_is_drawn_from_the_others():
    fold = np.random.default_rng(0).integers(0, 5, 200)
    seen = np.zeros(200, dtype=int)
    for number in range(5):
        parts = split_events(
            Split(by="fold", column="fold", fold=number), events(user=np.arange(200), split=list(fold))
        )
        assert ((parts == TEST) == (fold == number)).all()
        assert (parts == VALID).sum() == round(0.1 * (fold != number).sum())
        seen += parts == TEST
    assert (seen == 1).all(), "every row is tested once"


def test_a_fold_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"column 'k' has no fold 7; it has: 0, 1, 2\."):
        split_events(Split(by="fold", column="k", fold=7), events(split=[0, 1, 2, "x"]))
