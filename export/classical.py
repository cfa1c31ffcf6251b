"""A classical model as the graphs that every bundle holds: raw keys of users and items in, scores out.

Users without training rows have no place in the graphs: they are answered as a key that was never seen. All items are
there, for they may be recommended.
"""

import logging
from dataclasses import dataclass

import numpy as np
import onnx
import spox.opset.ai.onnx.v20 as op
from spox import Var

from export.builder import GraphBuilder
from export.catalogue import UNKNOWN, Catalogue, raw_keys
from export.graph import best, best_unseen
from export.pairs import cells, pair_scores
from export.places import Places, behind_nothing
from export.vocabularies import elements, look_up
from recsys.classical.fitted import Fitted
from recsys.classical.popularity import Popularity
from recsys.data.events import Events

log = logging.getLogger(__name__)
LARGEST = 2**26  # numbers that a retrieval may be made of, about 20 bytes each


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """The keys of the users and items that a graph knows, and where these stand in a classical model."""

    users: np.ndarray
    catalogue: Catalogue
    places: Places

    @staticmethod
    def build(fitted: Fitted, events: Events, catalogue: Catalogue) -> "Shop":
        """From the cleaned tables that the model was fitted to."""
        warm_U = np.flatnonzero(fitted.model.learned["count_U"])
        return Shop(
            users=raw_keys(events.users[fitted.schema.user])[warm_U],
            catalogue=catalogue,
            places=Places(model=fitted.model, user=warm_U, item=np.arange(len(catalogue.keys))),
        )


@dataclass(frozen=True, slots=True)
class ClassicalGraph:
    """A graph in the making: a fitted model's scores of users and items by place."""

    fitted: Fitted
    shop: Shop
    graph: GraphBuilder

    def user(self, rows: str | int) -> Var:
        """The places of the users whose keys come in, 0 for those without training rows."""
        keys = self.graph.input(self.fitted.schema.user, self.shop.users.dtype.type, (rows,))
        return look_up(keys, self.shop.users, first=1, unseen=UNKNOWN, missing=UNKNOWN)

    def item(self, name: str, rows: str) -> Var:
        """The places of the items whose keys come in as `name`, 0 for those of no known item."""
        keys = self.graph.input(name, self.shop.catalogue.keys.dtype.type, (rows,))
        return op.max([self.shop.catalogue.places(keys), op.const(UNKNOWN)])

    def scores(self, user: Var, item_B: Var) -> tuple[Var, Var]:
        """What the model ranks items by, and the scores to show, float32 (B,) each."""
        warm_B = pair_scores(self.graph, self.shop.places, user, item_B)
        score_B = self._with_prior(warm_B, user, item_B)
        model = self.fitted.model
        if isinstance(model, Popularity):  # it ranks by how many met an item, whatever they said of it
            share_P = behind_nothing(model.learned["count_I"] / max(1, model.users), self.shop.places.item)
            rank_B = elements(self.graph.weight("model/share", share_P), item_B)
        else:
            rank_B = score_B
        return op.cast(rank_B, to=np.float32), self._to_score(score_B)

    def _with_prior(self, warm_B: Var, user: Var, item_B: Var) -> Var:
        """The scores of pairs that both had training rows, and the model's prior for the others."""
        model, places = self.fitted.model, self.shop.places
        warm_I = model.learned["count_I"][places.item] > 0
        nobody, nothing = np.full(len(places.item), -1), np.full(len(places.user), -1)
        neither = model.prior(np.array([-1]), np.array([-1]))
        of_item_P = np.concatenate([neither, model.prior(nobody, np.where(warm_I, places.item, -1))])
        of_user_P = np.concatenate([neither, model.prior(places.user, nothing)])
        weight = self.graph.weight
        of_item_B = elements(weight("model/prior_of_items", of_item_P), item_B)
        of_user_B = elements(weight("model/prior_of_users", of_user_P), user)
        cold_P = np.concatenate([[True], ~warm_I])
        warm_B = op.where(elements(weight("model/cold_items", cold_P), item_B), of_user_B, warm_B)
        return op.where(op.equal(user, op.const(UNKNOWN)), of_item_B, warm_B)

    def _to_score(self, score_B: Var) -> Var:
        """As `Classical.score` and `Fitted.to_score`."""
        low, high = map(float, self.fitted.model.learned["scale"])
        if low > -np.inf or high < np.inf:
            score_B = op.min([op.max([score_B, op.const(low)]), op.const(high)])
        if not self.fitted.probable:
            return op.cast(score_B, to=np.float32)
        logit_B = op.add(op.mul(score_B, op.const(self.fitted.slope)), op.const(self.fitted.intercept))
        return op.sigmoid(op.cast(logit_B, to=np.float32))


def classical_graphs(fitted: Fitted, events: Events, catalogue: Catalogue) -> dict[str, onnx.ModelProto]:
    """The row, the request and the retrieval form, with inputs and outputs as in `export.graph`.

    There is no retrieval form where the scores of all items would take too much memory at once.
    """
    shop = Shop.build(fitted, events, catalogue)
    forms = {"recommender": _recommender, "ranker": _ranker, "retriever": _retriever}
    if len(catalogue.keys) * cells(fitted.model) > LARGEST:
        log.info("no retriever: the scores of all %d items take too much memory at once", len(catalogue.keys))
        forms.pop("retriever")
    return {name: form(ClassicalGraph(fitted, shop, GraphBuilder())) for name, form in forms.items()}


def _recommender(made: ClassicalGraph) -> onnx.ModelProto:
    _, score_B = made.scores(made.user("batch"), made.item(made.fitted.schema.item, "batch"))
    return made.graph.build({"score": score_B})


def _ranker(made: ClassicalGraph) -> onnx.ModelProto:
    rank_N, score_N = made.scores(made.user(1), made.item("candidates", "candidates"))
    return made.graph.build({"score": score_N, "top": best(made.graph, rank_N)})


def _retriever(made: ClassicalGraph) -> onnx.ModelProto:
    item_I = op.const(np.arange(1, len(made.shop.catalogue.keys) + 1))
    rank_I, score_I = made.scores(made.user(1), item_I)
    top_items, _, top_place = best_unseen(made.graph, made.shop.catalogue, rank_I)
    return made.graph.build({"top_items": top_items, "top_scores": op.gather(score_I, op.sub(top_place, op.const(1)))})
