"""Factors that are not negative, so that a recommendation is a sum of shares and never a difference."""

import warnings

import numpy as np
from scipy.sparse import csr_array
from sklearn.decomposition import NMF as SklearnNMF
from sklearn.exceptions import ConvergenceWarning

from recsys.classical.factors import Factors, check_positive
from recsys.classical.least_squares import solve_rows
from recsys.classical.ratings import Ratings


class NMF(Factors):
    """`r_ui = p_u q_i` with p, q >= 0 over the observed ratings alone (Luo et al. 2014, eq. 4).

    Solved row by row by coordinate descent; `reg` grows with the number n of a row's ratings as `reg * n^reg_power`.
    Ratings must not be negative. Cold users and items are answered by the prior of all models.
    """

    feedback = ("ratings",)

    def __init__(
        self, *, embedding_dim: int = 15, epochs: int = 10, reg: float = 1.0, reg_power: float = 0.5, seed: int = 0
    ) -> None:
        super().__init__()
        check_positive(embedding_dim=embedding_dim, epochs=epochs, reg=reg)
        self.embedding_dim, self.epochs, self.reg, self.reg_power = embedding_dim, epochs, reg, reg_power
        self.seed = seed

    def _fit(self, ratings: Ratings) -> dict[str, np.ndarray]:
        _refuse_negative(ratings)
        rng = np.random.default_rng(self.seed)
        typical = np.sqrt(max(ratings.value_N.mean(), 1e-6) / self.embedding_dim)
        factor_UD, factor_ID = (
            typical * rng.uniform(0.5, 1.5, (size, self.embedding_dim)) for size in (ratings.users, ratings.items)
        )
        for _ in range(self.epochs):
            factor_UD = self._half(ratings.by_user, factor_ID, factor_UD)
            factor_ID = self._half(ratings.by_item, factor_UD, factor_ID)
        return {"factor_UD": factor_UD, "factor_ID": factor_ID}

    def _half(self, value_RC: csr_array, factor_CD: np.ndarray, start_RD: np.ndarray) -> np.ndarray:
        reg_R = self.reg * np.maximum(np.diff(value_RC.indptr), 1.0) ** self.reg_power
        reg_RD = np.repeat(reg_R[:, None], self.embedding_dim, axis=1)
        return solve_rows(value_RC, factor_CD, reg_RD, nonnegative_from_RJ=start_RD)


class FullNMF(Factors):
    """The classic `R = W H` of the whole matrix, where pairs that are not there count as 0 (Lee and Seung 1999).

    By scikit-learn's coordinate descent. It ranks; its values for ratings are drawn towards 0 and not ratings.
    """

    def __init__(self, *, embedding_dim: int = 15, epochs: int = 100, reg: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        check_positive(embedding_dim=embedding_dim, epochs=epochs)
        self.embedding_dim, self.epochs, self.reg, self.seed = embedding_dim, epochs, reg, seed

    def _fit(self, ratings: Ratings) -> dict[str, np.ndarray]:
        _refuse_negative(ratings)
        smaller = min(ratings.users, ratings.items)
        if self.embedding_dim > smaller:
            raise ValueError(
                f"`embedding_dim` must be at most the {smaller} users or items, got {self.embedding_dim}; give "
                f"model.embedding_dim={smaller} or less."
            )
        model = SklearnNMF(
            self.embedding_dim, init="nndsvda", max_iter=self.epochs, alpha_W=self.reg, random_state=self.seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # `epochs` says when to stop
            factor_UD = model.fit_transform(ratings.by_user)
        return {"factor_UD": factor_UD, "factor_ID": model.components_.T.copy()}


def _refuse_negative(ratings: Ratings) -> None:
    if ratings.value_N.min() < 0:
        raise ValueError(f"nmf needs ratings of at least 0, got {ratings.value_N.min():g}; use model=svd.")
