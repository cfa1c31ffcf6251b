"""What models that score by the product of a user's and an item's factors have in common."""

import numpy as np

from recsys.classical.base import Classical


class Factors(Classical):
    """`score = p_u q_i`, of the learned `factor_UD` and `factor_ID`."""

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """The factors."""
        return self.learned["factor_UD"], self.learned["factor_ID"]

    def _score(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        return np.einsum("bd,bd->b", self.learned["factor_UD"][user_B], self.learned["factor_ID"][item_B])

    def _score_items(self, user_U: np.ndarray) -> np.ndarray:
        return self.learned["factor_UD"][user_U] @ self.learned["factor_ID"].T


def with_terms(
    factors: tuple[np.ndarray, np.ndarray], term_U: np.ndarray, term_I: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors whose products are those of the factors and a term of the user and one of the item: [p, a, 1] [q, 1, b].

    >>> user_UD, item_ID = with_terms((np.array([[2.0]]), np.array([[3.0]])), np.array([10.0]), np.array([100.0]))
    >>> user_UD @ item_ID.T
    array([[116.]])
    """
    (factor_UD, factor_ID), one_U, one_I = factors, np.ones(len(term_U)), np.ones(len(term_I))
    return np.column_stack([factor_UD, term_U, one_U]), np.column_stack([factor_ID, one_I, term_I])


def check_positive(**values: float) -> None:
    """Raise ValueError naming the first keyword whose value is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"`{name}` must be positive, got {value}.")
