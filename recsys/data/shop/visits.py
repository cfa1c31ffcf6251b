"""Who comes when: the rows of a shop as visits of two to six items, spread over the hours as traffic has it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from recsys.data.shop.world import HOUR, Size, Users

HOUR_WEIGHT = (3, 2, 1, 1, 1, 2, 4, 7, 9, 9, 9, 10, 12, 11, 9, 8, 9, 10, 12, 15, 17, 16, 11, 6)
WEEKDAY_WEIGHT = (0.95, 0.9, 0.9, 0.95, 1.05, 1.25, 1.2)
SLOTS_A_DAY = 6
SLOT_ROWS = 65_536  # most rows simulated at once
VISIT_ROWS = 6  # most items shown in one visit


class Slot(NamedTuple):
    """A span of time, from `start` to before `stop` in seconds, with its number of rows."""

    start: int
    stop: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Visits:
    """The rows of a slot, in the order of their position in the visit: all first rows, all second rows, ...

    `blocks` holds one slice for each position; `time_N` is in seconds; `visit_N` counts from 0.
    """

    blocks: list[slice]
    visit_N: np.ndarray
    user_N: np.ndarray
    time_N: np.ndarray


def traffic(days: int) -> np.ndarray:
    """Return the share of the visits before each hour of the period, (24 * days + 1,), from 0 to 1."""
    hour_H = np.arange(days * 24)
    weight_H = np.take(HOUR_WEIGHT, hour_H % 24) * np.take(WEEKDAY_WEIGHT, hour_H // 24 % 7)
    weight_H = weight_H * (1 + 0.2 * hour_H / len(hour_H))
    return np.concatenate([[0.0], np.cumsum(weight_H) / weight_H.sum()])


def slots(size: Size, traffic_H: np.ndarray) -> Iterator[Slot]:
    """Yield slots that follow each other and hold equal shares of the traffic."""
    count = min(size.events, max(size.days * SLOTS_A_DAY, -(-size.events // SLOT_ROWS)))
    row_J = np.arange(count + 1) * size.events // count  # J edges of slots
    edge_J = np.interp(row_J / size.events, traffic_H, HOUR * np.arange(len(traffic_H))).astype(np.int64)
    yield from map(Slot, edge_J[:-1].tolist(), edge_J[1:].tolist(), np.diff(row_J).tolist())


def draw_visits(users: Users, slot: Slot, traffic_H: np.ndarray, rng: np.random.Generator) -> Visits:
    """Draw the visits of a slot: who comes, when, and 8 to 59 seconds between two rows."""
    visits_P = _draw_visits_at_position(slot.rows, rng)
    user_V = _draw_visitors(users, slot.start, visits_P[0], rng)
    pace_V = rng.integers(8, 60, size=visits_P[0])
    begin_V = np.minimum(_draw_begin(slot, traffic_H, visits_P[0], rng), slot.stop - VISIT_ROWS * pace_V)
    visit_N = np.concatenate([np.arange(visits) for visits in visits_P])
    position_N = np.repeat(np.arange(len(visits_P)), visits_P)
    time_N = begin_V[visit_N] + position_N * pace_V[visit_N]
    return Visits(
        blocks=[slice(low, high) for low, high in pairwise([0, *np.cumsum(visits_P).tolist()])],
        visit_N=visit_N,
        user_N=user_V[visit_N],
        time_N=np.clip(time_N, slot.start, max(slot.start, slot.stop - 1)),
    )


def _draw_visits_at_position(rows: int, rng: np.random.Generator) -> list[int]:
    """Draw the lengths of visits that hold `rows` rows; return how many visits are longer than 0, 1, 2, ... rows."""
    length_V = rng.integers(2, VISIT_ROWS + 1, size=rows // 2 + 1)
    length_V = length_V[: int(np.searchsorted(np.cumsum(length_V), rows)) + 1]
    length_V[-1] -= length_V.sum() - rows
    return (length_V > np.arange(length_V.max())[:, None]).sum(axis=1).tolist()


def _draw_visitors(users: Users, start: int, visits: int, rng: np.random.Generator) -> np.ndarray:
    """Draw users who have joined before `start`, the active ones more often."""
    joined = int(np.searchsorted(users.join_U, start, side="right"))
    weight_V = rng.random(visits) * users.active_U[joined - 1]
    return np.searchsorted(users.active_U[:joined], weight_V, side="right").clip(max=joined - 1)


def _draw_begin(slot: Slot, traffic_H: np.ndarray, visits: int, rng: np.random.Generator) -> np.ndarray:
    """Draw when visits begin, as the traffic has it, in whole seconds within the slot."""
    second_H = HOUR * np.arange(len(traffic_H))
    low, high = np.interp([slot.start, slot.stop], second_H, traffic_H)
    return np.interp(rng.uniform(low, high, visits), traffic_H, second_H).astype(np.int64)
