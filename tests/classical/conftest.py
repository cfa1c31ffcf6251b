"""Small ratings for the classical models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.classical.base import Classical
from recsys.classical.ratings import Ratings

# user, item, rating: 7 users, 5 items
SEVEN = [
    (0, 0, 5), (0, 1, 3), (0, 2, 4), (0, 4, 1), (1, 0, 4), (1, 1, 2), (1, 2, 4), (1, 3, 2), (2, 1, 5),
    (2, 2, 2), (2, 3, 4), (2, 4, 5), (3, 0, 1), (3, 2, 2), (3, 3, 5), (3, 4, 4), (4, 0, 5), (4, 1, 2),
    (4, 3, 1), (5, 0, 4), (5, 2, 5), (5, 4, 2), (6, 1, 3), (6, 3, 3), (6, 4, 5),
]  # fmt: skip


@pytest.fixture
def seven() -> Ratings:
    """Seven users, five items, 25 ratings from 1 to 5; an eighth user and a sixth item are cold."""
    user_E, item_E, value_E = (np.array(column) for column in zip(*SEVEN, strict=True))
    return Ratings.from_events(user_E, item_E, value_E, users=8, items=6, scale=(1, 5))


@pytest.fixture
def checkerboard() -> Ratings:
    """24 users and 16 items: even users met even items, odd ones odd items, each all but one of them."""
    pairs = [(u, i) for u in range(24) for i in range(16) if u % 2 == i % 2 and (u // 2) % 8 != i // 2]
    user_E, item_E = (np.array(column) for column in zip(*pairs, strict=True))
    return Ratings.from_events(user_E, item_E, users=24, items=16)


@pytest.fixture
def folds_rmse() -> Callable[[Path, Classical], float]:
    """The mean RMSE of a model over the five fixed folds of MovieLens-100k in a folder of datasets."""

    def rmse(folder: Path, model: Classical) -> float:
        frame = pd.read_parquet(folder / "ml-100k" / "folds.parquet")
        user, item, rating, fold = (frame[name].to_numpy() for name in ("user", "item", "rating", "fold"))
        errors = []
        for n in range(5):
            train, test = fold != n, fold == n
            ratings = Ratings.from_events(user[train], item[train], rating[train], users=944, items=1683, scale=(1, 5))
            score = model.fit(ratings).score(user[test], item[test])
            errors.append(np.sqrt(np.mean((score - rating[test]) ** 2)))
        return float(np.mean(errors))

    return rmse
