"""Exact sums against Python's fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data import moments
from recsys.data.moments import Moments

value = st.one_of(st.floats(-1e38, 1e38), st.integers(-(2**24), 2**24).map(float), st.just(0.1))


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(value, st.integers(0, 2**45)), min_size=1, max_size=20), st.integers(0, 20))
def test_moments_are_the_sums_of_fractions_however_the_rows_are_cut(rows, cut):
    values, weight = np.array([v for v, _ in rows]), np.array([w for _, w in rows])
    values[np.abs(values) < 1e-100] = 0.0  # whose squares a float64 does not hold
    whole = Moments.of(values, weight)
    assert whole.count == sum(w for _, w in rows)
    assert whole.total == sum(Fraction(v) * w for v, w in zip(values.tolist(), weight.tolist(), strict=True))
    assert whole.squares == sum(Fraction(v) ** 2 * w for v, w in zip(values.tolist(), weight.tolist(), strict=True))
    assert Moments.of(values[:cut], weight[:cut]) + Moments.of(values[cut:], weight[cut:]) == whole


def test_blocks_add_up(monkeypatch):
    values = np.random.default_rng(0).standard_normal(1000)
    whole = Moments.of(values)
    monkeypatch.setattr(moments, "_BLOCK", 7)
    assert Moments.of(values) == whole
    assert (whole.mean, whole.square / 1000) == (pytest.approx(values.mean()), pytest.approx(values.var()))


def test_a_constant_has_no_deviation():
    constant = Moments.of(np.full(70_000, 1.7e9 + 0.1))
    assert (constant.mean, constant.square) == (1.7e9 + 0.1, 0.0)
    assert (Moments.of(np.empty(0)).mean, Moments.of(np.empty(0)).square) == (0.0, 0.0)
