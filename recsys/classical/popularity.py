"""What everyone likes: the baseline that a personal recommendation has to beat."""

import numpy as np

from recsys.classical.base import Classical
from recsys.classical.ratings import Ratings


class Popularity(Classical):
    """Implicit: the share of users that met the item. Ratings: the item's mean, drawn towards the mean of all.

    A mean of n ratings is drawn as if `damping` more ratings of the overall mean had been given. Ranking goes by the
    number of users in both cases.
    """

    def __init__(self, *, damping: float = 10.0) -> None:
        super().__init__()
        if damping < 0:
            raise ValueError(f"`damping` must not be negative, got {damping}.")
        self.damping = damping

    def _fit(self, ratings: Ratings) -> dict[str, np.ndarray]:
        sum_I = np.asarray(ratings.by_item.sum(axis=1))
        mean = ratings.value_N.mean()
        return {"score_I": (sum_I + self.damping * mean) / (self.learned["count_I"] + self.damping)}

    def _score(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        if self.learned["implicit"]:
            return self.prior(user_B, item_B)
        return self.learned["score_I"][item_B]

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """1 for everyone, and the score of each item."""
        item_I = np.arange(self.items)
        return np.ones((self.users, 1)), self._score(np.zeros(self.items, dtype="int64"), item_I)[:, None]

    def prior(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        """The same for everyone; an item without training rows has the overall mean."""
        if self.learned["implicit"]:
            return super().prior(user_B, item_B)
        return np.where(item_B >= 0, self.learned["score_I"][item_B], self.learned["mean"])

    def score_items(self, user_U: np.ndarray) -> np.ndarray:
        """The share of users that met the item, the same for everyone, float64 (U, I)."""
        return np.tile(self._of("count_I") / max(1, self.users), (len(user_U), 1))
