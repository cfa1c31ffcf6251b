"""Neighbourhood models: users by similar users, items by similar items. `X`: the compared side, `Y`: the other one."""

from functools import cached_property
from typing import ClassVar, Literal, TypeVar, get_args

import numpy as np
from scipy.sparse import csr_array

from recsys.classical.base import Classical, blocks, by_block
from recsys.classical.biases import fit_biases
from recsys.classical.neighbours import neighbour_table, table_rows, weigh_raters
from recsys.classical.ratings import Ratings
from recsys.classical.similarity import Kind, Measure, Over, Similarities
from recsys.declare import nearest

Deviations = Literal["zero", "mean", "baseline", "zscore"]
T = TypeVar("T")


class KNN(Classical):
    """Neighbourhood model (Herlocker et al. 1999; Sarwar et al. 2001; Koren 2010, section 2.2).

    Ratings: `r_xy = c_xy + s_x * sum sim(x, z) d_zy / sum sim(x, z)` over the `k` most similar z among those that
    rated y (or that y rated), with `d_zy = (r_zy - c_zy) / s_z`. `deviations` chooses the centre c: zero, the mean of
    x, the baseline `mean + b_x + b_y`, or the mean again with s the standard deviation. Only positive similarities
    count; with fewer than `min_k` of them the centre answers (with `zero` the mean of all ratings). A pair's own
    training rating is never its own neighbour.

    Implicit: `sum sim(x, z)` over those of the `k` most similar z of x that met y (Deshpande and Karypis 2004).

    Surprise's kNN models are those with `over=common` (and `shrinkage=100` for pearson_baseline, its usual value).

    `table` keeps the similarities of each X to its `table` most similar ones and takes the others as 0, so that
    scoring needs no training values; without it, similarities are computed from them while scoring, in blocks.
    `similarity`, `over`, `shrinkage` and `min_support` are those of `Measure`; without `similarity`, ratings are
    compared by `usual` and implicit pairs by `cosine`.
    """

    side: ClassVar[Literal["user", "item"]]
    usual: ClassVar[Kind]

    def __init__(
        self,
        *,
        k: int = 40,
        min_k: int = 1,
        similarity: Kind | None = None,
        over: Over = "all",
        shrinkage: float = 0.0,
        min_support: int = 1,
        deviations: Deviations = "baseline",
        table: int | None = None,
    ) -> None:
        super().__init__()
        for name, count in (("k", k), ("min_k", min_k), ("table", 1 if table is None else table)):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"`{name}` must be an integer of at least 1, got {count!r}.")
        if deviations not in get_args(Deviations):
            raise ValueError(f"`deviations` got {deviations!r}: {nearest(str(deviations), get_args(Deviations))}")
        self.k, self.min_k, self.table, self.deviations = k, min_k, table, deviations
        self.similarity, self.over, self.shrinkage, self.min_support = similarity, over, shrinkage, min_support
        self._measure(implicit=False)

    def _measure(self, *, implicit: bool) -> Measure:
        kind = self.similarity or ("cosine" if implicit else self.usual)
        if implicit and kind not in ("cosine", "jaccard"):
            raise ValueError(f"`similarity` of implicit feedback must be cosine or jaccard, got {kind!r}.")
        over: Over = "all" if implicit else self.over
        return Measure(kind=kind, over=over, shrinkage=self.shrinkage, min_support=self.min_support)

    def _turned(self, of_user: T, of_item: T) -> tuple[T, T]:
        """The same as (of X, of Y)."""
        return (of_user, of_item) if self.side == "user" else (of_item, of_user)

    def _fit(self, ratings: Ratings) -> dict[str, np.ndarray]:
        for derived in ("_similarities", "_neighbours_XX", "_ranking"):
            self.__dict__.pop(derived, None)
        measure = self._measure(implicit=ratings.implicit)
        value_XY, value_YX = self._turned(ratings.by_user, ratings.by_item)
        if ratings.implicit:
            similarities = Similarities(measure, value_XY)
            return _table(similarities, self.k) | _packed("said", value_YX)
        mean_X, mean_Y = self._turned(self.learned["mean_U"], self.learned["mean_I"])
        mean, biases = float(self.learned["mean"]), self._turned(*fit_biases(ratings))
        centred_XY = measure.centre(value_XY, mean_X, mean_Y, (mean, *biases))
        centre = _centre(self.deviations, value_XY, mean, mean_X, biases)
        said_YX = value_YX.copy()
        x_N, y_N = said_YX.indices, np.repeat(np.arange(said_YX.shape[0]), np.diff(said_YX.indptr))
        said_YX.data -= centre["centre_X"][x_N] + centre["centre_Y"][y_N]
        said_YX.data /= centre["spread_X"][x_N]
        kept = _table(Similarities(measure, centred_XY), self.table) if self.table else _packed("value", centred_XY)
        return centre | kept | _packed("said", said_YX)

    def prior(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        """As for every model; with `deviations=baseline` the known parts of the baseline."""
        if self.learned["implicit"] or self.deviations != "baseline":
            return super().prior(user_B, item_B)
        x_B, y_B = self._turned(user_B, item_B)
        of_x = np.where(x_B >= 0, self.learned["centre_X"][x_B], self.learned["mean"])
        return of_x + np.where(y_B >= 0, self.learned["centre_Y"][y_B], 0.0)

    def _score(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        x_B, y_B = self._turned(user_B, item_B)
        said_YX = self.unpacked("said")
        if self.learned["implicit"]:
            return _overlap(self._neighbours_XX, said_YX, x_B, y_B)
        weighted_B, weight_B, count_B = np.zeros(len(x_B)), np.zeros(len(x_B)), np.zeros(len(x_B), dtype="int64")
        rows_X, row_B = self._needed(x_B)
        for block, pairs in by_block(row_B, len(rows_X), self.size):
            similarity_BX = np.maximum(self.similarity_rows(rows_X[block]), 0.0)
            found = weigh_raters(similarity_BX, row_B[pairs] - block.start, y_B[pairs], said_YX, self.k)
            weighted_B[pairs], weight_B[pairs], count_B[pairs] = found
        return self._estimate(x_B, y_B, weighted_B, weight_B, count_B >= self.min_k)

    def _needed(self, x_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The X to compare and which of them each pair has; all X where most occur, for the whole is quicker made."""
        rows_X, row_B = np.unique(x_B, return_inverse=True)
        return (np.arange(self.size), x_B) if 2 * len(rows_X) > self.size else (rows_X, row_B)

    def _estimate(
        self, x_B: np.ndarray, y_B: np.ndarray, weighted_B: np.ndarray, weight_B: np.ndarray, enough_B: np.ndarray
    ) -> np.ndarray:
        centre_B = self.learned["centre_X"][x_B] + self.learned["centre_Y"][y_B]
        average_B = np.divide(weighted_B, weight_B, out=np.zeros(len(x_B)), where=enough_B)
        alone_B = np.full(len(x_B), self.learned["mean"]) if self.deviations == "zero" else centre_B
        return np.where(enough_B, centre_B + self.learned["spread_X"][x_B] * average_B, alone_B)

    def _score_items(self, user_U: np.ndarray) -> np.ndarray:
        if not self.learned["implicit"]:
            return super()._score_items(user_U)
        of_users, of_items = self._ranking
        return (of_users[user_U] @ of_items).toarray()

    def similarity_rows(self, x_B: np.ndarray) -> np.ndarray:
        """Similarities of some X to all, float64 (B, X), kept or computed."""
        if self.table:
            return table_rows(self.learned["neighbour_XK"][x_B], self.learned["similarity_XK"][x_B], self.size)
        return self._similarities.rows(x_B)

    @property
    def size(self) -> int:
        """Number of X."""
        return self._turned(self.users, self.items)[0]

    @cached_property
    def _similarities(self) -> Similarities:
        """What compares the training values while scoring."""
        return Similarities(self._measure(implicit=False), self.unpacked("value"))

    @cached_property
    def _neighbours_XX(self) -> csr_array:
        """The table of neighbours as a sparse matrix."""
        neighbour_XK, similarity_XK = self.learned["neighbour_XK"], self.learned["similarity_XK"]
        there_XK = neighbour_XK >= 0
        start_X = np.concatenate([[0], np.cumsum(there_XK.sum(axis=1))])
        entries = (similarity_XK[there_XK].astype("float64"), neighbour_XK[there_XK], start_X)
        return csr_array(entries, shape=(self.size, self.size))

    @cached_property
    def _ranking(self) -> tuple[csr_array, csr_array]:
        """The two matrices whose product ranks items by implicit scores, of users and of items."""
        near_XX, met_YX = self._neighbours_XX, self.unpacked("said")
        return (near_XX, met_YX.T.tocsr()) if self.side == "user" else (met_YX, near_XX.T.tocsr())

    def unpacked(self, name: str) -> csr_array:
        """What each X said of each Y (`said`, (Y, X)), or the values that are compared (`value`, (X, Y))."""
        start, index, data = (self.learned[f"{name}_{part}"] for part in ("start", "index", "data"))
        x, y = self._turned(self.users, self.items)
        return csr_array((data, index, start), shape=(y, x) if name == "said" else (x, y))


class UserKNN(KNN):
    """Users by similar users; ratings are compared by Pearson's correlation unless `similarity` says otherwise."""

    side = "user"
    usual = "pearson"


class ItemKNN(KNN):
    """Items by similar items; ratings are compared by adjusted cosine unless `similarity` says otherwise."""

    side = "item"
    usual = "adjusted_cosine"


def _centre(
    deviations: Deviations, value_XY: csr_array, mean: float, mean_X: np.ndarray, biases: tuple[np.ndarray, np.ndarray]
) -> dict[str, np.ndarray]:
    """What neighbours deviate from, `centre_X + centre_Y`, in units of `spread_X`."""
    size_X, size_Y = value_XY.shape
    centre_X, centre_Y, spread_X = np.zeros(size_X), np.zeros(size_Y), np.ones(size_X)
    if deviations == "baseline":
        centre_X, centre_Y = mean + biases[0], biases[1]
    elif deviations in ("mean", "zscore"):
        centre_X = mean_X
    if deviations == "zscore":
        x_N = np.repeat(np.arange(size_X), np.diff(value_XY.indptr))
        square_X = np.bincount(x_N, (value_XY.data - mean_X[x_N]) ** 2, minlength=size_X)
        deviation_X = np.sqrt(square_X / np.maximum(np.diff(value_XY.indptr), 1))
        spread_X = np.where(deviation_X > 0, deviation_X, value_XY.data.std() or 1.0)
    return {"centre_X": centre_X, "centre_Y": centre_Y, "spread_X": spread_X}


def _packed(name: str, matrix: csr_array) -> dict[str, np.ndarray]:
    return {f"{name}_start": matrix.indptr, f"{name}_index": matrix.indices, f"{name}_data": matrix.data}


def _table(similarities: Similarities, k: int) -> dict[str, np.ndarray]:
    order_X = np.argsort(np.diff(similarities.value_XY.indptr), kind="stable")
    neighbour_XK, similarity_XK = neighbour_table(similarities.rows, order_X, k)
    return {"neighbour_XK": neighbour_XK, "similarity_XK": similarity_XK}


def _overlap(similarity_XX: csr_array, said_YX: csr_array, x_B: np.ndarray, y_B: np.ndarray) -> np.ndarray:
    """`sum_z sim(x, z) * (z met y)`, float64 (B,)."""
    score_B = np.zeros(len(x_B))
    for block in blocks(len(x_B), 256):
        score_B[block] = similarity_XX[x_B[block]].multiply(said_YX[y_B[block]]).sum(axis=1)
    return score_B
