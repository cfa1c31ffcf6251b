"""Scores of pairs of a user and an item that both had training rows, inside a graph, for every classical model.

Users and items come as places (see `export.places`), users as (B,), or as (1,) where all pairs are one user's.

Letters: B pairs, D dimension of vectors, P places; of neighbourhoods, as in `recsys.classical.knn`, X the compared
side, Y the other one, L those who rated y, K neighbours.
"""

import numpy as np
import spox.opset.ai.onnx.v20 as op
from spox import Var

from export.builder import GraphBuilder
from export.places import Neighbourhood, NoGraph, Places, behind_nothing, by_place, square_by_place
from export.sparse import Entries, Rows
from export.vocabularies import elements
from recsys.classical.base import Classical
from recsys.classical.ease import EASE
from recsys.classical.knn import KNN


def pair_scores(graph: GraphBuilder, places: Places, user: Var, item_B: Var) -> Var:
    """Scores, float64 (B,), before they are held inside a scale. Raises NoGraph where a model has none."""
    model = places.model
    vectors = model.vectors()
    if vectors is not None:
        return _products(graph, vectors, places, user, item_B)
    if isinstance(model, EASE):
        return _linear(graph, model, places, user, item_B)
    if isinstance(model, KNN):
        x, y = (user, item_B) if model.side == "user" else (item_B, user)
        return (_overlap if model.learned["implicit"] else _average)(graph, places.neighbourhood, x, y)
    raise NoGraph(f"{type(model).__name__} has no graph: give it `vectors`, or leave the bundle out by export=false.")


def cells(model: Classical) -> int:
    """How many numbers the score of one pair is made of, at most."""
    if (vectors := model.vectors()) is not None:
        return vectors[0].shape[1]
    if isinstance(model, KNN) and not model.learned["implicit"]:
        return int(np.diff(model.unpacked("said").indptr).max())
    return model.learned["neighbour_XK"].shape[1] if isinstance(model, KNN) else int(model.learned["count_U"].max())


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
    weight_PP = square_by_place(model.learned["weight_II"].T, places.item)
    met = Rows(graph, "model/met", by_place(model.met(), places.user, places.item))
    at_BL, there_BL = met.places(op.unsqueeze(user, op.const([1])))
    weight_BL = _cells(graph, weight_PP, op.unsqueeze(item_B, op.const([1])), met.columns(at_BL))
    return _sum(op.where(there_BL, weight_BL, op.const(np.float32(0))))


def _overlap(graph: GraphBuilder, near: Neighbourhood, x: Var, y: Var) -> Var:
    """`sum sim(x, z)` over the neighbours z of x that met y."""
    neighbour_PK, similarity_PK = near.neighbours
    said = Entries(graph, "model/said", near.said)
    neighbour_BK = op.cast(op.gather(graph.weight("model/neighbours", neighbour_PK), x), to=np.int64)
    similarity_BK = op.gather(graph.weight("model/similarities", similarity_PK), x)
    _, there_BK = said.find(op.unsqueeze(y, op.const([1])), neighbour_BK)
    return _sum(op.where(there_BK, similarity_BK, op.const(np.float32(0))))


def _average(graph: GraphBuilder, near: Neighbourhood, x: Var, y: Var) -> Var:
    """What the k most similar of those who rated y say of it, weighted by their similarities."""
    model, said = near.model, Rows(graph, "model/said", near.said)
    if model.side == "user":  # else what was said of all items is laid out when a retriever is opened
        y = op.add(y, op.mul(x, op.const(0)))
    at_BL, there_BL = said.places(op.unsqueeze(y, op.const([1])))
    similarity_BL = _similarities(graph, near, x, said.columns(at_BL))
    similarity_BL = op.where(there_BL, similarity_BL, op.const(np.float32(0)))
    count = op.min([op.const([model.k]), op.shape(similarity_BL, start=1)])
    similarity_BK, place_BK = op.top_k(similarity_BL, count)
    value_BL = op.expand(said.values(at_BL), op.shape(similarity_BL))
    value_BK = op.gather_elements(value_BL, place_BK, axis=1)
    weighted_B, weight_B = _sum(op.mul(similarity_BK, value_BK)), _sum(similarity_BK)
    speaking_BK = op.cast(op.greater(similarity_BK, op.const(np.float32(0))), to=np.int64)
    enough_B = op.greater_or_equal(op.reduce_sum(speaking_BK, op.const([1]), keepdims=0), op.const(model.min_k))
    return _estimate(graph, near, (x, y), op.div(weighted_B, weight_B), enough_B)


def _estimate(graph: GraphBuilder, near: Neighbourhood, pair: tuple[Var, Var], average_B: Var, enough_B: Var) -> Var:
    """The centre and what neighbours deviate from it, where there are enough of them."""
    (x, y), model = pair, near.model

    def of(name: str, position_P: np.ndarray, place: Var) -> Var:
        table_P = behind_nothing(model.learned[name], position_P).astype("float32")
        return op.cast(elements(graph.weight(f"model/{name}", table_P), place), to=np.float64)

    centre_B = op.add(of("centre_X", near.x_P, x), of("centre_Y", near.y_P, y))
    alone_B = op.const(float(model.learned["mean"])) if model.deviations == "zero" else centre_B
    answer_B = op.add(centre_B, op.mul(of("spread_X", near.x_P, x), average_B))
    return op.where(enough_B, answer_B, alone_B)


def _similarities(graph: GraphBuilder, near: Neighbourhood, x: Var, other_BL: Var) -> Var:
    """Similarities of x to others, float32 (B, L): positive ones alone."""
    x_B1 = op.unsqueeze(x, op.const([1]))
    if near.model.table:
        return Entries(graph, "model/similarities", near.kept_similarities).values(x_B1, other_BL)
    return _cells(graph, near.similarities, x_B1, other_BL)


def _cells(graph: GraphBuilder, table_PP: np.ndarray, row_B1: Var, column_BL: Var) -> Var:
    """Single cells of a square table, (B, L)."""
    flat = graph.weight("model/table", table_PP.ravel())
    return elements(flat, op.add(op.mul(row_B1, op.const(table_PP.shape[1])), column_BL))


def _sum(value_BN: Var) -> Var:
    """Sums of rows in double precision, float64 (B,)."""
    return op.reduce_sum(op.cast(value_BN, to=np.float64), op.const([1]), keepdims=0)
