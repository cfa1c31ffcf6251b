"""Generate a shop: check the arguments, then write a folder that appears complete or not at all."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.shop import files
from recsys.data.shop.vocabulary import CATEGORIES
from recsys.data.shop.world import Size, draw_world
from recsys.data.store import write_atomically


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

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     write_shop(Path(parent, "shop"), events=500, seed=7)
    ...     len(list(Path(parent, "shop").glob("*.csv")))
    5
    """
    _check("seed", seed, 0, 2**63)
    size = _sized(events, users, items, days)
    _check("chunk", chunk, 1, 10**12)
    _write_new_folder(Path(folder), partial(_write_files, size=size, seed=seed, chunk=chunk))


def _check(name: str, value: Any, least: int, most: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise ValueError(f"`{name}` must be a whole number in [{least}, {most}], got {value!r}.")


def _sized(events: int, users: int | None, items: int | None, days: int) -> Size:
    """Return the checked size, with users and items to suit the events where they are None."""
    _check("events", events, 1, 10**12)
    users = max(200, events // 50) if users is None else users
    items = max(60, round(600 * (events / 100_000) ** 0.5)) if items is None else items
    _check("users", users, 10, 10**9)
    _check("items", items, 2 * len(CATEGORIES), 10**8)
    _check("days", days, 1, 36_500)
    return Size(events=int(events), users=int(users), items=int(items), days=int(days))


def _write_new_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder; when it fails, the parents made for it vanish too."""
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"`folder` must not exist yet, got {str(folder)!r}; remove it or name another.")
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        write_atomically(folder, write)
    except BaseException:
        for parent in missing:
            with suppress(OSError):  # it was never made, or something else lies in it by now
                parent.rmdir()
        raise


def _write_files(folder: Path, *, size: Size, seed: int, chunk: int) -> None:
    world_rng, social_rng, event_rng = np.random.default_rng(seed).spawn(3)
    world = draw_world(size, world_rng)
    files.write_items(folder / "item_attribute_data.csv", world.items, world_rng)
    files.write_users(folder / "user_data.csv", world.users, world_rng)
    files.write_social(folder / "social_data.csv", world.users, social_rng)
    seen_S = files.write_behavior(folder / "user_behavior_data.csv", world, size, chunk, event_rng)
    files.write_scenes(folder / "scene_information_data.csv", seen_S)
