"""What the shop remembers of each user: the last click and the last purchase."""

from dataclasses import dataclass

import numpy as np

from recsys.data.shop.vocabulary import BEHAVIORS, CATEGORIES

NOTHING = len(CATEGORIES)  # the category before a user's first click or purchase


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Each user's last click and purchase, category and time in seconds; updated in place."""

    click_U: np.ndarray
    click_time_U: np.ndarray
    buy_U: np.ndarray
    buy_time_U: np.ndarray

    @classmethod
    def empty(cls, users: int) -> "Memory":
        """Return the memory of users who have done nothing yet."""
        nothing_U, zero_U = np.full(users, NOTHING), np.zeros(users, dtype=np.int64)
        return cls(click_U=nothing_U, click_time_U=zero_U, buy_U=nothing_U.copy(), buy_time_U=zero_U.copy())

    def update(self, user_N: np.ndarray, category_N: np.ndarray, time_N: np.ndarray, behavior_N: np.ndarray) -> None:
        """Remember new rows; of two rows of a user the later one stays."""
        clicked_N = behavior_N > BEHAVIORS.index("skip")
        self.click_U[user_N[clicked_N]] = category_N[clicked_N]
        self.click_time_U[user_N[clicked_N]] = time_N[clicked_N]
        bought_N = behavior_N == BEHAVIORS.index("purchase")
        self.buy_U[user_N[bought_N]] = category_N[bought_N]
        self.buy_time_U[user_N[bought_N]] = time_N[bought_N]
