import dataclasses

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.cleaning import CleaningReport
from recsys.data.events import Events, Past
from recsys.data.history import build_histories

event = st.tuples(st.integers(0, 2), st.integers(0, 5), st.booleans(), st.integers(0, 2))
past_event = st.tuples(st.integers(0, 2), st.integers(0, 5))
brute_force = settings(deadline=None, max_examples=150)


def make_events(rows):
    """Events of (user, order, ...) rows; the item of an event is its number, so every item tells where it is from."""
    count = len(rows)
    order_E = np.array([row[1] for row in rows], dtype="float64")
    return Events(
        users=pd.DataFrame(),
        items=pd.DataFrame(),
        scene=pd.DataFrame(),
        user_E=np.array([row[0] for row in rows], dtype="int32"),
        item_E=np.arange(count, dtype="int32"),
        label_E=np.ones(count, dtype="float32"),
        order_E=order_E,
        time_E=order_E,
        split_E=None,
        oracle_E=None,
        past=None,
        report=CleaningReport(),
    )


def items_of(histories, n):
    return histories.item_H[histories.start_E[n] : histories.stop_E[n]].tolist()


@brute_force
@given(st.lists(event, min_size=1, max_size=25), st.integers(1, 4))
def test_histories_by_double_loop(rows, length):
    positive_E, part_E = np.array([r[2] for r in rows]), np.array([r[3] for r in rows])
    histories = build_histories(make_events(rows), part_E, positive_E, length)
    for n, (user, order, _, part) in enumerate(rows):
        seen = []
        for m, (other, before, positive, other_part) in enumerate(rows):
            if other == user and before < order and positive and other_part <= part:
                seen.append((before, m))
        assert items_of(histories, n) == [m for _, m in sorted(seen)][-length:]
    for item, user, order in zip(histories.item_H, histories.user_H, histories.order_H, strict=True):
        assert (user, order) == rows[item][:2], "every entry says whose it is and from when"


@brute_force
@given(st.lists(event, min_size=1, max_size=15), st.lists(past_event, max_size=15), st.integers(1, 4))
def test_histories_of_their_own_table_by_double_loop(rows, past, length):
    """Such a table is used whole, whatever the parts; the events' own labels play no role."""
    table = Past(
        user_P=np.array([p[0] for p in past], dtype="int32"),
        item_P=np.arange(100, 100 + len(past), dtype="int32"),
        order_P=np.array([p[1] for p in past], dtype="float64"),
    )
    events = dataclasses.replace(make_events(rows), past=table)
    positive_E, part_E = np.array([r[2] for r in rows]), np.array([r[3] for r in rows])
    histories = build_histories(events, part_E, positive_E, length)
    for n, (user, order, *_) in enumerate(rows):
        seen = sorted((before, 100 + m) for m, (other, before) in enumerate(past) if other == user and before < order)
        assert items_of(histories, n) == [item for _, item in seen][-length:]
    for item, user, order in zip(histories.item_H, histories.user_H, histories.order_H, strict=True):
        assert (user, order) == past[item - 100]


def test_equal_moments_never_see_one_another_and_ties_keep_the_order_of_rows():
    rows = [(0, 1), (0, 1), (0, 2), (1, 5)]
    histories = build_histories(make_events(rows), np.zeros(4, dtype="int8"), np.full(4, True), 5)
    assert [items_of(histories, n) for n in range(4)] == [[], [], [0, 1], []]


def test_items_stand_once_per_user_not_once_per_row():
    rows = [(0, n) for n in range(1000)]
    histories = build_histories(make_events(rows), np.zeros(1000, dtype="int8"), np.full(1000, True), 500)
    assert len(histories.item_H) == 1000
    assert items_of(histories, 999) == list(range(499, 999))


def test_no_positive_no_history():
    histories = build_histories(make_events([(0, 1), (0, 2)]), np.zeros(2, dtype="int8"), np.full(2, False), 5)
    assert [items_of(histories, n) for n in range(2)] == [[], []]
