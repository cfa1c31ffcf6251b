"""Similarities between users, or between items, in blocks of rows. `X`: the side that is compared, `Y`: the other one.

With n the number of common Y, and sums over the common Y of values v (centred as the kind asks):

    cosine, pearson, adjusted_cosine, pearson_baseline      sum v_x v_z / (|v_x| |v_z|)
    msd                                                     1 / (1 + sum (v_x - v_z)^2 / n)
    jaccard                                                 n / (n_x + n_z - n)

The norms, and for pearson the means too, are taken over all Y of each X (`over="all"`) or over the common ones alone
(`over="common"`). Every similarity is shrunk by `(n - 1) / (n - 1 + shrinkage)` (Koren 2010, section 2.2) and 0 where
n is below `min_support`. An X without common Y, or with a zero norm, has the similarity 0; so has an X with itself.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from scipy.sparse import csr_array

from recsys.classical.products import dense_product
from recsys.declare import nearest

Kind = Literal["cosine", "pearson", "adjusted_cosine", "pearson_baseline", "msd", "jaccard"]
Over = Literal["all", "common"]
NOTHING = 1e-10  # a spread below this share of the sum of squares is rounding


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Which similarity. Raises ValueError naming the setting that is wrong."""

    kind: Kind
    over: Over = "all"
    shrinkage: float = 0.0
    min_support: int = 1

    def __post_init__(self) -> None:
        for name, value, choices in (("similarity", self.kind, get_args(Kind)), ("over", self.over, get_args(Over))):
            if value not in choices:
                raise ValueError(f"`{name}` got {value!r}: {nearest(str(value), choices)}")
        if self.shrinkage < 0:
            raise ValueError(f"`shrinkage` must not be negative, got {self.shrinkage}.")
        if self.min_support < 1:
            raise ValueError(f"`min_support` must be at least 1, got {self.min_support}.")

    @property
    def support(self) -> int:
        """The least n: 2 for pearson_baseline over common Y, for one common rating correlates with any other."""
        alone = self.kind == "pearson_baseline" and self.over == "common"
        return max(2, self.min_support) if alone else self.min_support

    def centre(
        self, value_XY: csr_array, mean_X: np.ndarray, mean_Y: np.ndarray, biases: tuple[float, np.ndarray, np.ndarray]
    ) -> csr_array:
        """The values less what the kind takes off: the X's mean, the Y's mean or the baseline `(mean, b_X, b_Y)`."""
        x_N, y_N = np.repeat(np.arange(value_XY.shape[0]), np.diff(value_XY.indptr)), value_XY.indices
        if self.kind == "pearson" and self.over == "all":
            return like(value_XY, value_XY.data - mean_X[x_N])
        if self.kind == "adjusted_cosine":
            return like(value_XY, value_XY.data - mean_Y[y_N])
        if self.kind == "pearson_baseline":
            mean, bias_X, bias_Y = biases
            return like(value_XY, value_XY.data - ((mean + bias_Y[y_N]) + bias_X[x_N]))
        return value_XY


class Similarities:
    """The similarity of every X to every X by blocks of rows, from values that `Measure.centre` has centred."""

    def __init__(self, measure: Measure, value_XY: csr_array) -> None:
        self.measure, self.value_XY = measure, value_XY
        self.one_XY = like(value_XY, np.ones(value_XY.nnz))
        self.value_YX = value_XY.T.tocsr()
        self.one_YX = like(self.value_YX, np.ones(value_XY.nnz))

    @property
    def size(self) -> int:
        """Number of X."""
        return self.value_XY.shape[0]

    @cached_property
    def _square_XY(self) -> csr_array:
        return like(self.value_XY, self.value_XY.data**2)

    @cached_property
    def _square_YX(self) -> csr_array:
        return like(self.value_YX, self.value_YX.data**2)

    @cached_property
    def _norm_X(self) -> np.ndarray:
        return np.sqrt(self._square_XY.sum(axis=1))

    def rows(self, x_B: np.ndarray) -> np.ndarray:
        """Similarities of each of `x_B` to all X, float64 (B, X)."""
        kind, over = self.measure.kind, self.measure.over
        if kind == "jaccard":
            similarity_BX = self._jaccard(x_B)
        elif kind == "msd":
            similarity_BX = self._msd(x_B)
        elif over == "all":
            similarity_BX = _divide(self._product(x_B), self._norm_X[x_B, None] * self._norm_X)
        elif kind == "pearson":
            similarity_BX = self._pearson(x_B)
        else:
            below_BX = np.multiply(*self._squares(x_B))
            similarity_BX = _divide(self._product(x_B), np.sqrt(below_BX, out=below_BX))
        self._temper(similarity_BX, x_B)
        similarity_BX[np.arange(len(x_B)), x_B] = 0.0
        return similarity_BX

    def _temper(self, similarity_BX: np.ndarray, x_B: np.ndarray) -> None:
        """Shrink in place, and drop what has too little support."""
        shrinkage, support = self.measure.shrinkage, self.measure.support
        if not shrinkage and support < 2:
            return
        count_BX = self._common(x_B)
        if shrinkage:
            count_BX -= 1
            similarity_BX *= count_BX
            count_BX += shrinkage
            _divide(similarity_BX, count_BX)
            count_BX += 1 - shrinkage
        if support > (2 if shrinkage else 1):  # shrinkage leaves nothing of a support of 1
            similarity_BX[count_BX < support] = 0.0

    def _jaccard(self, x_B: np.ndarray) -> np.ndarray:
        common_BX, count_X = self._common(x_B), np.diff(self.value_XY.indptr)
        return _divide(common_BX, count_X[x_B, None] + count_X - common_BX)

    def _msd(self, x_B: np.ndarray) -> np.ndarray:
        common_BX, difference_BX = self._common(x_B), np.add(*self._squares(x_B))
        difference_BX -= 2 * self._product(x_B)
        similarity_BX = 1 / (_divide(difference_BX, common_BX) + 1)
        similarity_BX[common_BX == 0] = 0.0
        return similarity_BX

    def _pearson(self, x_B: np.ndarray) -> np.ndarray:
        """With means over the common Y: `(n sum xz - sum x sum z) / sqrt((n sum x^2 - (sum x)^2) (the same of z))`."""
        common_BX, product_BX = self._common(x_B), self._product(x_B)
        (own_BX, other_BX), (sum_BX, sum_XB) = self._squares(x_B), self._pair(x_B, self.value_XY, self.value_YX)
        product_BX *= common_BX
        product_BX -= sum_BX * sum_XB
        below_BX = _spread(common_BX, own_BX, sum_BX) * _spread(common_BX, other_BX, sum_XB)
        return _divide(product_BX, np.sqrt(below_BX, out=below_BX))

    def _common(self, x_B: np.ndarray) -> np.ndarray:
        return dense_product(self.one_XY[x_B], self.one_YX)

    def _product(self, x_B: np.ndarray) -> np.ndarray:
        return dense_product(self.value_XY[x_B], self.value_YX)

    def _squares(self, x_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._pair(x_B, self._square_XY, self._square_YX)

    def _pair(self, x_B: np.ndarray, own_XY: csr_array, own_YX: csr_array) -> tuple[np.ndarray, np.ndarray]:
        """Sums over the common Y of the row's own entries, and of the column's own, (B, X) each."""
        row_BX = dense_product(own_XY[x_B], self.one_YX)
        if len(x_B) == self.size and (np.diff(x_B) == 1).all():
            return row_BX, row_BX.T
        return row_BX, dense_product(self.one_XY[x_B], own_YX)


def like(matrix: csr_array, data: np.ndarray) -> csr_array:
    """Other values at the same places."""
    return csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _spread(count: np.ndarray, squares: np.ndarray, total: np.ndarray) -> np.ndarray:
    """`n sum v^2 - (sum v)^2`, 0 where it is nothing but rounding."""
    raw = count * squares
    spread = raw - total**2
    raw *= NOTHING
    spread[spread <= raw] = 0.0
    return spread


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`above / below` in the place of `above`; 0 where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(above, below, out=above)
    above[~np.isfinite(above)] = 0.0
    return above
