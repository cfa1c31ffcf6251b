"""Why users click: every effect on the logit of a click, with its coefficient."""

from collections.abc import Mapping, Sequence

import numpy as np

from recsys.data.shop.memory import Memory
from recsys.data.shop.scenes import split_scene
from recsys.data.shop.vocabulary import CATEGORIES, FOLLOW_UPS, PLACES, WEATHERS
from recsys.data.shop.world import DAY, Items, Users, World

INTERCEPT = -2.0
WEATHER_LIFT = {
    "sunny": {"ice cream": 1.1, "sunglasses": 1.0, "tent": 0.5, "umbrella": -0.9, "coat": -0.5},
    "rainy": {"umbrella": 1.8, "coat": 0.5, "coffee beans": 0.3, "sunglasses": -0.9, "ice cream": -0.9, "tent": -0.6},
    "snowy": {"coat": 1.3, "coffee machine": 0.5, "ice cream": -1.3, "sunglasses": -0.3},
}
PART_LIFT = {
    "night": {"phone": 0.3, "umbrella": -0.4, "coffee beans": -0.8},
    "morning": {"coffee beans": 0.8, "umbrella": 0.4, "ice cream": -0.8},
    "midday": {"ice cream": 0.6, "laptop": 0.4, "laptop bag": 0.3, "sunglasses": 0.3},
    "evening": {"dress": 0.5, "tent": 0.3, "coffee machine": 0.3, "coffee beans": -0.5},
}
PLACE_LIFT = {
    "home": {"coffee machine": 0.4, "tent": 0.3, "sleeping bag": 0.3},
    "work": {"laptop": 0.7, "laptop bag": 0.6, "coffee beans": 0.4, "dress": -0.5, "tent": -0.4},
    "commute": {"phone": 0.6, "phone case": 0.4, "umbrella": 0.5, "coffee machine": -0.6},
    "mall": {"dress": 0.8, "coat": 0.5, "ice cream": 0.5, "laptop": -0.4},
}
WEEK_LIFT = {
    "weekend": {"tent": 0.5, "sleeping bag": 0.4, "ice cream": 0.4, "laptop": -0.5, "laptop bag": -0.4},
}


def _lifts(levels: Sequence[str], lifts: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    """Return the logit of each level for each category, (levels, C); what is not named is 0."""
    return np.array([[lifts.get(level, {}).get(name, 0.0) for name in CATEGORIES] for level in levels])


_HOUR_LIFT = _lifts(["night"] * 6 + ["morning"] * 5 + ["midday"] * 6 + ["evening"] * 7, PART_LIFT)
_WEEKDAY_LIFT = _lifts(["workday"] * 5 + ["weekend"] * 2, WEEK_LIFT)
_WEATHER_LIFT = _lifts(WEATHERS, WEATHER_LIFT)
_PLACE_LIFT = _lifts(PLACES, PLACE_LIFT)
_OLDER_C = np.array([category.older for category in CATEGORIES.values()], dtype=np.float32)
_WOMEN_C = np.array([category.women for category in CATEGORIES.values()], dtype=np.float32)
_DURABLE_C = np.array([category.durable for category in CATEGORIES.values()])
# (bought, shown); the last row, for those who bought nothing yet, is all False
FOLLOWS = np.array([[FOLLOW_UPS.get(bought) == shown for shown in CATEGORIES] for bought in [*CATEGORIES, "nothing"]])


def click_logit(
    world: World, memory: Memory, user_N: np.ndarray, item_N: np.ndarray, scene_N: np.ndarray, time_N: np.ndarray
) -> np.ndarray:
    """Return the logit with which a user clicks an item in a scene at a time in seconds, float64 (N,)."""
    users, items = world.users, world.items
    category_N, lean_N2 = items.category_I[item_N], items.lean_B2[items.brand_I[item_N]]
    hour_N, weekday_N, weather_N, place_N = split_scene(scene_N)
    clicked_N, bought_N = memory.click_U[user_N], memory.buy_U[user_N]
    days_since_click_N = (time_N - memory.click_time_U[user_N]) / DAY
    days_since_buy_N = (time_N - memory.buy_time_U[user_N]) / DAY
    follow_up_N = FOLLOWS[bought_N, category_N]
    enough_N = (bought_N == category_N) & _DURABLE_C[category_N]
    return (
        item_logit(items, item_N)
        + category_taste(users, user_N, category_N)
        + (
            _HOUR_LIFT[hour_N, category_N]
            + _WEEKDAY_LIFT[weekday_N, category_N]
            + _WEATHER_LIFT[weather_N, category_N]
            + _PLACE_LIFT[place_N, category_N]
        )
        + users.thrift_U[user_N] * items.price_score_I[item_N]
        + (users.old_U[user_N] * lean_N2[:, 0] + np.where(users.woman_U[user_N], 1, -1) * lean_N2[:, 1])
        + 0.5 * (clicked_N == category_N) * np.exp(-days_since_click_N / 3)
        + (1.6 * follow_up_N - 0.5 * enough_N) * np.exp(-days_since_buy_N / 25)
    )


def item_logit(items: Items, item_N: np.ndarray) -> np.ndarray:
    """Return what an item's own appeal, its category and its brand make of the logit, float64 (N,)."""
    return (
        INTERCEPT
        + 0.8 * items.appeal_I[item_N]
        + items.appetite_C[items.category_I[item_N]]
        + 0.2 * items.prestige_B[items.brand_I[item_N]]
    )


def category_taste(users: Users, user_N: np.ndarray, category_N: np.ndarray) -> np.ndarray:
    """Return what users add to the logit of a category: float32, the two shapes broadcast."""
    return (
        users.own_UC[user_N, category_N]
        + 1.4 * users.old_U[user_N].astype(np.float32) * _OLDER_C[category_N]
        + 1.4 * np.where(users.woman_U[user_N], np.float32(1), np.float32(-1)) * _WOMEN_C[category_N]
        + users.city_KC[users.city_U[user_N], category_N]
        + users.circle_GC[users.circle_U[user_N], category_N]
    )
