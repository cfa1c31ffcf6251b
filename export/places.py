"""Where users and items stand in the tables of a graph, and a classical model's tables in that order.

A place is a row of the graph's tables, whose first row, place 0, stands for a user or an item without training rows and
holds zeros.

Letters: P places; of neighbourhoods, as in `recsys.classical.knn`, X the compared side, Y the other one.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from recsys.classical.base import Classical, blocks
from recsys.classical.knn import KNN

LARGEST = 10_000  # whose similarities to each other are held in a graph, 4 bytes each


class NoGraph(ValueError):
    """A model that no graph can hold, with a way out."""


@dataclass(frozen=True)
class Neighbourhood:
    """The tables of a neighbourhood `model` by place, of X and Y at the positions `x_P` and `y_P`."""

    model: KNN
    x_P: np.ndarray
    y_P: np.ndarray

    @property
    def said(self) -> csr_array:
        """What each X said of each Y, (Y, X)."""
        return by_place(self.model.unpacked("said"), self.y_P, self.x_P)

    @property
    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """The table of neighbours: places, int32 (P, K), 0 where there are fewer, and similarities, float32 (P, K)."""
        neighbour_XK = self.model.learned["neighbour_XK"]
        place_XK = np.where(neighbour_XK >= 0, _place_of(self.x_P, self.model.size)[neighbour_XK], 0)
        similarity_PK = behind_nothing(self.model.learned["similarity_XK"], self.x_P)
        return behind_nothing(place_XK, self.x_P).astype("int32"), similarity_PK

    @property
    def kept_similarities(self) -> csr_array:
        """The table of neighbours as a sparse matrix, (X, X)."""
        neighbour_PK, similarity_PK = self.neighbours
        row_N, column_N = np.nonzero(neighbour_PK)
        entries = (similarity_PK[row_N, column_N], (row_N, neighbour_PK[row_N, column_N]))
        return csr_array(entries, shape=(len(neighbour_PK),) * 2)

    @cached_property
    def similarities(self) -> np.ndarray:
        """The similarities of all X to each other, those above 0 alone, float32 (P, P). Raises NoGraph for many."""
        model, x_P = self.model, self.x_P
        if len(x_P) > LARGEST:
            raise NoGraph(
                f"a graph holds the similarities of up to {LARGEST:,} {model.side}s to each other, got {len(x_P):,}; "
                "give model.table=100 to keep those of the most similar alone, or leave the bundle out by export=false."
            )
        similarity_PP = np.zeros((len(x_P) + 1,) * 2, dtype="float32")
        for block in blocks(len(x_P), model.size):
            similarity_BX = np.maximum(model.similarity_rows(x_P[block])[:, x_P], 0.0)
            similarity_PP[1:][block, 1:] = in_float32(similarity_BX)
        return similarity_PP


@dataclass(frozen=True, kw_only=True)
class Places:
    """A model, and the positions in it of the users and of the items that stand at the places 1, 2, ..., int64."""

    model: Classical
    user: np.ndarray
    item: np.ndarray

    @cached_property
    def neighbourhood(self) -> Neighbourhood:
        """Of a neighbourhood model; made once, for its similarities take long."""
        assert isinstance(self.model, KNN)
        x_P, y_P = (self.user, self.item) if self.model.side == "user" else (self.item, self.user)
        return Neighbourhood(self.model, x_P, y_P)


def behind_nothing(table: np.ndarray, position_P: np.ndarray) -> np.ndarray:
    """A table's rows by place."""
    return np.concatenate([np.zeros_like(table[:1]), table[position_P]])


def by_place(table: csr_array, row_P: np.ndarray, column_P: np.ndarray) -> csr_array:
    """A sparse table's rows and columns by place; the rows keep the order of their entries."""
    rows = table[row_P]
    columns = _place_of(column_P, table.shape[1])[rows.indices]
    shape = len(row_P) + 1, len(column_P) + 1
    return csr_array((rows.data, columns, np.concatenate([[0], rows.indptr])), shape=shape)


def square_by_place(table: np.ndarray, position_P: np.ndarray) -> np.ndarray:
    """A square table by place on both sides, float32."""
    result_PP = np.zeros((len(position_P) + 1,) * 2, dtype="float32")
    result_PP[1:, 1:] = table[np.ix_(position_P, position_P)]
    return result_PP


def _place_of(position_P: np.ndarray, size: int) -> np.ndarray:
    """The place of each position, 0 for those without one."""
    place = np.zeros(size, dtype="int64")
    place[position_P] = np.arange(1, len(position_P) + 1)
    return place


def in_float32(value_BN: np.ndarray) -> np.ndarray:
    """Values of at least 0 rounded to float32, but for those that would equal a lesser one of their row.

    Nearest neighbours are told apart by differences that rounding would lose; such values become the next greater.
    """
    order_BN = np.argsort(value_BN, axis=1, kind="stable")
    sorted_BN = np.take_along_axis(value_BN, order_BN, axis=1)
    rank_BN = np.zeros(value_BN.shape, dtype="int32")
    rank_BN[:, 1:] = np.cumsum(np.diff(sorted_BN, axis=1) > 0, axis=1)
    step_BN = sorted_BN.astype("float32").view("int32") - rank_BN  # as integers, floats of one sign are in order too
    step_BN = np.maximum.accumulate(step_BN, axis=1) + rank_BN
    result_BN = np.empty(value_BN.shape, dtype="float32")
    np.put_along_axis(result_BN, order_BN, step_BN.view("float32"), axis=1)
    return result_BN
