"""What models that score by the product of a user's and an item's factors have in common."""

import numpy as np

from recsys.classical.base import Classical


class Factors(Classical):
    """`score = p_u q_i`, of the learned `factor_UD` and `factor_ID`."""

    def _score(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        return np.einsum("bd,bd->b", self.learned["factor_UD"][user_B], self.learned["factor_ID"][item_B])

    def _score_items(self, user_U: np.ndarray) -> np.ndarray:
        return self.learned["factor_UD"][user_U] @ self.learned["factor_ID"].T


def check_positive(**values: float) -> None:
    """Raise ValueError naming the first keyword whose value is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"`{name}` must be positive, got {value}.")
