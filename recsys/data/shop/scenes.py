"""Scenes: the hour, weekday, weather and place of a row, in one number."""

import numpy as np

from recsys.data.shop.visits import Visits
from recsys.data.shop.vocabulary import PLACES, WEATHERS
from recsys.data.shop.world import DAY, HOUR, World

SHAPE = (24, 7, len(WEATHERS), len(PLACES))  # hour, weekday from Monday, weather, place
SCENES = int(np.prod(SHAPE))


def split_scene(scene_N: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the hour, weekday, weather and place of scenes, each (N,).

    >>> [int(part) for part in split_scene(np.int64(SCENES - 1))]
    [23, 6, 3, 3]
    """
    return np.unravel_index(scene_N, SHAPE)


def draw_scenes(world: World, visits: Visits, rng: np.random.Generator) -> np.ndarray:
    """Draw the scene of each row, int64 (N,): only the place is left to chance, once for each visit."""
    chance_N = rng.random(visits.visit_N.max() + 1)[visits.visit_N]
    day_N, hour_N = visits.time_N // DAY, visits.time_N // HOUR % 24
    weekday_N = day_N % 7
    place_N = (_PLACE_ODDS[weekday_N, hour_N, :-1] < chance_N[:, None]).sum(axis=1)
    weather_N = world.weather_DK[day_N, world.users.city_U[visits.user_N]]
    return np.ravel_multi_index((hour_N, weekday_N, weather_N, place_N), SHAPE)


def _place_odds() -> np.ndarray:
    """Return the cumulative odds of home, work, commute and mall at each weekday and hour, (7, 24, 4)."""
    odds = np.tile([0.8, 0.02, 0.04, 0.14], (7, 24, 1))
    odds[:5, 9:17] = [0.25, 0.6, 0.05, 0.1]
    odds[:5, [7, 8, 17, 18]] = [0.35, 0.1, 0.45, 0.1]
    odds[5:, 10:20] = [0.55, 0.04, 0.06, 0.35]
    return np.cumsum(odds, axis=2)


_PLACE_ODDS = _place_odds()
