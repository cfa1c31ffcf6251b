"""The world of the shop, drawn once: users in circles of friends, items of brands, weather in cities."""

from dataclasses import dataclass

import numpy as np

from recsys.data.shop.vocabulary import BRANDS, CATEGORIES, CITIES

START = 1_740_960_000  # Monday 2025-03-03 00:00 UTC, in unix seconds; elsewhere time counts in seconds from here
HOUR, DAY = 3_600, 86_400  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a shop is: rows of behaviour before the repeats, users, items and days."""

    events: int
    users: int
    items: int
    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Users in order of joining, and the tastes they share with their city and circle.

    `old_U` is the age in steps of 14 years from 42; `join_U` is in seconds; `active_U` holds cumulative weights of
    visiting; `own_UC`, `city_KC` and `circle_GC` are float32 logits; `thrift_U` is the logit per unit of price score.
    """

    age_U: np.ndarray
    old_U: np.ndarray
    woman_U: np.ndarray
    city_U: np.ndarray
    circle_U: np.ndarray
    join_U: np.ndarray
    active_U: np.ndarray
    own_UC: np.ndarray
    city_KC: np.ndarray
    circle_GC: np.ndarray
    thrift_U: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Items in order of launch, and what they share with their category and brand.

    `price_score_I` is the logarithm of price over the category's median, in steps of 0.4; `popularity_I` counts past
    sales; `launch_I` is in seconds; `appetite_C` is a logit; `lean_B2` is the logit per unit of age and for a woman.
    """

    category_I: np.ndarray
    brand_I: np.ndarray
    price_I: np.ndarray
    price_score_I: np.ndarray
    popularity_I: np.ndarray
    launch_I: np.ndarray
    appeal_I: np.ndarray
    appetite_C: np.ndarray
    prestige_B: np.ndarray
    lean_B2: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything that is fixed before the first visit; `weather_DK` holds positions in `WEATHERS`."""

    users: Users
    items: Items
    weather_DK: np.ndarray


def draw_world(size: Size, rng: np.random.Generator) -> World:
    """Draw the users, the items and the weather."""
    return World(users=_draw_users(size, rng), items=_draw_items(size, rng), weather_DK=_draw_weather(size.days, rng))


def _draw_users(size: Size, rng: np.random.Generator) -> Users:
    circle_U, age_U, woman_U, city_U = _draw_people(size.users, rng)
    old_U = (age_U - 42) / 14
    own_UC = rng.standard_normal((size.users, len(CATEGORIES)), dtype=np.float32) * 0.05
    own_UC += rng.standard_normal((size.users, 1), dtype=np.float32) * 0.05  # readiness to click anything
    city_KC = rng.normal(0, 0.1, (len(CITIES), len(CATEGORIES)))
    circle_GC = rng.normal(0, 0.1, (circle_U.max() + 1, len(CATEGORIES)))
    join_U = _draw_arrivals(size.users, 0.13, size.days, rng)
    active_U = rng.lognormal(0, 0.5, size.users) * np.where(join_U > 0, 2.0, 1.0)
    return Users(
        age_U=age_U,
        old_U=old_U,
        woman_U=woman_U,
        city_U=city_U,
        circle_U=circle_U,
        join_U=join_U,
        active_U=np.cumsum(active_U),
        own_UC=own_UC,
        city_KC=city_KC.astype(np.float32),
        circle_GC=circle_GC.astype(np.float32),
        thrift_U=-0.4 + 0.2 * np.clip(old_U, -1.5, 1.5) + rng.normal(0, 0.05, size.users),
    )


def _draw_people(users: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw each user's circle, age in years, sex (True for a woman) and city; friends are alike in all of them."""
    circles = max(8, users // 40)
    share_G = rng.gamma(2.0, size=circles)
    circle_U = rng.choice(circles, users, p=share_G / share_G.sum())
    age_U = rng.uniform(20, 64, circles)[circle_U] + rng.normal(0, 6, users)
    age_U = np.clip(np.rint(age_U), 16, 80).astype(np.int64)
    woman_U = rng.random(users) < rng.uniform(0.2, 0.8, circles)[circle_U]
    city_U = rng.integers(len(CITIES), size=circles)[circle_U]
    city_U = np.where(rng.random(users) < 0.75, city_U, rng.integers(len(CITIES), size=users))
    return circle_U, age_U, woman_U, city_U


def _draw_arrivals(count: int, late: float, days: int, rng: np.random.Generator) -> np.ndarray:
    """Draw when users or items arrive, in ascending seconds: a share `late` near the end, the rest at 0."""
    newcomers = round(late * count)
    second_N = np.zeros(count)
    second_N[count - newcomers :] = np.sort(rng.uniform(0.75, 0.97, newcomers)) * days * DAY
    return second_N


def _draw_items(size: Size, rng: np.random.Generator) -> Items:
    category_I, brand_I = _draw_kinds(size.items, rng)
    prestige_B = rng.normal(0, 1, sum(map(len, BRANDS.values())))
    price_score_I = 0.5 * prestige_B[brand_I] + rng.normal(0, 0.85, size.items)
    median_C = np.array([category.price for category in CATEGORIES.values()])
    appeal_I = rng.normal(0, 1, size.items)
    sales_I = np.exp(5.5 + 0.9 * appeal_I + rng.normal(0, 0.08, size.items))
    launch_I = _draw_arrivals(size.items, 0.12, size.days, rng)
    return Items(
        category_I=category_I,
        brand_I=brand_I,
        price_I=np.maximum(0.5, median_C[category_I] * np.exp(0.4 * price_score_I)),
        price_score_I=price_score_I,
        popularity_I=rng.poisson(sales_I),
        launch_I=launch_I,
        appeal_I=appeal_I,
        appetite_C=rng.normal(0, 0.5, len(CATEGORIES)),
        prestige_B=prestige_B,
        lean_B2=rng.normal(0, 0.08, (len(prestige_B), 2)),
    )


def _draw_kinds(items: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw each item's category, the first items covering all, and its brand, one of its sector's four."""
    sectors, brands_each = list(BRANDS), len(next(iter(BRANDS.values())))
    sector_C = np.array([sectors.index(category.sector) for category in CATEGORIES.values()])
    rest_I = rng.integers(len(CATEGORIES), size=items - len(CATEGORIES))
    category_I = np.concatenate([np.arange(len(CATEGORIES)), rest_I])
    return category_I, sector_C[category_I] * brands_each + rng.integers(brands_each, size=items)


def _draw_weather(days: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the weather of each day in each city; yesterday's weather stays with probability 0.5."""
    climate_KW = np.cumsum(rng.dirichlet([8, 5, 6, 2], len(CITIES)), axis=1)  # W weathers
    fresh_DKW = rng.random((days, len(CITIES), 1)) > climate_KW[:, :-1]
    weather_DK = fresh_DKW.sum(axis=2)
    stays_DK = rng.random((days, len(CITIES))) < 0.5
    for day in range(1, days):
        weather_DK[day] = np.where(stays_DK[day], weather_DK[day - 1], weather_DK[day])
    return weather_DK


def draw_friendships(circle_U: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of friends, each once: a user names four, six in seven of them inside the own circle."""
    users = len(circle_U)
    user_E = np.repeat(np.arange(users), 4)
    order_U = np.argsort(circle_U, kind="stable")
    edge_G = np.searchsorted(circle_U[order_U], np.arange(circle_U.max() + 2))
    inside_E = rng.random(len(user_E)) < 6 / 7
    low_E = np.where(inside_E, edge_G[circle_U[user_E]], 0)
    high_E = np.where(inside_E, edge_G[circle_U[user_E] + 1], users)
    friend_E = order_U[rng.integers(low_E, high_E)]
    pair_E = np.unique(np.minimum(user_E, friend_E) * users + np.maximum(user_E, friend_E))
    first_E, second_E = np.divmod(pair_E, users)
    apart_E = first_E != second_E
    return first_E[apart_E], second_E[apart_E]
