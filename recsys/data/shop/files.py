"""The shop's five CSV files."""

import logging
from pathlib import Path

import numpy as np

from recsys.data.shop.dirt import blank, soil, withdrawn
from recsys.data.shop.scenes import SCENES, split_scene
from recsys.data.shop.simulation import Rows, simulate
from recsys.data.shop.text import digits, ids, lines, text, write_table
from recsys.data.shop.vocabulary import ADJECTIVES, BEHAVIORS, BRANDS, CATEGORIES, CITIES, PLACES, WEATHERS, title
from recsys.data.shop.world import START, Items, Size, Users, World, draw_friendships

log = logging.getLogger(__name__)
BEHAVIOR_HEADER = b"user_id,item_id,scene_id,timestamp,behavior,clicked,rating,click_probability\n"


def write_items(path: Path, items: Items, rng: np.random.Generator) -> None:
    """Write the items, 0.5% of them without a price, and two of them once more at the end."""
    count = len(items.category_I)
    category = [list(CATEGORIES)[position] for position in items.category_I]
    brand = np.array([name for names in BRANDS.values() for name in names])[items.brand_I].tolist()
    adjective = rng.choice(ADJECTIVES, count).tolist()
    columns = {
        "item_id": _item_ids(count)[:count],
        "title": text([title(*words) for words in zip(brand, adjective, category, strict=True)]),
        "category": text(category),
        "brand": text(brand),
        "price": blank(text([f"{price:.2f}" for price in items.price_I]), 0.005, rng),
        "popularity": text([str(sales) for sales in items.popularity_I]),
        "tags": text(_tags(items, category, rng)),
    }
    row_N = np.concatenate([np.arange(count), rng.choice(count, 2, replace=False)])
    write_table(path, {name: column_NW[row_N] for name, column_NW in columns.items()})


def _item_ids(items: int) -> np.ndarray:
    """Return the ids of the item table, then those of the withdrawn items."""
    return ids("i", items + withdrawn(items), 4)


def _tags(items: Items, category: list[str], rng: np.random.Generator) -> list[str]:
    """Return each item's sector and what else is said of it, separated by bars."""
    chance_I2 = rng.random((len(category), 2))
    told = {
        "new": items.launch_I > 0,
        "premium": items.price_score_I > 1.0,
        "bargain": items.price_score_I < -1.0,
        "gift": chance_I2[:, 0] < 0.25,
        "eco": chance_I2[:, 1] < 0.15,
    }
    return [
        "|".join([CATEGORIES[name].sector, *(tag for tag, has_I in told.items() if has_I[row])])
        for row, name in enumerate(category)
    ]


def write_users(path: Path, users: Users, rng: np.random.Generator) -> None:
    """Write the users, 1% of them without an age."""
    columns = {
        "user_id": ids("u", len(users.age_U), 5),
        "age": blank(digits(users.age_U, 2), 0.01, rng),
        "gender": text(("male", "female"))[users.woman_U.astype(np.int64)],
        "city": text(CITIES)[users.city_U],
    }
    write_table(path, columns)


def write_social(path: Path, users: Users, rng: np.random.Generator) -> None:
    """Draw and write the friendships, each once."""
    first_E, second_E = draw_friendships(users.circle_U, rng)
    id_UW = ids("u", len(users.circle_U), 5)
    write_table(path, {"user_id": id_UW[first_E], "friend_id": id_UW[second_E]})


def write_behavior(path: Path, world: World, size: Size, chunk: int, rng: np.random.Generator) -> np.ndarray:
    """Simulate and write the behaviour, some `chunk` rows at a time; return which scenes occur, bool (S,)."""
    id_columns = ids("u", size.users, 5), _item_ids(size.items), ids("s", SCENES, 4)
    seen_S = np.zeros(SCENES, dtype=bool)
    play_rng, dirt_rng = rng.spawn(2)
    done, written, waiting = 0, 0, bytearray()
    with path.open("wb") as file:
        file.write(BEHAVIOR_HEADER)
        for clean in simulate(world, size, play_rng):
            done += len(clean.user_N)
            rows = soil(clean, size.items, dirt_rng)
            seen_S[rows.scene_N] = True
            waiting += _behavior_lines(rows, *id_columns)
            if done - written >= chunk or done == size.events:
                file.write(waiting)
                written = done
                waiting.clear()
                log.info("wrote %d of %d events", written, size.events)
    return seen_S


def _behavior_lines(rows: Rows, user_UW: np.ndarray, item_IW: np.ndarray, scene_SW: np.ndarray) -> bytes:
    clicked_N = (rows.behavior_N > BEHAVIORS.index("skip")).astype(np.int64)
    columns = [
        user_UW[rows.user_N],
        item_IW[rows.item_N],
        scene_SW[rows.scene_N],
        digits(START + rows.time_N, 10),
        text(BEHAVIORS)[rows.behavior_N],
        digits(clicked_N, 1),
        digits(rows.rating_N, 1) * (rows.rating_N > 0)[:, None],
        np.concatenate([np.tile(text(["0."]), (len(clicked_N), 1)), digits(rows.micro_N, 6)], axis=1),
    ]
    return lines(columns)


def write_scenes(path: Path, seen_S: np.ndarray) -> None:
    """Write the scenes that occur."""
    scene_N = np.flatnonzero(seen_S)
    hour_N, weekday_N, weather_N, place_N = split_scene(scene_N)
    columns = {
        "scene_id": ids("s", SCENES, 4)[scene_N],
        "hour": text([str(hour) for hour in hour_N]),
        "weekday": text([str(weekday) for weekday in weekday_N]),
        "weather": text(WEATHERS)[weather_N],
        "place": text(PLACES)[place_N],
    }
    write_table(path, columns)
