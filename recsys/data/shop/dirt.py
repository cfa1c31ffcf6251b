"""The faults of real data: unknown items, repeated rows and empty cells."""

from dataclasses import replace

import numpy as np

from recsys.data.shop.simulation import Rows

ORPHANS, REPEATS = 0.001, 0.002  # shares of the rows of behaviour


def withdrawn(items: int) -> int:
    """Return how many items occur in the behaviour alone, numbered after those of the item table."""
    return max(3, items // 100)


def soil(rows: Rows, items: int, rng: np.random.Generator) -> Rows:
    """Give some rows a withdrawn item, then repeat some rows in place."""
    count = len(rows.item_N)
    orphan_N, item_N = rng.random(count) < ORPHANS, rows.item_N.copy()
    item_N[orphan_N] = items + rng.integers(withdrawn(items), size=int(orphan_N.sum()))
    times_N = 1 + (rng.random(count) < REPEATS)
    return replace(rows, item_N=item_N).take(np.repeat(np.arange(count), times_N))


def blank(column_NW: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return a column of text with a share of its cells, at least one, empty."""
    count, blanked_NW = len(column_NW), column_NW.copy()
    blanked_NW[rng.choice(count, max(1, round(share * count)), replace=False)] = 0
    return blanked_NW
