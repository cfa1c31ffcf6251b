"""EASE: a linear model of items by items in closed form."""

import numpy as np
from scipy import linalg
from scipy.sparse import csr_array

from recsys.classical.base import Classical, by_block
from recsys.classical.factors import check_positive
from recsys.classical.ratings import Ratings

LARGEST = 30_000  # items; the weights take 8 I^2 bytes, three times over while they are made


class EASE(Classical):
    """`score = x_u B` with `B = I - P diag(1 / diag P)`, `P = (X'X + reg I)^-1` (Steck 2019, eq. 8).

    x_u says which items the user met; the diagonal of B is 0. The weights are dense: up to 30,000 items.
    """

    feedback = ("implicit",)

    def __init__(self, *, reg: float = 500.0) -> None:
        super().__init__()
        check_positive(reg=reg)
        self.reg = reg

    def _fit(self, ratings: Ratings) -> dict[str, np.ndarray]:
        if ratings.items > LARGEST:
            raise ValueError(f"ease takes up to {LARGEST:,} items, got {ratings.items:,}; use model=ials or item_knn.")
        gram_II = (ratings.by_item @ ratings.by_user).toarray()
        gram_II[np.diag_indices_from(gram_II)] += self.reg
        lower_II = linalg.cholesky(gram_II, lower=True, overwrite_a=True)
        inverse_II = linalg.lapack.dpotri(lower_II, lower=1, overwrite_c=1)[0]
        inverse_II = np.tril(inverse_II) + np.tril(inverse_II, -1).T
        weight_II = inverse_II / -np.diag(inverse_II)
        np.fill_diagonal(weight_II, 0.0)
        return {"weight_II": weight_II}

    def met(self) -> csr_array:
        """Which items each user met, (U, I)."""
        start_U, item_N = self.learned["seen_start_U"], self.learned["seen_item_N"]
        return csr_array((np.ones(len(item_N)), item_N, start_U), shape=(self.users, self.items))

    def _score(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        score_B = np.empty(len(user_B))
        users, row_B = np.unique(user_B, return_inverse=True)
        for block, pairs in by_block(row_B, len(users), self.items):
            score_B[pairs] = self._score_items(users[block])[row_B[pairs] - block.start, item_B[pairs]]
        return score_B

    def _score_items(self, user_U: np.ndarray) -> np.ndarray:
        return self.met()[user_U] @ self.learned["weight_II"]
