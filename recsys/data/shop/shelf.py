"""What users get to see: by popularity alone, by the user's taste, or by the user's last click or purchase."""

from dataclasses import dataclass

import numpy as np

from recsys.data.shop.logit import FOLLOWS, category_taste
from recsys.data.shop.memory import NOTHING, Memory
from recsys.data.shop.vocabulary import CATEGORIES
from recsys.data.shop.world import Items, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Items sorted by category, those of category c from `edge_C[c]` to `edge_C[c + 1]`, and odds of categories.

    The odds are cumulative. `taste_UC` has a row for each user; `after_click_CC` and `after_buy_CC` have one for each
    category of the last click or purchase, and one for none yet.
    """

    items: Items
    order_I: np.ndarray
    edge_C: np.ndarray
    taste_UC: np.ndarray
    after_click_CC: np.ndarray
    after_buy_CC: np.ndarray


def build_shelf(world: World) -> Shelf:
    """Sort the items and work out which categories users get to see."""
    order_I = np.argsort(world.items.category_I, kind="stable")
    every_U, every_C = np.arange(len(world.users.age_U)), np.arange(len(CATEGORIES))
    return Shelf(
        items=world.items,
        order_I=order_I,
        edge_C=np.searchsorted(world.items.category_I[order_I], np.arange(len(CATEGORIES) + 1)),
        taste_UC=_cumulative(np.exp(category_taste(world.users, every_U[:, None], every_C))),
        after_click_CC=_cumulative(0.5 * np.eye(NOTHING + 1, NOTHING) + 0.05),
        after_buy_CC=_cumulative(1.6 * FOLLOWS + 0.05),
    )


def _cumulative(weight: np.ndarray) -> np.ndarray:
    """Return the running sum of each row, scaled to end at 1."""
    total = np.cumsum(weight, axis=1)
    return total / total[:, -1:]


def show_items(shelf: Shelf, memory: Memory, user_N: np.ndarray, time: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the item shown to each user among those launched by `time` in seconds, int64 (N,).

    The items lie on a line, each as long as its popularity makes it. A point falls anywhere on the line (50%) or on
    the stretch of one category, drawn by taste (34%), by the last click (6%) or by the last purchase (10%).
    """
    length_I = (shelf.items.popularity_I + 5.0) ** 0.6 * (shelf.items.launch_I <= time)
    line_I = np.concatenate([[0.0], np.cumsum(length_I[shelf.order_I])])
    source_N, pick_N, place_N = rng.random((3, len(user_N)))
    low_N, high_N = np.zeros(len(user_N)), np.full(len(user_N), line_I[-1])
    for low, high, odds, row_N in (
        (0.5, 0.84, shelf.taste_UC, user_N),
        (0.84, 0.9, shelf.after_click_CC, memory.click_U[user_N]),
        (0.9, 1.0, shelf.after_buy_CC, memory.buy_U[user_N]),
    ):
        here = (low <= source_N) & (source_N < high)
        category = (odds[row_N[here], :-1] < pick_N[here, None]).sum(axis=1)
        low_N[here], high_N[here] = line_I[shelf.edge_C[category]], line_I[shelf.edge_C[category + 1]]
    point_N = np.minimum(low_N + place_N * (high_N - low_N), np.nextafter(high_N, 0))
    return shelf.order_I[np.searchsorted(line_I, point_N, side="right") - 1]
