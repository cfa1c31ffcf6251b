"""Sums without rounding, so that a mean and a deviation do not depend on how the rows were cut into pieces."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np

_BLOCK = 2**16  # values whose sum is taken at a time: they stay in the processor's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Count, sum and sum of squares of float64 values, exact: `+` gives the same in whatever order.

    >>> halves = Moments.of(np.array([0.1, 1e30])) + Moments.of(np.array([-1e30]))
    >>> halves == Moments.of(np.array([1e30, -1e30, 0.1])), float(halves.total)
    (True, 0.1)
    """

    count: int
    total: Fraction
    squares: Fraction

    @classmethod
    def of(cls, values: np.ndarray, weight: np.ndarray | None = None) -> Self:
        """Of finite values below 1e150, each counted `weight` times (int64)."""
        total = squares = Fraction(0)
        for start in range(0, len(values), _BLOCK):
            block = values[start : start + _BLOCK]
            times = None if weight is None else weight[start : start + _BLOCK]
            total += exact_sum(block, times)
            squares += sum((exact_sum(part, times) for part in _squares(block)), Fraction(0))
        return cls(count=len(values) if weight is None else int(weight.sum()), total=total, squares=squares)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            count=self.count + other.count, total=self.total + other.total, squares=self.squares + other.squares
        )

    @property
    def mean(self) -> float:
        """The mean, 0 without values."""
        return float(self.total / self.count) if self.count else 0.0

    @property
    def square(self) -> float:
        """The sum of squared differences from the mean."""
        return float(self.squares - self.total**2 / self.count) if self.count else 0.0


def exact_sum(values: np.ndarray, weight: np.ndarray | None) -> Fraction:
    """The sum of at most 65,536 weighted float64 values.

    The values are cut into a whole multiple of a power of two and a rest until nothing is left; whole numbers add up
    exactly in int64.
    """
    heaviest = 1 if weight is None else max(1, int(weight.max(initial=1)))
    bits = 62 - 16 - heaviest.bit_length()
    if bits < 1:
        return _split_weights(values, weight)
    total, rest = Fraction(0), values
    while largest := float(np.abs(rest).max(initial=0.0)):
        unit = 2.0 ** max(np.frexp(largest)[1] - bits, -1074)
        whole = np.rint(rest / unit)
        counted = whole.astype("int64") if weight is None else whole.astype("int64") * weight
        total += int(counted.sum()) * Fraction(unit)
        rest = rest - whole * unit
    return total


def _split_weights(values: np.ndarray, weight: np.ndarray | None) -> Fraction:
    """For weights beyond 2^40: their upper and lower halves apart."""
    assert weight is not None, "only weights leave no bits"
    upper, lower = np.divmod(weight, 2**32)
    return exact_sum(values, upper) * 2**32 + exact_sum(values, lower)


def _squares(values: np.ndarray) -> Iterator[np.ndarray]:
    """Arrays whose sum is the exact square of each value: the rounded square and what rounding lost (Dekker 1971)."""
    square = values * values
    yield square
    if (values.astype("float32") == values).all():
        return  # 24 bits squared fit into 53
    high = values * 134217729.0
    high = high - (high - values)
    low = values - high
    yield ((high * high - square) + 2.0 * high * low) + low * low
