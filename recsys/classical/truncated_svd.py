"""Singular value decomposition in its proper sense: the best low-rank approximation of a centred matrix."""

from typing import Literal, get_args

import numpy as np
from scipy.sparse.linalg import svds

from recsys.classical.biases import fit_biases
from recsys.classical.factors import Factors, check_positive, with_terms
from recsys.classical.ratings import Ratings
from recsys.classical.similarity import like
from recsys.declare import nearest

Centre = Literal["user", "item", "baseline"]


class TruncatedSVD(Factors):
    """`R - centre = U S V'`, cut to `embedding_dim` singular values (Sarwar et al. 2000; Cremonesi et al. 2010).

    Ratings are centred on the user's mean, the item's mean or the baseline `mean + b_u + b_i`, and pairs without a
    rating have the deviation 0, so the matrix stays sparse. Implicit pairs are not centred. `factor_UD` holds `U S`
    and `factor_ID` holds `V`.
    """

    def __init__(self, *, embedding_dim: int = 20, centre: Centre = "baseline", seed: int = 0) -> None:
        super().__init__()
        check_positive(embedding_dim=embedding_dim)
        if centre not in get_args(Centre):
            raise ValueError(f"`centre` got {centre!r}: {nearest(str(centre), get_args(Centre))}")
        self.embedding_dim, self.centre, self.seed = embedding_dim, centre, seed

    def _fit(self, ratings: Ratings) -> dict[str, np.ndarray]:
        by_user = ratings.by_user
        smaller = min(by_user.shape)
        if self.embedding_dim >= smaller:
            raise ValueError(f"`embedding_dim` must be below the {smaller} users or items, got {self.embedding_dim}.")
        centre_U, centre_I = self._centre(ratings)
        row_N = np.repeat(np.arange(ratings.users), np.diff(by_user.indptr))
        deviation = like(by_user, by_user.data - centre_U[row_N] - centre_I[by_user.indices])
        left_UD, value_D, right_DI = svds(
            deviation, self.embedding_dim, v0=np.random.default_rng(self.seed).normal(size=smaller)
        )
        factors = {"factor_UD": left_UD[:, ::-1] * value_D[::-1], "factor_ID": right_DI[::-1].T.copy()}
        return factors | {"centre_U": centre_U, "centre_I": centre_I}

    def _centre(self, ratings: Ratings) -> tuple[np.ndarray, np.ndarray]:
        zero_U, zero_I, mean = np.zeros(ratings.users), np.zeros(ratings.items), float(self.learned["mean"])
        if ratings.implicit:
            return zero_U, zero_I
        if self.centre == "user":
            return np.where(self.learned["count_U"] > 0, self.learned["mean_U"], mean), zero_I
        if self.centre == "item":
            return zero_U, np.where(self.learned["count_I"] > 0, self.learned["mean_I"], mean)
        bias_U, bias_I = fit_biases(ratings)
        return mean + bias_U, bias_I

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """`U S` and `V`, and the centres."""
        return with_terms(super().vectors(), self.learned["centre_U"], self.learned["centre_I"])

    def _score(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        centre_B = self.learned["centre_U"][user_B] + self.learned["centre_I"][item_B]
        return centre_B + super()._score(user_B, item_B)

    def _score_items(self, user_U: np.ndarray) -> np.ndarray:
        centre_UI = self.learned["centre_U"][user_U, None] + self.learned["centre_I"]
        return centre_UI + super()._score_items(user_U)
