"""Implicit alternating least squares with regularisation by frequency."""

import numpy as np
from scipy.sparse import csr_array

from recsys.classical.factors import Factors, check_positive
from recsys.classical.least_squares import solve_rows
from recsys.classical.ratings import Ratings


class IALS(Factors):
    """Factors that score what was met 1 and all pairs 0, the latter with the weight `unobserved` (Rendle et al. 2021).

    Minimises, over pairs met S and all pairs (eq. 2, with `reg_power` = nu),
    `sum_S (1 - p_u q_i)^2 + unobserved sum (p_u q_i)^2 + reg sum_u (n_u + unobserved I)^nu |p_u|^2`
    and the last sum again over items.
    """

    feedback = ("implicit",)

    def __init__(
        self,
        *,
        embedding_dim: int = 64,
        epochs: int = 10,
        unobserved: float = 0.1,
        reg: float = 0.03,
        reg_power: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(embedding_dim=embedding_dim, epochs=epochs, unobserved=unobserved, reg=reg)
        self.embedding_dim, self.epochs, self.unobserved = embedding_dim, epochs, unobserved
        self.reg, self.reg_power, self.seed = reg, reg_power, seed

    def _fit(self, ratings: Ratings) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        factor_ID = rng.normal(0, 0.1 / np.sqrt(self.embedding_dim), (ratings.items, self.embedding_dim))
        for _ in range(self.epochs):
            factor_UD = self._half(ratings.by_user, factor_ID)
            factor_ID = self._half(ratings.by_item, factor_UD)
        return {"factor_UD": factor_UD, "factor_ID": factor_ID}

    def _half(self, met_RC: csr_array, factor_CD: np.ndarray) -> np.ndarray:
        frequency_R = np.diff(met_RC.indptr) + self.unobserved * met_RC.shape[1]
        reg_RD = np.repeat(self.reg * frequency_R[:, None] ** self.reg_power, self.embedding_dim, axis=1)
        return solve_rows(met_RC, factor_CD, reg_RD, gram_JJ=self.unobserved * factor_CD.T @ factor_CD)
