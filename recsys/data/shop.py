"""A seeded e-commerce shop whose true click probability is known.

Every effect enters one logit and `click_probability = sigmoid(logit)`, so the best AUC any model can reach on
the data is the AUC of that column. Letters of the array suffixes: U users, I items, C categories, B brands,
K cities, D days, G friend circles, S scenes, V visits, N rows, T traits, W bytes.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

START = 1_740_960_000  # Monday 2025-03-03 00:00 UTC, in unix seconds
HOUR, DAY = 3_600, 86_400  # seconds
LATE_FROM = 0.75  # share of the period after which new users and new items begin to appear

# category: (sector, median price, lean to older users, lean to women, 1 where one is enough for months)
CATEGORIES: Mapping[str, tuple[str, float, float, float, int]] = {
    "phone": ("tech", 620, -0.55, -0.20, 1),
    "phone case": ("tech", 22, -0.45, 0.35, 0),
    "laptop": ("tech", 1050, -0.30, -0.45, 1),
    "laptop bag": ("tech", 55, 0.10, 0.20, 1),
    "umbrella": ("outdoor", 24, 0.50, 0.25, 1),
    "tent": ("outdoor", 210, -0.25, -0.50, 1),
    "sleeping bag": ("outdoor", 95, -0.30, -0.40, 1),
    "coat": ("fashion", 150, 0.40, 0.45, 1),
    "dress": ("fashion", 75, -0.25, 1.00, 0),
    "sunglasses": ("fashion", 85, -0.20, 0.20, 0),
    "ice cream": ("food", 6, -0.50, 0.10, 0),
    "coffee beans": ("food", 15, 0.60, -0.15, 0),
    "coffee machine": ("food", 240, 0.70, -0.10, 1),
}
FOLLOW_UPS: Mapping[str, str] = {
    "phone": "phone case",
    "laptop": "laptop bag",
    "tent": "sleeping bag",
    "coat": "umbrella",
    "dress": "sunglasses",
    "coffee machine": "coffee beans",
}
BRANDS: Mapping[str, Sequence[str]] = {
    "tech": ("Voltra", "Pixeon", "Kestrel", "Orbix"),
    "outdoor": ("Nimbus", "Ridgeway", "Fjellborn", "Trailhead"),
    "fashion": ("Maison Lune", "Urbana", "Thread & Co", "Solane"),
    "food": ("Dolce Via", "Roastery 9", "Polar Scoop", "Casa Bruna"),
}
ADJECTIVES = (
    "Compact",
    "Classic",
    "Light",
    "Urban",
    "Deluxe",
    "Everyday",
    "Active",
    "Mini",
    "Pro",
    "Signature",
)
CITIES = ("Northport", "Lakeside", "Granville", "Sunhaven", "Eastbrook", "Millford")
WEATHERS = ("sunny", "cloudy", "rainy", "snowy")
PLACES = ("home", "work", "commute", "mall")
BEHAVIORS = ("skip", "view", "cart", "purchase")

WEATHER_LIFT = {
    "sunny": {"ice cream": 1.1, "sunglasses": 1.0, "tent": 0.5, "umbrella": -0.9, "coat": -0.5},
    "rainy": {
        "umbrella": 1.8,
        "coat": 0.5,
        "coffee beans": 0.3,
        "sunglasses": -0.9,
        "ice cream": -0.9,
        "tent": -0.6,
    },
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
WEEKEND_LIFT = {"tent": 0.5, "sleeping bag": 0.4, "ice cream": 0.4, "laptop": -0.5, "laptop bag": -0.4}
HOUR_WEIGHT = (3, 2, 1, 1, 1, 2, 4, 7, 9, 9, 9, 10, 12, 11, 9, 8, 9, 10, 12, 15, 17, 16, 11, 6)
WEEKDAY_WEIGHT = (0.95, 0.9, 0.9, 0.95, 1.05, 1.25, 1.2)

INTERCEPT = -2.0
SLOTS_A_DAY = 6
SLOT_ROWS = 65_536  # most rows simulated at once
VISIT_ROWS = 6  # most items shown in one visit
ORPHAN, DUPLICATE, ODD_RATING = 0.001, 0.002, 0.003  # shares of rows, rows and ratings made dirty


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    events: int
    users: int
    items: int
    days: int
    chunk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Users:
    """Users in order of joining; `join_U` in seconds since the start, `active_U` cumulative visit weights."""

    age_U: Array
    woman_U: Array
    city_U: Array
    circle_U: Array
    join_U: Array
    active_U: Array
    taste_UC: Array
    shown_UC: Array
    trait_UT: Array
    thrift_U: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Items:
    """Items in order of launch; `lift_I` is the part of the logit that is the item's own."""

    category_I: Array
    brand_I: Array
    price_I: Array
    price_score_I: Array
    popularity_I: Array
    launch_I: Array
    lift_I: Array
    trait_IT: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _World:
    users: _Users
    items: _Items
    weather_DK: Array
    place_HP: Array
    context_SC: Array
    after_click_CC: Array
    after_buy_CC: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _History:
    """Each user's last click and purchase, updated in place; category C means none yet."""

    click_U: Array
    click_time_U: Array
    buy_U: Array
    buy_time_U: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    user_N: Array
    item_N: Array
    scene_N: Array
    time_N: Array
    behavior_N: Array
    rating_N: Array
    micro_N: Array

    def take(self, index_N: Array) -> "_Rows":
        return _Rows(**{name: getattr(self, name)[index_N] for name in self.__slots__})


def write_shop(
    folder: str | Path,
    *,
    events: int = 100_000,
    users: int | None = None,
    items: int | None = None,
    days: int = 60,
    seed: int = 0,
    chunk: int = 1_000_000,
) -> None:
    """Write a shop's five CSV files, with the true click probability of every row.

    The files are `user_behavior_data.csv`, `item_attribute_data.csv`, `user_data.csv`,
    `scene_information_data.csv` and `social_data.csv`. The behaviour file has `events` rows and some 0.2%
    more that repeat the row before them. Some 0.1% of its rows name an item outside the item table and some
    0.3% of its ratings are out of range. 1% of ages and 0.5% of prices are empty; two item rows appear twice.
    The probability of a dirty row is still the one its click was drawn with.

    Args:
        folder: A folder that does not exist yet; it appears complete or not at all.
        events: Rows of behaviour before the repeats, at least 1.
        users: At least 10; one for each 50 events and no fewer than 200 when None.
        items: At least 26; 600 at 100,000 events, growing with the square root, when None.
        days: Length of the period from 2025-03-03 UTC, 1 to 36,500.
        seed: Same seed, same bytes; at least 0.
        chunk: Rows encoded before they are written, at least 1; bounds the memory, never changes the bytes.

    Raises:
        FileExistsError: If `folder` exists.
        ValueError: If an argument is out of its range.

    >>> with tempfile.TemporaryDirectory() as parent:
    ...     write_shop(Path(parent, "shop"), events=500, seed=7)
    ...     len(list(Path(parent, "shop").glob("*.csv")))
    5
    """
    _check("seed", seed, 0, 2**63)
    size = _sized(events, users, items, days, chunk)
    with _new_folder(Path(folder)) as partial:
        world_rng, social_rng, event_rng = np.random.default_rng(seed).spawn(3)
        world = _draw_world(size, world_rng)
        _write_items(partial / "item_attribute_data.csv", world.items, world_rng)
        _write_users(partial / "user_data.csv", world.users, world_rng)
        _write_social(partial / "social_data.csv", world.users.circle_U, social_rng)
        seen_S = _write_behavior(partial / "user_behavior_data.csv", world, size, event_rng)
        _write_scenes(partial / "scene_information_data.csv", seen_S)


def _check(name: str, value: Any, least: int, most: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise ValueError(f"`{name}` must be a whole number in [{least}, {most}], got {value!r}.")


def _sized(events: int, users: int | None, items: int | None, days: int, chunk: int) -> _Size:
    _check("events", events, 1, 10**12)
    users = max(200, events // 50) if users is None else users
    items = max(60, round(600 * (events / 100_000) ** 0.5)) if items is None else items
    _check("users", users, 10, 10**9)
    _check("items", items, 2 * len(CATEGORIES), 10**8)
    _check("days", days, 1, 36_500)
    _check("chunk", chunk, 1, 10**12)
    return _Size(events=int(events), users=int(users), items=int(items), days=int(days), chunk=int(chunk))


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a hidden folder that becomes `target` when the block succeeds and vanishes when it fails."""
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"`folder` must not exist yet, got {str(target)!r}; remove it or name another.")
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".shop-", dir=target.parent) as scratch:
            partial = Path(scratch, "shop")
            partial.mkdir()
            yield partial
            if target.exists():
                raise FileExistsError(f"`folder` {str(target)!r} appeared while the shop was written.")
            partial.rename(target)
    except BaseException:
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()
        raise


def _draw_world(size: _Size, rng: np.random.Generator) -> _World:
    follow_CC = np.array([[float(FOLLOW_UPS.get(a) == b) for b in CATEGORIES] for a in CATEGORIES])
    durable_C = np.array([row[4] for row in CATEGORIES.values()])
    same_CC = np.eye(len(CATEGORIES))
    none_C = np.zeros((1, len(CATEGORIES)))
    return _World(
        users=_draw_users(size, rng),
        items=_draw_items(size, rng),
        weather_DK=_draw_weather(size.days, rng),
        place_HP=_place_odds(),
        context_SC=_context(),
        after_click_CC=np.vstack([0.5 * same_CC, none_C]),
        after_buy_CC=np.vstack([1.6 * follow_CC - 0.5 * durable_C * same_CC, none_C]),
    )


def _draw_users(size: _Size, rng: np.random.Generator) -> _Users:
    users, circles = size.users, max(8, size.users // 40)
    share_G = rng.gamma(2.0, size=circles)
    circle_U = rng.choice(circles, users, p=share_G / share_G.sum())
    age_U = rng.uniform(20, 64, circles)[circle_U] + rng.normal(0, 6, users)
    age_U = np.clip(np.rint(age_U), 16, 80).astype(np.int64)
    woman_U = rng.random(users) < rng.uniform(0.2, 0.8, circles)[circle_U]
    city_U = rng.integers(len(CITIES), size=circles)[circle_U]
    city_U = np.where(rng.random(users) < 0.75, city_U, rng.integers(len(CITIES), size=users))
    old_U = (age_U - 42) / 14
    taste_UC = _draw_taste(old_U, woman_U, city_U, circle_U, rng)
    shown_UC = np.cumsum(np.exp(taste_UC), axis=1)
    late = round(0.13 * users)
    join_U = np.zeros(users)
    join_U[users - late :] = np.sort(rng.uniform(LATE_FROM, 0.97, late)) * size.days * DAY
    active_U = rng.lognormal(0, 0.5, users) * np.where(join_U > 0, 2.0, 1.0)
    return _Users(
        age_U=age_U,
        woman_U=woman_U,
        city_U=city_U,
        circle_U=circle_U,
        join_U=join_U,
        active_U=np.cumsum(active_U),
        taste_UC=taste_UC,
        shown_UC=shown_UC / shown_UC[:, -1:],
        trait_UT=np.stack([old_U, np.where(woman_U, 1.0, -1.0)], axis=1),
        thrift_U=-0.4 + 0.2 * np.clip(old_U, -1.5, 1.5) + rng.normal(0, 0.05, users),
    )


def _draw_taste(old_U: Array, woman_U: Array, city_U: Array, circle_U: Array, rng: np.random.Generator) -> Array:
    """Return the logit of each user for each category, and with it the user's own readiness to click."""
    shape = (len(old_U), len(CATEGORIES))
    lean_C = np.array([row[2:4] for row in CATEGORIES.values()], dtype=np.float32)
    taste_UC: Array = rng.standard_normal(shape, dtype=np.float32) * 0.05
    taste_UC += rng.standard_normal((shape[0], 1), dtype=np.float32) * 0.05
    taste_UC += 1.4 * old_U.astype(np.float32)[:, None] * lean_C[:, 0]
    taste_UC += np.where(woman_U, 1.4, -1.4).astype(np.float32)[:, None] * lean_C[:, 1]
    taste_UC += rng.normal(0, 0.1, (len(CITIES), shape[1])).astype(np.float32)[city_U]
    taste_UC += rng.normal(0, 0.1, (circle_U.max() + 1, shape[1])).astype(np.float32)[circle_U]
    return taste_UC


def _draw_items(size: _Size, rng: np.random.Generator) -> _Items:
    items, count = size.items, len(CATEGORIES)
    sectors = list(BRANDS)
    sector_C = np.array([sectors.index(row[0]) for row in CATEGORIES.values()])
    per_sector = len(BRANDS[sectors[0]])
    category_I = np.concatenate([np.arange(count), rng.integers(count, size=items - count)])
    brand_I = sector_C[category_I] * per_sector + rng.integers(per_sector, size=items)
    prestige_B = rng.normal(0, 1, len(sectors) * per_sector)
    price_score_I = 0.5 * prestige_B[brand_I] + rng.normal(0, 0.85, items)
    median_C = np.array([row[1] for row in CATEGORIES.values()])
    appeal_I = rng.normal(0, 1, items)
    sales_I = np.exp(5.5 + 0.9 * appeal_I + rng.normal(0, 0.08, items))
    late = round(0.12 * items)
    launch_I = np.zeros(items)
    launch_I[items - late :] = np.sort(rng.uniform(LATE_FROM, 0.97, late)) * size.days * DAY
    return _Items(
        category_I=category_I,
        brand_I=brand_I,
        price_I=np.maximum(0.5, median_C[category_I] * np.exp(0.4 * price_score_I)),
        price_score_I=price_score_I,
        popularity_I=rng.poisson(sales_I),
        launch_I=launch_I,
        lift_I=INTERCEPT + 0.8 * appeal_I + rng.normal(0, 0.5, count)[category_I] + 0.2 * prestige_B[brand_I],
        trait_IT=rng.normal(0, 0.08, (len(prestige_B), 2))[brand_I],
    )


def _draw_weather(days: int, rng: np.random.Generator) -> Array:
    """Return the weather of each day in each city; yesterday's weather stays with probability 0.5."""
    climate_KW = np.cumsum(rng.dirichlet([8, 5, 6, 2], len(CITIES)), axis=1)
    fresh_DKW = rng.random((days, len(CITIES), 1)) > climate_KW[:, :-1]
    weather_DK: Array = fresh_DKW.sum(axis=2)
    stays_DK = rng.random((days, len(CITIES))) < 0.5
    for day in range(1, days):
        weather_DK[day] = np.where(stays_DK[day], weather_DK[day - 1], weather_DK[day])
    return weather_DK


def _place_odds() -> Array:
    """Return the cumulative odds of the places for each of the 168 hours of a week."""
    odds_HP = np.tile([0.8, 0.02, 0.04, 0.14], (7, 24, 1))
    odds_HP[:5, 9:17] = [0.25, 0.6, 0.05, 0.1]
    odds_HP[:5, [7, 8, 17, 18]] = [0.35, 0.1, 0.45, 0.1]
    odds_HP[5:, 10:20] = [0.55, 0.04, 0.06, 0.35]
    return np.cumsum(odds_HP.reshape(168, -1), axis=1)


def _lift(levels: Sequence[str], lifts: Mapping[str, Mapping[str, float]]) -> Array:
    return np.array([[lifts.get(level, {}).get(name, 0.0) for name in CATEGORIES] for level in levels])


def _context() -> Array:
    """Return the logit of each scene for each category, scenes in the order hour, weekday, weather, place."""
    part_PC = _lift(("night", "morning", "midday", "evening"), PART_LIFT)
    hour_HC = part_PC[np.digitize(np.arange(24), (6, 11, 17))]
    weekday_DC = _lift(["workday"] * 5 + ["weekend"] * 2, {"weekend": WEEKEND_LIFT})
    total = hour_HC[:, None, None, None] + weekday_DC[:, None, None]
    total = total + _lift(WEATHERS, WEATHER_LIFT)[:, None] + _lift(PLACES, PLACE_LIFT)
    context_SC: Array = total.reshape(-1, len(CATEGORIES))
    return context_SC


def _traffic(days: int) -> Array:
    """Return the share of the visits before each hour of the period, from 0 to 1."""
    hour_H = np.arange(days * 24)
    weight_H = np.take(HOUR_WEIGHT, hour_H % 24) * np.take(WEEKDAY_WEIGHT, hour_H // 24 % 7)
    weight_H = weight_H * (1 + 0.2 * hour_H / len(hour_H))
    return np.concatenate([[0.0], np.cumsum(weight_H) / weight_H.sum()])


def _slots(size: _Size, traffic_H: Array) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, rows) of spans in seconds since the start that hold equal shares of the traffic."""
    slots = min(size.events, max(size.days * SLOTS_A_DAY, -(-size.events // SLOT_ROWS)))
    row_J = np.arange(slots + 1) * size.events // slots
    edge_J = np.interp(row_J / size.events, traffic_H, HOUR * np.arange(len(traffic_H))).astype(np.int64)
    yield from zip(edge_J[:-1].tolist(), edge_J[1:].tolist(), np.diff(row_J).tolist(), strict=True)


def _begin(traffic_H: Array, start: int, stop: int, visits: int, rng: np.random.Generator) -> Array:
    """Draw when visits begin, as the traffic has it, in whole seconds from `start` to `stop`."""
    second_H = HOUR * np.arange(len(traffic_H))
    low, high = np.interp([start, stop], second_H, traffic_H)
    return np.interp(rng.uniform(low, high, visits), traffic_H, second_H).astype(np.int64)


def _simulate(world: _World, size: _Size, rng: np.random.Generator) -> Iterator[_Rows]:
    """Yield rows in order of time; a user's history is exact but for two visits within one slot."""
    history, traffic_H = _no_history(size.users), _traffic(size.days)
    for start, stop, count in _slots(size, traffic_H):
        user_V, pace_V, blocks = _draw_visits(world.users, start, count, rng)
        begin_V = _begin(traffic_H, start, stop, len(user_V), rng)
        begin_V = np.minimum(begin_V, stop - VISIT_ROWS * pace_V)
        visit_N = np.concatenate([np.arange(block.stop - block.start) for block in blocks])
        step_N = np.repeat(np.arange(len(blocks)), [block.stop - block.start for block in blocks])
        time_N = np.clip(begin_V[visit_N] + step_N * pace_V[visit_N], start, max(start, stop - 1))
        user_N = user_V[visit_N]
        item_N = _show_items(world, history, user_N, start, rng)
        scene_N = _scenes(world, user_N, time_N, rng.random(len(user_V))[visit_N])
        logit_N = _own_logit(world, user_N, item_N, scene_N)
        micro_N, behavior_N = _play(world, history, blocks, user_N, item_N, time_N, logit_N, rng)
        rows = _Rows(
            user_N=user_N,
            item_N=item_N,
            scene_N=scene_N,
            time_N=time_N + START,
            behavior_N=behavior_N,
            rating_N=_rate(world.items.lift_I[item_N], behavior_N == 3, rng),
            micro_N=micro_N,
        )
        yield rows.take(np.argsort(time_N, kind="stable"))


def _no_history(users: int) -> _History:
    none_U, zero_U = np.full(users, len(CATEGORIES), dtype=np.int8), np.zeros(users, dtype=np.int32)
    return _History(click_U=none_U, click_time_U=zero_U, buy_U=none_U.copy(), buy_time_U=zero_U.copy())


def _draw_visits(users: _Users, start: int, count: int, rng: np.random.Generator) -> tuple[Array, Array, list[slice]]:
    """Draw the visits that hold `count` rows: who, the seconds between rows, and the rows by position.

    Visits come longest first, so the rows at position k are those of the first few visits: one slice.
    """
    length_V = rng.integers(2, VISIT_ROWS + 1, size=count // 2 + 1)
    length_V = length_V[: int(np.searchsorted(np.cumsum(length_V), count)) + 1]
    length_V[-1] -= length_V.sum() - count
    size_K = (length_V > np.arange(length_V.max())[:, None]).sum(axis=1)
    edge_K = np.concatenate([[0], np.cumsum(size_K)]).tolist()
    blocks = [slice(low, high) for low, high in pairwise(edge_K)]
    joined = int(np.searchsorted(users.join_U, start, side="right"))
    weight_V = rng.random(len(length_V)) * users.active_U[joined - 1]
    user_V = np.searchsorted(users.active_U[:joined], weight_V, side="right").clip(max=joined - 1)
    return user_V, rng.integers(8, 60, size=len(length_V)), blocks


def _show_items(world: _World, history: _History, user_N: Array, start: int, rng: np.random.Generator) -> Array:
    """Draw the items shown: 50% by popularity alone, 34% by the user's taste, 16% by the user's history."""
    items = world.items
    order_I = np.argsort(items.category_I, kind="stable")
    weight_I = (items.popularity_I + 5.0) ** 0.6 * (items.launch_I <= start)
    cum_I = np.concatenate([[0.0], np.cumsum(weight_I[order_I])])
    edge_C = np.searchsorted(items.category_I[order_I], np.arange(len(CATEGORIES) + 1))
    source_N, pick_N, place_N = rng.random((3, len(user_N)))
    low_N, high_N = np.zeros(len(user_N)), np.full(len(user_N), cum_I[-1])
    taste, recall = (source_N > 0.5) & (source_N < 0.84), source_N >= 0.84
    recall_NC = _recall_odds(world, history, user_N[recall], source_N[recall] < 0.9)
    for rows, odds_NC in ((taste, world.users.shown_UC[user_N[taste]]), (recall, recall_NC)):
        category_N = (odds_NC[:, :-1] < pick_N[rows, None]).sum(axis=1)
        low_N[rows], high_N[rows] = cum_I[edge_C[category_N]], cum_I[edge_C[category_N + 1]]
    point_N = np.minimum(low_N + place_N * (high_N - low_N), np.nextafter(high_N, 0))
    item_N: Array = order_I[np.searchsorted(cum_I, point_N, side="right") - 1]
    return item_N


def _recall_odds(world: _World, history: _History, user_N: Array, by_click_N: Array) -> Array:
    """Return cumulative odds of the categories that go with the last click or the last purchase."""
    after_CC = np.vstack([world.after_click_CC, world.after_buy_CC]).clip(0) + 0.05
    after_CC = np.cumsum(after_CC / after_CC.sum(axis=1, keepdims=True), axis=1)
    bought_N = history.buy_U[user_N].astype(np.int64) + len(CATEGORIES) + 1
    odds_NC: Array = after_CC[np.where(by_click_N, history.click_U[user_N], bought_N)]
    return odds_NC


def _scenes(world: _World, user_N: Array, time_N: Array, chance_N: Array) -> Array:
    day_N, hour_N = time_N // DAY, time_N // HOUR % 24
    weekday_N = day_N % 7
    place_N = (world.place_HP[weekday_N * 24 + hour_N, :-1] < chance_N[:, None]).sum(axis=1)
    weather_N = world.weather_DK[day_N, world.users.city_U[user_N]]
    scene_N: Array = ((hour_N * 7 + weekday_N) * len(WEATHERS) + weather_N) * len(PLACES) + place_N
    return scene_N


def _own_logit(world: _World, user_N: Array, item_N: Array, scene_N: Array) -> Array:
    """Return everything in the logit but the user's history."""
    users, items = world.users, world.items
    category_N = items.category_I[item_N]
    logit_N: Array = items.lift_I[item_N] + users.taste_UC[user_N, category_N]
    logit_N += world.context_SC[scene_N, category_N]
    logit_N += users.thrift_U[user_N] * items.price_score_I[item_N]
    logit_N += np.einsum("nt,nt->n", users.trait_UT[user_N], items.trait_IT[item_N])
    return logit_N


def _play(
    world: _World,
    history: _History,
    blocks: Sequence[slice],
    user_N: Array,
    item_N: Array,
    time_N: Array,
    logit_N: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Draw each position of the visits in turn; return the probability in millionths and the behaviour."""
    category_N = world.items.category_I[item_N]
    chance_N, depth_N = rng.random((2, len(user_N)))
    micro_N, behavior_N = np.empty((2, len(user_N)), dtype=np.int64)
    for rows in blocks:
        user, category, time = user_N[rows], category_N[rows], time_N[rows]
        click_days = (time - history.click_time_U[user]) / DAY
        buy_days = (time - history.buy_time_U[user]) / DAY
        logit = logit_N[rows] + world.after_click_CC[history.click_U[user], category] * np.exp(-click_days / 3)
        logit += world.after_buy_CC[history.buy_U[user], category] * np.exp(-buy_days / 25)
        micro = np.rint(1e6 / (1 + np.exp(-logit))).clip(1, 999_999)
        clicked = chance_N[rows] * 1e6 < micro
        bought = depth_N[rows] < 0.16 + 0.16 * micro / 1e6
        micro_N[rows] = micro
        behavior_N[rows] = clicked * (1 + (depth_N[rows] < 0.45) + bought)
        history.click_U[user[clicked]], history.click_time_U[user[clicked]] = category[clicked], time[clicked]
        bought &= clicked
        history.buy_U[user[bought]], history.buy_time_U[user[bought]] = category[bought], time[bought]
    return micro_N, behavior_N


def _rate(lift_N: Array, bought_N: Array, rng: np.random.Generator) -> Array:
    """Return ratings 1..5 for 60% of the purchases, a few of them 9, and 0 for no rating."""
    rating_N = np.rint(4.0 + 0.5 * (lift_N - INTERCEPT) + rng.normal(0, 0.9, len(lift_N))).clip(1, 5)
    chance_N = rng.random(len(lift_N))
    rating_N[chance_N < 0.6 * ODD_RATING] = 9
    return np.where(bought_N & (chance_N < 0.6), rating_N, 0).astype(np.int64)


def _soil(rows: _Rows, items: int, rng: np.random.Generator) -> _Rows:
    """Give some rows an item outside the table, then repeat some rows in place."""
    count = len(rows.user_N)
    orphan_N = rng.random(count) < ORPHAN
    rows.item_N[orphan_N] = items + rng.integers(_withdrawn(items), size=int(orphan_N.sum()))
    return rows.take(np.repeat(np.arange(count), 1 + (rng.random(count) < DUPLICATE)))


def _withdrawn(items: int) -> int:
    """Return how many item ids exist in the behaviour file alone."""
    return max(3, items // 100)


_THREE = np.array([list(b"%03d" % value) for value in range(1000)], dtype=np.uint8)


def _digits(value_N: Array, width: int) -> Array:
    """Return whole numbers as zero-padded decimal text, uint8 of shape (N, width)."""
    parts: list[Array] = []
    for _ in range(-(-width // 3)):
        value_N, rest_N = np.divmod(value_N, 1000)
        parts.insert(0, _THREE[rest_N])
    return np.concatenate(parts, axis=1)[:, -width:]


def _text(values: Sequence[str]) -> Array:
    """Return strings as bytes padded with zeros, uint8 of shape (N, W)."""
    padded_N = np.array([value.encode() for value in values], dtype=bytes)
    return padded_N.view(np.uint8).reshape(len(values), -1)


def _ids(prefix: str, count: int, width: int) -> Array:
    width = max(width, len(str(count - 1)))
    return np.concatenate([np.tile(_text([prefix]), (count, 1)), _digits(np.arange(count), width)], axis=1)


def _lines(columns: Sequence[Array]) -> bytes:
    """Return columns of padded bytes, each (N, W), as comma-separated lines without the padding."""
    pieces: list[Array] = []
    for column_NW in columns:
        pieces += [column_NW, np.full((len(column_NW), 1), ord(","), dtype=np.uint8)]
    pieces[-1] = np.full_like(pieces[-1], ord("\n"))
    line_NW = np.concatenate(pieces, axis=1)
    return bytes(line_NW[line_NW != 0])


def _write_table(path: Path, header: str, columns: Sequence[Array]) -> None:
    path.write_bytes(header.encode() + b"\n" + _lines(columns))


def _title(category: str, brand: str, adjective: str) -> str:
    return f"{brand} {adjective} {category.title()}"


def _write_items(path: Path, items: _Items, rng: np.random.Generator) -> None:
    count = len(items.category_I)
    category = np.array(list(CATEGORIES))[items.category_I].tolist()
    brand = np.array([name for names in BRANDS.values() for name in names])[items.brand_I].tolist()
    adjective = rng.choice(ADJECTIVES, count).tolist()
    price = [f"{value:.2f}" for value in items.price_I]
    for row in rng.choice(count, max(1, round(0.005 * count)), replace=False):
        price[row] = ""
    columns = [
        _ids("i", count + _withdrawn(count), 4)[:count],
        _text([_title(*words) for words in zip(category, brand, adjective, strict=True)]),
        _text(category),
        _text(brand),
        _text(price),
        _text([str(value) for value in items.popularity_I]),
        _text(_tags(items, category, rng)),
    ]
    row_N = np.concatenate([np.arange(count), rng.choice(count, 2, replace=False)])
    header = "item_id,title,category,brand,price,popularity,tags"
    _write_table(path, header, [column[row_N] for column in columns])


def _tags(items: _Items, category: Sequence[str], rng: np.random.Generator) -> list[str]:
    chance_I2 = rng.random((len(category), 2))
    told = {
        "new": items.launch_I > 0,
        "premium": items.price_score_I > 1.0,
        "bargain": items.price_score_I < -1.0,
        "gift": chance_I2[:, 0] < 0.25,
        "eco": chance_I2[:, 1] < 0.15,
    }
    return [
        "|".join([CATEGORIES[name][0], *(tag for tag, has_I in told.items() if has_I[row])])
        for row, name in enumerate(category)
    ]


def _write_users(path: Path, users: _Users, rng: np.random.Generator) -> None:
    count = len(users.age_U)
    age_UW = _digits(users.age_U, 2)
    age_UW[rng.choice(count, max(1, round(0.01 * count)), replace=False)] = 0
    gender_UW = _text(("male", "female"))[users.woman_U.astype(np.int64)]
    columns = [_ids("u", count, 5), age_UW, gender_UW, _text(CITIES)[users.city_U]]
    _write_table(path, "user_id,age,gender,city", columns)


def _write_social(path: Path, circle_U: Array, rng: np.random.Generator) -> None:
    """Write friendships: each user names four friends, six in seven of them inside the own circle."""
    users, asked = len(circle_U), 4
    user_E = np.repeat(np.arange(users), asked)
    order_U = np.argsort(circle_U, kind="stable")
    edge_G = np.searchsorted(circle_U[order_U], np.arange(circle_U.max() + 2))
    low_E, high_E = edge_G[circle_U[user_E]], edge_G[circle_U[user_E] + 1]
    inside_E = rng.random(len(user_E)) < 6 / 7
    low_E, high_E = np.where(inside_E, low_E, 0), np.where(inside_E, high_E, users)
    friend_E = order_U[rng.integers(low_E, high_E)]
    key_E = np.unique(np.minimum(user_E, friend_E) * users + np.maximum(user_E, friend_E))
    first_E, second_E = np.divmod(key_E, users)
    apart_E = first_E != second_E
    id_UW = _ids("u", users, 5)
    _write_table(path, "user_id,friend_id", [id_UW[first_E[apart_E]], id_UW[second_E[apart_E]]])


def _write_behavior(path: Path, world: _World, size: _Size, rng: np.random.Generator) -> Array:
    """Write the behaviour file and return which scenes occur in it."""
    user_UW, scene_SW = _ids("u", size.users, 5), _ids("s", len(world.context_SC), 4)
    item_IW = _ids("i", size.items + _withdrawn(size.items), 4)
    seen_S = np.zeros(len(scene_SW), dtype=bool)
    play_rng, dirt_rng = rng.spawn(2)
    done, written, waiting = 0, 0, bytearray()
    with path.open("wb") as file:
        file.write(b"user_id,item_id,scene_id,timestamp,behavior,clicked,rating,click_probability\n")
        for clean in _simulate(world, size, play_rng):
            done += len(clean.user_N)
            rows = _soil(clean, size.items, dirt_rng)
            seen_S[rows.scene_N] = True
            waiting += _behavior_lines(rows, user_UW, item_IW, scene_SW)
            if done - written >= size.chunk or done == size.events:
                file.write(waiting)
                written = done
                waiting.clear()
                logger.info("wrote %d of %d events", written, size.events)
    return seen_S


def _behavior_lines(rows: _Rows, user_UW: Array, item_IW: Array, scene_SW: Array) -> bytes:
    zero_N, one_N = _text(("0", "1"))
    point_NW = np.tile(_text(["0."]), (len(rows.user_N), 1))
    columns = [
        user_UW[rows.user_N],
        item_IW[rows.item_N],
        scene_SW[rows.scene_N],
        _digits(rows.time_N, 10),
        _text(BEHAVIORS)[rows.behavior_N],
        np.where(rows.behavior_N[:, None] > 0, one_N, zero_N),
        np.where(rows.rating_N > 0, rows.rating_N + ord("0"), 0).astype(np.uint8)[:, None],
        np.concatenate([point_NW, _digits(rows.micro_N, 6)], axis=1),
    ]
    return _lines(columns)


def _write_scenes(path: Path, seen_S: Array) -> None:
    scene_N = np.flatnonzero(seen_S)
    rest_N, place_N = np.divmod(scene_N, len(PLACES))
    rest_N, weather_N = np.divmod(rest_N, len(WEATHERS))
    hour_N, weekday_N = np.divmod(rest_N, 7)
    columns = [
        _ids("s", len(seen_S), 4)[scene_N],
        _text([str(hour) for hour in hour_N]),
        _text([str(weekday) for weekday in weekday_N]),
        _text(WEATHERS)[weather_N],
        _text(PLACES)[place_N],
    ]
    _write_table(path, "scene_id,hour,weekday,weather,place", columns)
