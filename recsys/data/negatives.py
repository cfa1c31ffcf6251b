"""Sampled negatives for implicit data: items that a user has no known positive with."""

import numpy as np


class NegativeSampler:
    """Draws items uniformly among those that are not a known positive of the user, exactly and without retries.

    `user_P`, `item_P` are the known positives (training rows), as positions in the users and items tables. Drawn
    are only items that occur among them: an item that nobody could have seen yet is no evidence of dislike.

    With m such items and a user's sorted positives p_0 < p_1 < ..., n = m - len(p) items are free, and the r-th of
    them is r + #{j : p_j - j <= r}: one uniform draw of r in [0, n) and one binary search give the item.
    Users who are positive with every item have no negative: `has_negatives_U` is False for them, and they must not be
    drawn for. `pool` holds the m items in order, `free_U` the n of each user.
    """

    def __init__(self, user_P: np.ndarray, item_P: np.ndarray, *, users: int) -> None:
        self.pool, code_P = np.unique(item_P, return_inverse=True)
        size = len(self.pool)
        keys = np.unique(user_P.astype("int64") * size + code_P)
        user, code = keys // size, keys % size
        counts_U = np.bincount(user, minlength=users)
        self.has_negatives_U = counts_U < size
        self.free_U = size - counts_U
        self._starts_U = np.cumsum(counts_U) - counts_U
        rank = np.arange(len(keys)) - self._starts_U[user]
        self._gaps = user * (size + 1) + code - rank

    def sample(self, user_B: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One item position per entry of `user_B`, (B,)."""
        return self._free_items(user_B, (rng.random(len(user_B)) * self.free_U[user_B]).astype("int64"))

    def sample_distinct(self, user_Q: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` different item positions per entry of `user_Q`, (Q, C); -1 before shorter lists of all free ones.

        Floyd's algorithm (Bentley and Floyd 1987, doi:10.1145/30401.315746): each place draws among one number more
        than the last and, where that is taken, takes the new one.
        """
        draw_CQ = np.full((count, len(user_Q)), -1)
        for place in range(count):
            top_Q = self.free_U[user_Q] - count + place
            draw_Q = (rng.random(len(user_Q)) * (top_Q + 1)).astype("int64")
            taken_Q = (draw_CQ[:place] == draw_Q).any(0)
            draw_CQ[place] = np.where(top_Q < 0, -1, np.where(taken_Q, top_Q, draw_Q))
        items_CQ = np.full(draw_CQ.shape, -1)
        drawn = draw_CQ >= 0
        items_CQ[drawn] = self._free_items(np.broadcast_to(user_Q, draw_CQ.shape)[drawn], draw_CQ[drawn])
        return items_CQ.T

    def _free_items(self, user_B: np.ndarray, rank_B: np.ndarray) -> np.ndarray:
        """The free item of each user that stands at a rank among them, (B,)."""
        key_B = user_B.astype("int64") * (len(self.pool) + 1) + rank_B
        below_B = np.searchsorted(self._gaps, key_B, side="right") - self._starts_U[user_B]
        return self.pool[rank_B + below_B]
