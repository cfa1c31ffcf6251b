"""Half a sweep of alternating least squares: every row's factors, given those of the columns.

`R`: rows, `C`: columns, `J`: unknowns of a row, `L`: a row's entries, padded to one width.
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_array

CHUNK = 2**17  # padded entries times unknowns held at once
SWEEPS = 2  # coordinate descent over the unknowns, where they must not be negative


def solve_rows(
    target_RC: csr_array,
    feature_CJ: np.ndarray,
    reg_RJ: np.ndarray,
    *,
    gram_JJ: np.ndarray | None = None,
    nonnegative_from_RJ: np.ndarray | None = None,
) -> np.ndarray:
    """The w of each row that minimises `sum_c (target_rc - w f_c)^2 + w G w' + sum_j reg_rj w_j^2` over its entries c.

    Args:
        target_RC: one row's targets; columns that are not there do not count, but by `gram_JJ`.
        feature_CJ: the columns' factors f.
        reg_RJ: regularisation of each unknown, positive.
        gram_JJ: the G that all rows share, or none.
        nonnegative_from_RJ: where a descent by coordinates starts that keeps w at 0 or more; without it w is exact.

    Returns:
        float64 (R, J); 0 for rows without entries.
    """
    result_RJ = np.zeros((target_RC.shape[0], feature_CJ.shape[1]))
    padded_CJ = np.vstack([feature_CJ, np.zeros(feature_CJ.shape[1])])  # the last row is the padding
    for row_R, at_RL, there_RL in _padded(target_RC.indptr, feature_CJ.shape[1]):
        feature_RLJ = torch.from_numpy(padded_CJ[np.where(there_RL, target_RC.indices[at_RL], len(feature_CJ))])
        left_RJJ = feature_RLJ.mT @ feature_RLJ
        if gram_JJ is not None:
            left_RJJ += torch.from_numpy(gram_JJ)
        left_RJJ.diagonal(dim1=1, dim2=2).add_(torch.from_numpy(reg_RJ[row_R]))
        right_RJ1 = feature_RLJ.mT @ torch.from_numpy(target_RC.data[at_RL])[:, :, None]
        if nonnegative_from_RJ is None:
            result_RJ[row_R] = torch.cholesky_solve(right_RJ1, torch.linalg.cholesky(left_RJJ))[:, :, 0].numpy()
        else:
            result_RJ[row_R] = _descend(left_RJJ.numpy(), right_RJ1[:, :, 0].numpy(), nonnegative_from_RJ[row_R])
    return result_RJ


def _descend(left_RJJ: np.ndarray, right_RJ: np.ndarray, start_RJ: np.ndarray) -> np.ndarray:
    """Coordinate descent on `w A w' - 2 b w'` with w kept at 0 or more (Cichocki and Phan 2009, HALS)."""
    result_RJ = start_RJ.copy()
    for _ in range(SWEEPS):
        for j in range(result_RJ.shape[1]):
            slope_R = right_RJ[:, j] - np.einsum("rj,rj->r", left_RJJ[:, j], result_RJ)
            result_RJ[:, j] = np.maximum(result_RJ[:, j] + slope_R / left_RJJ[:, j, j], 0.0)
    return result_RJ


def _padded(start_R: np.ndarray, unknowns: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of like length together: the rows, where their entries lie (R, L), and which of these are there."""
    length_R = np.diff(start_R)
    order_R = np.argsort(length_R, kind="stable")
    order_R = order_R[length_R[order_R] > 0]
    while len(order_R):
        width_R = length_R[order_R] * np.arange(1, len(order_R) + 1)
        size = max(1, int(np.searchsorted(width_R, CHUNK // unknowns)))
        row_R, order_R = order_R[:size], order_R[size:]
        place_L = np.arange(length_R[row_R[-1]])
        there_RL = place_L < length_R[row_R, None]
        yield row_R, np.where(there_RL, start_R[row_R, None] + place_L, 0), there_RL
