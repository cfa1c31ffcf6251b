"""The nearest neighbours: of every X among all X, and of a pair (x, y) among the X that rated y.

`P`: pairs, `L`: those who rated y, padded to one width, `K`: neighbours.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import csr_array

from recsys.classical.base import blocks

CHUNK = 2**18  # similarities gathered at once


def neighbour_table(
    rows: Callable[[np.ndarray], np.ndarray], order_X: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar of each X with a positive similarity, most similar first.

    `rows(x_B)` gives similarities (B, X). Equal ones are taken in order of position. Only one block of rows is held at
    a time, in the order `order_X`, which should bring X with like numbers of neighbours together. Returns positions,
    int32 (X, K), and similarities, float32 (X, K), with -1 and 0 where there are fewer. Time grows with X^2.
    """
    size = len(order_X)
    k = min(k, size)
    neighbour_XK = np.full((size, k), -1, dtype="int32")
    similarity_XK = np.zeros((size, k), dtype="float32")
    for block in blocks(size, size):
        x_B = order_X[block]
        row_N, place_N, column_N, value_N = _best(rows(x_B), k)
        neighbour_XK[x_B[row_N], place_N] = column_N
        similarity_XK[x_B[row_N], place_N] = value_N
    return neighbour_XK, similarity_XK


def _best(similarity_BX: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The k largest positive entries of each row: row, place, column and value of each, (N,)."""
    size = similarity_BX.shape[1]
    at_N = np.flatnonzero(similarity_BX > 0)
    row_N, place_N = _places(at_N // size, len(similarity_BX))
    packed_BL = np.zeros((len(similarity_BX), 1 + place_N.max(initial=0)))  # most are 0 where there are many X
    packed_BL[row_N, place_N] = similarity_BX.ravel()[at_N]
    keep_largest(packed_BL, k)
    kept_N = packed_BL[row_N, place_N] > 0
    at_N, row_N, value_N = at_N[kept_N], row_N[kept_N], packed_BL[row_N[kept_N], place_N[kept_N]]
    order_N = np.lexsort((-value_N, row_N))
    return *_places(row_N, len(similarity_BX)), (at_N % size)[order_N], value_N[order_N]


def _places(row_N: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Ascending rows, and which entry of its row each is."""
    count_B = np.bincount(row_N, minlength=rows)
    return row_N, np.arange(len(row_N)) - np.repeat(np.cumsum(count_B) - count_B, count_B)


def table_rows(neighbour_BK: np.ndarray, similarity_BK: np.ndarray, size: int) -> np.ndarray:
    """The rows of a neighbour table as similarities to all X, 0 to those who are no neighbours, float64 (B, X)."""
    similarity_BX = np.zeros((len(neighbour_BK), size))
    row_N, place_N = np.nonzero(neighbour_BK >= 0)
    similarity_BX[row_N, neighbour_BK[row_N, place_N]] = similarity_BK[row_N, place_N]
    return similarity_BX


def keep_largest(value_PL: np.ndarray, k: int) -> None:
    """Set all but the k largest values of each row to 0, in place; among equal ones the first stay."""
    width = value_PL.shape[1]
    if width <= k:
        return
    least_P = np.partition(value_PL, width - k, axis=1)[:, width - k, None]
    value_PL[value_PL < least_P] = 0.0
    tied = np.flatnonzero((np.count_nonzero(value_PL, axis=1) > k) & (least_P[:, 0] > 0))
    if len(tied):
        value, least = value_PL[tied], least_P[tied]
        room = k - np.count_nonzero(value > least, axis=1)
        last = value == least
        value[last & (np.cumsum(last, axis=1) > room[:, None])] = 0.0
        value_PL[tied] = value


def weigh_raters(
    similarity_BX: np.ndarray, row_P: np.ndarray, y_P: np.ndarray, deviation_YX: csr_array, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pair, over the k most similar X among those who rated y: what they weigh and say.

    Args:
        similarity_BX: similarities, not negative; those of 0 do not count.
        row_P: the row of `similarity_BX` that is x.
        y_P: the other side of the pair.
        deviation_YX: what each X says of y; a row's order settles ties between equal similarities.
        k: neighbours at most.

    Returns:
        `sum s d`, `sum s` and the number of neighbours, (P,) each.
    """
    said_P, weight_P = np.zeros(len(row_P)), np.zeros(len(row_P))
    count_P = np.zeros(len(row_P), dtype="int64")
    start_Y, length_P = deviation_YX.indptr, np.diff(deviation_YX.indptr)[y_P]
    flat, width = similarity_BX.ravel(), similarity_BX.shape[1]
    for chunk in _chunks(np.lexsort((y_P, length_P)), length_P):
        place_L = np.arange(length_P[chunk[-1]])
        beyond_PL = place_L >= length_P[chunk, None]
        at_PL = np.minimum(start_Y[y_P[chunk], None] + place_L, deviation_YX.nnz - 1)
        similarity_PL = flat.take(row_P[chunk, None] * width + deviation_YX.indices.take(at_PL))
        similarity_PL[beyond_PL] = 0.0
        keep_largest(similarity_PL, k)
        said_P[chunk] = np.einsum("pl,pl->p", similarity_PL, deviation_YX.data.take(at_PL))
        weight_P[chunk] = similarity_PL.sum(axis=1)
        count_P[chunk] = np.count_nonzero(similarity_PL, axis=1)
    return said_P, weight_P, count_P


def _chunks(order_P: np.ndarray, length_P: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs in order of their length, in chunks of about `CHUNK` elements when padded to the longest one's."""
    start = int(np.searchsorted(length_P[order_P], 1))
    while start < len(order_P):
        rough = order_P[start : start + CHUNK // max(1, length_P[order_P[start]])]
        fitting = np.arange(1, len(rough) + 1) * length_P[rough] <= CHUNK
        size = max(1, int(fitting.sum()))
        yield order_P[start : start + size]
        start += size
