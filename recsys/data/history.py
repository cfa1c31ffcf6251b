"""Each event's history: the user's past positive items, strictly before it."""

from dataclasses import dataclass

import numpy as np

from recsys.data.events import Events


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """All histories at once: the history of event e is `item_H[start_E[e]:stop_E[e]]`, oldest first.

    `item_H` holds item positions, grouped by user and ordered; `user_H` and `order_H` say whose they are and from
    when. A user's items stand there once, however many events refer to them; once per part where the parts overlap in
    time.
    """

    item_H: np.ndarray
    user_H: np.ndarray
    order_H: np.ndarray
    start_E: np.ndarray
    stop_E: np.ndarray


def build_histories(events: Events, part_E: np.ndarray, positive_E: np.ndarray, length: int) -> Histories:
    """Histories of at most `length` items.

    An event sees the positives of its own and of earlier parts only (`part_E`: 0 train, 1 valid, 2 test), so that
    under a random split no training row carries a test row's answer. Where histories come from a table of their
    own (`events.past`), that table is used whole. Events of equal order never see one another; equal past events
    keep the order of their rows.
    """
    if events.past is not None:
        past = events.past
        return _before(past.user_P, past.item_P, past.order_P, events.user_E, events.order_E, length)
    if _parts_follow(events.order_E, part_E):
        user_P, item_P, order_P = (a[positive_E] for a in (events.user_E, events.item_E, events.order_E))
        return _before(user_P, item_P, order_P, events.user_E, events.order_E, length)
    start_E = np.zeros(len(part_E), dtype="int64")
    stop_E = np.zeros(len(part_E), dtype="int64")
    parts: list[Histories] = []
    base = 0
    for part in np.unique(part_E):
        here = part_E == part
        known = positive_E & (part_E <= part)
        found = _before(
            events.user_E[known],
            events.item_E[known],
            events.order_E[known],
            events.user_E[here],
            events.order_E[here],
            length,
        )
        start_E[here], stop_E[here] = found.start_E + base, found.stop_E + base
        parts.append(found)
        base += len(found.item_H)
    return Histories(
        item_H=np.concatenate([p.item_H for p in parts]),
        user_H=np.concatenate([p.user_H for p in parts]),
        order_H=np.concatenate([p.order_H for p in parts]),
        start_E=start_E,
        stop_E=stop_E,
    )


def _parts_follow(order_E: np.ndarray, part_E: np.ndarray) -> bool:
    """Whether no event of a later part comes before one of an earlier part, as after a split by time."""
    parts = np.unique(part_E)
    first = [order_E[part_E == part].min() for part in parts[1:]]
    last = [order_E[part_E == part].max() for part in parts[:-1]]
    return all(a <= b for a, b in zip(last, first, strict=True))


def _before(
    past_user_P: np.ndarray,
    past_item_P: np.ndarray,
    past_order_P: np.ndarray,
    user_E: np.ndarray,
    order_E: np.ndarray,
    length: int,
) -> Histories:
    """For every event, the last `length` past events of its user with a smaller order value."""
    moments = np.unique(np.concatenate([past_order_P, order_E]))
    past_key_P = past_user_P.astype("int64") * len(moments) + np.searchsorted(moments, past_order_P)
    key_E = user_E.astype("int64") * len(moments) + np.searchsorted(moments, order_E)
    order = np.argsort(past_key_P, kind="stable")
    sorted_P = past_key_P[order]
    stop_E = np.searchsorted(sorted_P, key_E, side="left")
    first_E = np.searchsorted(sorted_P, user_E.astype("int64") * len(moments), side="left")
    return Histories(
        item_H=past_item_P[order],
        user_H=past_user_P[order],
        order_H=past_order_P[order],
        start_E=np.maximum(first_E, stop_E - length),
        stop_E=stop_E,
    )
