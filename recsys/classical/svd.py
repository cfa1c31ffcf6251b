"""What the field calls SVD: biases and factors over the observed ratings (Koren et al. 2009, eq. 5)."""

import numpy as np
from scipy.sparse import csr_array

from recsys.classical.base import Classical
from recsys.classical.biases import fit_biases
from recsys.classical.factors import with_terms
from recsys.classical.least_squares import solve_rows
from recsys.classical.ratings import Ratings
from recsys.classical.similarity import like


class SVD(Classical):
    """`r_ui = mean + b_u + b_i + p_u q_i`, by alternating least squares (Zhou et al. 2008).

    Each half sweep solves the bias and the factors of every user (then item) exactly. `reg_bias` counts once a row;
    `reg` grows with the number n of the row's ratings as `reg * n^reg_power`.
    """

    feedback = ("ratings",)

    def __init__(
        self,
        *,
        embedding_dim: int = 10,
        epochs: int = 8,
        reg: float = 3.0,
        reg_power: float = 0.3,
        reg_bias: float = 5.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, count in (("embedding_dim", embedding_dim), ("epochs", epochs)):
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1, got {count}.")
        for name, value in (("reg", reg), ("reg_bias", reg_bias)):
            if value <= 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        self.embedding_dim, self.epochs, self.seed = embedding_dim, epochs, seed
        self.reg, self.reg_power, self.reg_bias = reg, reg_power, reg_bias

    def _fit(self, ratings: Ratings) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        bias_U, bias_I = fit_biases(ratings)
        factor_ID = rng.normal(0, 0.1, (ratings.items, self.embedding_dim))
        by_user, by_item = (like(m, m.data - ratings.value_N.mean()) for m in (ratings.by_user, ratings.by_item))
        for _ in range(self.epochs):
            bias_U, factor_UD = self._half(by_user, bias_I, factor_ID)
            bias_I, factor_ID = self._half(by_item, bias_U, factor_UD)
        return {"bias_U": bias_U, "bias_I": bias_I, "factor_UD": factor_UD, "factor_ID": factor_ID}

    def _half(self, value_RC: csr_array, bias_C: np.ndarray, factor_CD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Biases and factors of the rows, given those of the columns."""
        count_R = np.diff(value_RC.indptr)
        reg_R = self.reg * np.maximum(count_R, 1.0) ** self.reg_power
        reg_RJ = np.column_stack([np.full(len(count_R), self.reg_bias), *[reg_R] * factor_CD.shape[1]])
        target_RC = like(value_RC, value_RC.data - bias_C[value_RC.indices])
        solved_RJ = solve_rows(target_RC, np.column_stack([np.ones(len(bias_C)), factor_CD]), reg_RJ)
        return solved_RJ[:, 0], solved_RJ[:, 1:]

    def prior(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        """The mean and the known biases."""
        learned = self.learned
        known = (
            np.where(user_B >= 0, learned["bias_U"][user_B], 0),
            np.where(item_B >= 0, learned["bias_I"][item_B], 0),
        )
        return learned["mean"] + known[0] + known[1]

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """The factors, and the biases and the mean."""
        learned = self.learned
        factors = learned["factor_UD"], learned["factor_ID"]
        return with_terms(factors, learned["mean"] + learned["bias_U"], learned["bias_I"])

    def _score(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        learned = self.learned
        interest_B = np.einsum("bd,bd->b", learned["factor_UD"][user_B], learned["factor_ID"][item_B])
        return self.prior(user_B, item_B) + interest_B

    def _score_items(self, user_U: np.ndarray) -> np.ndarray:
        learned = self.learned
        bias_UI = learned["bias_U"][user_U, None] + learned["bias_I"] + learned["mean"]
        return bias_UI + learned["factor_UD"][user_U] @ learned["factor_ID"].T
