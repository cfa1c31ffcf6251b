"""The course of events: visits come, items are shown, users click, buy and rate, and their memory changes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys.data.shop.logit import INTERCEPT, click_logit, item_logit
from recsys.data.shop.memory import Memory
from recsys.data.shop.scenes import draw_scenes
from recsys.data.shop.shelf import build_shelf, show_items
from recsys.data.shop.visits import Visits, draw_visits, slots, traffic
from recsys.data.shop.vocabulary import BEHAVIORS
from recsys.data.shop.world import Size, World

ODD_RATING = 0.003  # share of the ratings that are out of range


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of behaviour, int64 (N,) each.

    `time_N` is in seconds since the start, `behavior_N` a position in `BEHAVIORS`, `rating_N` 1 to 5, 9 by mistake or
    0 for none, `micro_N` the probability of the click in millionths.
    """

    user_N: np.ndarray
    item_N: np.ndarray
    scene_N: np.ndarray
    time_N: np.ndarray
    behavior_N: np.ndarray
    rating_N: np.ndarray
    micro_N: np.ndarray

    def take(self, index_N: np.ndarray) -> "Rows":
        """Return the rows at these positions."""
        return Rows(**{name: getattr(self, name)[index_N] for name in self.__slots__})


def simulate(world: World, size: Size, rng: np.random.Generator) -> Iterator[Rows]:
    """Yield rows in order of time; a user's memory is exact but for two visits within one slot."""
    memory, shelf, traffic_H = Memory.empty(size.users), build_shelf(world), traffic(size.days)
    for slot in slots(size, traffic_H):
        visits = draw_visits(world.users, slot, traffic_H, rng)
        item_N = show_items(shelf, memory, visits.user_N, slot.start, rng)
        scene_N = draw_scenes(world, visits, rng)
        micro_N, behavior_N = _react(world, memory, visits, item_N, scene_N, rng)
        rows = Rows(
            user_N=visits.user_N,
            item_N=item_N,
            scene_N=scene_N,
            time_N=visits.time_N,
            behavior_N=behavior_N,
            rating_N=_rate(item_logit(world.items, item_N), behavior_N, rng),
            micro_N=micro_N,
        )
        yield rows.take(np.argsort(visits.time_N, kind="stable"))


def _react(
    world: World, memory: Memory, visits: Visits, item_N: np.ndarray, scene_N: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw what users do, position by position; return the probability in millionths and the behaviour."""
    chance_N, depth_N = rng.random((2, len(item_N)))
    micro_N, behavior_N = np.empty((2, len(item_N)), dtype=np.int64)
    for rows in visits.blocks:
        user, item, time = visits.user_N[rows], item_N[rows], visits.time_N[rows]
        logit = click_logit(world, memory, user, item, scene_N[rows], time)
        micro = np.rint(1e6 / (1 + np.exp(-logit))).clip(1, 999_999)
        carted = depth_N[rows] < 0.45
        bought = depth_N[rows] < 0.16 + 0.16 * micro / 1e6
        behavior = (chance_N[rows] * 1e6 < micro) * (1 + carted + bought)
        micro_N[rows], behavior_N[rows] = micro, behavior
        memory.update(user, world.items.category_I[item], time, behavior)
    return micro_N, behavior_N


def _rate(logit_N: np.ndarray, behavior_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw ratings of 60% of the purchases from the item's own logit; 0 where there is none."""
    rating_N = np.rint(4.0 + 0.5 * (logit_N - INTERCEPT) + rng.normal(0, 0.9, len(logit_N))).clip(1, 5)
    chance_N = rng.random(len(logit_N))
    rating_N[chance_N < 0.6 * ODD_RATING] = 9
    rated_N = (behavior_N == BEHAVIORS.index("purchase")) & (chance_N < 0.6)
    return np.where(rated_N, rating_N, 0).astype(np.int64)
