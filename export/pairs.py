"""Scores of pairs of a user and an item that both had training rows, inside a graph, for every classical model.

A place is a row of the graph's tables, whose first row stands for a user or an item without training rows and holds
zeros. Users come as (B,), or as (1,) where all pairs are one user's.

Letters: B pairs, D dimension of vectors, P places; of neighbourhoods, as in `recsys.classical.knn`, X the compared
side, Y the other one, L those who rated y, K neighbours.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import spox.opset.ai.onnx.v20 as op
from scipy.sparse import csr_array
from spox import Var

from export.builder import GraphBuilder
from export.sparse import Entries, Rows
from export.vocabularies import elements
from recsys.classical.base import Classical, blocks
from recsys.classical.ease import EASE
from recsys.classical.knn import KNN

LARGEST = 10_000  # whose similarities to each other are held in a graph, 4 bytes each


@dataclass(frozen=True, kw_only=True)
class Places:
    """The positions in a model of the users and of the items that stand at the places 1, 2, ..., int64."""

    model: Classical
    user: np.ndarray
    item: np.ndarray

    @cached_property
    def similarities(self) -> np.ndarray:
        """A neighbourhood model's similarities of all X to each other by place, those above 0 alone, float32 (P, P)."""
        model = self.model
        assert isinstance(model, KNN)
        x_P = _of_x(model, self)
        if len(x_P) > LARGEST:
            raise ValueError(
                f"a graph holds the similarities of up to {LARGEST:,} {model.side}s to each other, got {len(x_P):,}; "
                "give model.table=100 to keep those of the most similar alone, or leave the bundle out by export=false."
            )
        similarity_PP = np.zeros((len(x_P) + 1,) * 2, dtype="float32")
        for block in blocks(len(x_P), model.size):
            similarity_BX = np.maximum(model.similarity_rows(x_P[block])[:, x_P], 0.0)
            similarity_PP[1:][block, 1:] = in_float32(similarity_BX)
        return similarity_PP


def pair_scores(graph: GraphBuilder, model: Classical, places: Places, user: Var, item_B: Var) -> Var:
    """Scores, float64 (B,), before they are held inside a scale. Raises ValueError where a model has no graph."""
    vectors = model.vectors()
    if vectors is not None:
        return _products(graph, vectors, places, user, item_B)
    if isinstance(model, EASE):
        return _linear(graph, model, places, user, item_B)
    if isinstance(model, KNN):
        x, y = (user, item_B) if model.side == "user" else (item_B, user)
        of = _overlap if model.learned["implicit"] else _average
        return of(graph, model, places, x, y)
    raise ValueError(
        f"{type(model).__name__} has no graph: give it `vectors`, or leave the bundle out by export=false."
    )


def cells(model: Classical) -> int:
    """How many numbers the score of one pair is made of, at most."""
    if (vectors := model.vectors()) is not None:
        return vectors[0].shape[1]
    if isinstance(model, KNN) and not model.learned["implicit"]:
        return int(np.diff(model.unpacked("said").indptr).max())
    return model.learned["neighbour_XK"].shape[1] if isinstance(model, KNN) else int(model.learned["count_U"].max())


def behind_nothing(table: np.ndarray, position_P: np.ndarray) -> np.ndarray:
    """A table's rows by place."""
    return np.concatenate([np.zeros_like(table[:1]), table[position_P]])


def _products(
    graph: GraphBuilder, vectors: tuple[np.ndarray, np.ndarray], places: Places, user: Var, item_B: Var
) -> Var:
    user_PD, item_PD = (behind_nothing(v, p) for v, p in zip(vectors, (places.user, places.item), strict=True))
    user_BD = op.gather(graph.weight("model/users", user_PD.astype("float32")), user)
    item_BD = op.gather(graph.weight("model/items", item_PD.astype("float32")), item_B)
    sum_B = op.reduce_sum(op.mul(user_BD, item_BD), op.const([1]), keepdims=0)
    return op.cast(sum_B, to=np.float64)


def _linear(graph: GraphBuilder, model: EASE, places: Places, user: Var, item_B: Var) -> Var:
    """`sum w(j, item)` over the items j that the user met."""
    weight_PP = _square(model.learned["weight_II"].T, places.item)
    met = Rows(graph, "model/met", _by_place(model.met(), places.user, places.item))
    at_BL, there_BL = met.places(op.unsqueeze(user, op.const([1])))
    weight_BL = _cells(graph, weight_PP, op.unsqueeze(item_B, op.const([1])), met.columns(at_BL))
    return _sum(op.where(there_BL, weight_BL, op.const(np.float32(0))))


def _overlap(graph: GraphBuilder, model: KNN, places: Places, x: Var, y: Var) -> Var:
    """`sum sim(x, z)` over the neighbours z of x that met y."""
    neighbour_PK, similarity_PK = _neighbours(model, _of_x(model, places))
    said = Entries(graph, "model/said", _said(model, places))
    neighbour_BK = op.cast(op.gather(graph.weight("model/neighbours", neighbour_PK), x), to=np.int64)
    similarity_BK = op.gather(graph.weight("model/similarities", similarity_PK), x)
    _, there_BK = said.find(op.unsqueeze(y, op.const([1])), neighbour_BK)
    return _sum(op.where(there_BK, similarity_BK, op.const(np.float32(0))))


def _average(graph: GraphBuilder, model: KNN, places: Places, x: Var, y: Var) -> Var:
    """What the k most similar of those who rated y say of it, weighted by their similarities."""
    said = Rows(graph, "model/said", _said(model, places))
    y_B = op.add(y, op.mul(x, op.const(0)))  # else what is said of all items is laid out when a graph is opened
    at_BL, there_BL = said.places(op.unsqueeze(y_B, op.const([1])))
    similarity_BL = _similarities(graph, model, places, x, said.columns(at_BL))
    similarity_BL = op.where(there_BL, similarity_BL, op.const(np.float32(0)))
    count = op.min([op.const([model.k]), op.shape(similarity_BL, start=1)])
    similarity_BK, place_BK = op.top_k(similarity_BL, count)
    value_BL = op.expand(said.values(at_BL), op.shape(similarity_BL))
    value_BK = op.gather_elements(value_BL, place_BK, axis=1)
    weighted_B, weight_B = _sum(op.mul(similarity_BK, value_BK)), _sum(similarity_BK)
    speaking_BK = op.cast(op.greater(similarity_BK, op.const(np.float32(0))), to=np.int64)
    enough_B = op.greater_or_equal(op.reduce_sum(speaking_BK, op.const([1]), keepdims=0), op.const(model.min_k))
    return _estimate(graph, model, places, (x, y), op.div(weighted_B, weight_B), enough_B)


def _estimate(
    graph: GraphBuilder, model: KNN, places: Places, pair: tuple[Var, Var], average_B: Var, enough_B: Var
) -> Var:
    """The centre and what neighbours deviate from it, where there are enough of them."""
    x_P, y_P = _of_x(model, places), _of_y(model, places)

    def of(name: str, position_P: np.ndarray, place: Var) -> Var:
        table_P = behind_nothing(model.learned[name], position_P).astype("float32")
        return op.cast(elements(graph.weight(f"model/{name}", table_P), place), to=np.float64)

    centre_B = op.add(of("centre_X", x_P, pair[0]), of("centre_Y", y_P, pair[1]))
    alone_B = op.const(float(model.learned["mean"])) if model.deviations == "zero" else centre_B
    answer_B = op.add(centre_B, op.mul(of("spread_X", x_P, pair[0]), average_B))
    return op.where(enough_B, answer_B, alone_B)


def _similarities(graph: GraphBuilder, model: KNN, places: Places, x: Var, other_BL: Var) -> Var:
    """Similarities of x to others, float32 (B, L): positive ones alone."""
    x_B1 = op.unsqueeze(x, op.const([1]))
    if model.table:
        neighbour_PK, similarity_PK = _neighbours(model, _of_x(model, places))
        row_N, column_N = np.nonzero(neighbour_PK)
        entries = (similarity_PK[row_N, column_N], (row_N, neighbour_PK[row_N, column_N]))
        table = csr_array(entries, shape=(len(neighbour_PK),) * 2)
        return Entries(graph, "model/similarities", table).values(x_B1, other_BL)
    return _cells(graph, places.similarities, x_B1, other_BL)


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


def _neighbours(model: KNN, x_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The table of neighbours by place: places, int32 (P, K), 0 where there are fewer, and similarities, float32."""
    neighbour_XK = model.learned["neighbour_XK"]
    place_XK = np.where(neighbour_XK >= 0, _place_of(x_P, model.size)[neighbour_XK], 0)
    return behind_nothing(place_XK, x_P).astype("int32"), behind_nothing(model.learned["similarity_XK"], x_P)


def _said(model: KNN, places: Places) -> csr_array:
    """What each x said of y, by place."""
    return _by_place(model.unpacked("said"), _of_y(model, places), _of_x(model, places))


def _by_place(table: csr_array, row_P: np.ndarray, column_P: np.ndarray) -> csr_array:
    """A table's rows and columns by place; the rows keep the order of their entries."""
    rows = table[row_P]
    columns = _place_of(column_P, table.shape[1])[rows.indices]
    shape = len(row_P) + 1, len(column_P) + 1
    return csr_array((rows.data, columns, np.concatenate([[0], rows.indptr])), shape=shape)


def _place_of(position_P: np.ndarray, size: int) -> np.ndarray:
    """The place of each position, 0 for those without one."""
    place = np.zeros(size, dtype="int64")
    place[position_P] = np.arange(1, len(position_P) + 1)
    return place


def _of_x(model: KNN, places: Places) -> np.ndarray:
    return places.user if model.side == "user" else places.item


def _of_y(model: KNN, places: Places) -> np.ndarray:
    return places.item if model.side == "user" else places.user


def _square(table: np.ndarray, position_P: np.ndarray) -> np.ndarray:
    """A square table by place on both sides, float32."""
    result_PP = np.zeros((len(position_P) + 1,) * 2, dtype="float32")
    result_PP[1:, 1:] = table[np.ix_(position_P, position_P)]
    return result_PP


def _cells(graph: GraphBuilder, table_PP: np.ndarray, row_B1: Var, column_BL: Var) -> Var:
    """Single cells of a square table, (B, L)."""
    flat = graph.weight("model/table", table_PP.ravel())
    return elements(flat, op.add(op.mul(row_B1, op.const(table_PP.shape[1])), column_BL))


def _sum(value_BN: Var) -> Var:
    """Sums of rows in double precision, float64 (B,)."""
    return op.reduce_sum(op.cast(value_BN, to=np.float64), op.const([1]), keepdims=0)
