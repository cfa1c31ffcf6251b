import numpy as np
import pytest
from scipy.optimize import nnls
from scipy.sparse import csr_array

from recsys.classical import least_squares
from recsys.classical.biases import fit_biases
from recsys.classical.least_squares import solve_rows


def problem():
    """Sparse targets (a row of them empty), factors and regularisation."""
    rng = np.random.default_rng(0)
    target = rng.normal(size=(9, 7)) * (rng.random((9, 7)) < 0.6)
    target[4] = 0
    return csr_array(target), rng.normal(size=(7, 3)), rng.uniform(0.1, 2, size=(9, 3))


@pytest.mark.parametrize("chunk", [1, 40, 2**17])
@pytest.mark.parametrize("shared", [False, True])
def test_each_row_is_a_ridge_regression_on_its_own_entries(chunk, shared, monkeypatch):
    monkeypatch.setattr(least_squares, "CHUNK", chunk)
    target, feature, reg = problem()
    gram = 0.3 * feature.T @ feature if shared else None
    solved = solve_rows(target, feature, reg, gram_JJ=gram)
    for row in range(9):
        here = target.indices[target.indptr[row] : target.indptr[row + 1]]
        left = feature[here].T @ feature[here] + np.diag(reg[row]) + (0 if gram is None else gram)
        expected = np.linalg.solve(left, feature[here].T @ target.toarray()[row, here])
        np.testing.assert_allclose(solved[row], expected, atol=1e-10)


def test_the_descent_ends_in_the_best_factors_that_are_not_negative(monkeypatch):
    monkeypatch.setattr(least_squares, "SWEEPS", 500)
    target, feature, reg = problem()
    solved = solve_rows(target, feature, reg, nonnegative_from_RJ=np.ones((9, 3)))
    for row in set(range(9)) - {4}:
        here = target.indices[target.indptr[row] : target.indptr[row + 1]]
        stacked = np.vstack([feature[here], np.diag(np.sqrt(reg[row]))])
        expected, _ = nnls(stacked, np.concatenate([target.toarray()[row, here], np.zeros(3)]))
        np.testing.assert_allclose(solved[row], expected, atol=1e-8)
    assert (solved == 0).any()


def test_biases_alternate_between_items_and_users(seven):
    value, mean = seven.by_user.toarray(), seven.value_N.mean()
    rated = value > 0
    bias_U, bias_I = np.zeros(8), np.zeros(6)
    for _ in range(2):  # few, for more would hide that one is missing
        for i in range(6):
            bias_I[i] = sum(value[u, i] - mean - bias_U[u] for u in range(8) if rated[u, i]) / (3 + rated[:, i].sum())
        for u in range(8):
            bias_U[u] = sum(value[u, i] - mean - bias_I[i] for i in range(6) if rated[u, i]) / (1 + rated[u].sum())
    found_U, found_I = fit_biases(seven, epochs=2, reg_user=1.0, reg_item=3.0)
    np.testing.assert_allclose(found_U, bias_U, atol=1e-12)
    np.testing.assert_allclose(found_I, bias_I, atol=1e-12)
    assert found_U[7] == found_I[5] == 0
