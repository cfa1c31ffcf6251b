"""A classical model fitted to a dataset's store: scores by position, as probabilities or ratings, and its state.

`B`: rows, `Q`: queries, `I`: candidates of a query.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from recsys.classical.base import Classical
from recsys.classical.ratings import Ratings
from recsys.data.batches import Rows
from recsys.data.candidates import Candidates
from recsys.data.split import TRAIN, VALID
from recsys.data.store import Store
from recsys.schema import FeatureSchema, Label


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A classical `model` of the users and items of one store, by their positions in it.

    Labels of 0 and 1 have probabilities: the logistic function of `slope * score + intercept`, two numbers learned
    from the validation rows (Platt 1999). A score of ratings is a rating; one of implicit feedback is no probability
    and stays as it is. `threshold` is where scores (before `to_score`) turn into a predicted 1, `saw_valid` whether the
    model learned the validation rows too.
    """

    model: Classical
    schema: FeatureSchema
    slope: float = 1.0
    intercept: float = 0.0
    threshold: float = 0.0
    saw_valid: bool = False

    @staticmethod
    def fit(model: Classical, store: Store) -> "Fitted":
        """Fit `model` on the training part of a store. Raises ValueError where it does not fit such labels."""
        implicit = learns_from_likes(model, store.schema.label)
        return Fitted(model=model.fit(Ratings.from_store(store, implicit=implicit)), schema=store.schema)

    def refitted(self, store: Store) -> "Fitted":
        """A model of the same settings, probabilities and threshold, fitted on the training and validation parts."""
        implicit = learns_from_likes(self.model, self.schema.label)
        model = type(self.model)(**self.model.settings)
        model.fit(Ratings.from_store(store, implicit=implicit, parts=(TRAIN, VALID)))
        return replace(self, model=model, saw_valid=True)

    def calibrated(self, store: Store) -> "Fitted":
        """The same model with the probabilities that fit the labels of the validation rows, in the order of scores."""
        if not self.probable:
            return self
        rows = Rows(store, VALID)
        score_B, label_B = self.score_rows(rows).numpy(), store.label_E[rows.rows]
        spread = float(score_B.std()) or 1.0
        line = LogisticRegression(C=1e6).fit((score_B[:, None] - score_B.mean()) / spread, label_B)
        slope = max(float(line.coef_[0, 0]), 0.0) / spread
        base = np.log(label_B.mean() / (1 - label_B.mean()))
        intercept = float(line.intercept_[0]) - slope * float(score_B.mean()) if slope else float(base)
        return replace(self, slope=slope, intercept=intercept)

    def to_score(self, score_B: Tensor) -> Tensor:
        """Probabilities; ratings and implicit scores as they are."""
        if not self.probable:
            return score_B
        return (self.slope * score_B + self.intercept).sigmoid()

    def score_rows(self, rows: Rows) -> Tensor:
        """Scores of labelled events before `to_score`, float32 (B,)."""
        store, row_B = rows.store, rows.rows
        return torch.from_numpy(self.model.score(store.user_E[row_B], store.item_E[row_B])).float()

    def rank_queries(self, queries: Candidates, query_Q: np.ndarray) -> tuple[Tensor, Tensor]:
        """What the candidates of some queries are ranked by, and their labels, float32 (Q, I) each."""
        place_I = np.arange(queries.width)
        item_QI = np.broadcast_to(queries.items(query_Q[:, None], place_I[None]), (len(query_Q), queries.width))
        user_Q = queries.store.user_E[queries.rows_Q[query_Q]]
        label_QI = queries.labels(user_Q[:, None], item_QI, place_I[None])
        score_QI = np.take_along_axis(self.model.score_items(user_Q), np.maximum(item_QI, 0).astype("int64"), axis=1)
        return torch.from_numpy(score_QI).float(), torch.from_numpy(label_QI).float()

    def score_query(self, queries: Candidates, query: int) -> tuple[Tensor, Tensor]:
        """What the candidates of a query are ranked by, and their scores to show, float32 (I,) each."""
        rank_I = self.rank_queries(queries, np.array([query]))[0][0]
        user = queries.store.user_E[queries.rows_Q[query]]
        item_I = queries.items(np.full(queries.width, query), np.arange(queries.width))
        score_I = torch.from_numpy(self.model.score(np.full(queries.width, user), item_I)).float()
        return rank_I, self.to_score(score_I)

    @property
    def name(self) -> str:
        """What the model is called."""
        return type(self.model).__name__

    @property
    def probable(self) -> bool:
        """Whether scores are probabilities."""
        return self.schema.label.kind not in ("rating", "implicit")

    @property
    def numbers(self) -> int:
        """How many numbers the model learned."""
        return sum(array.size for array in self.model.learned.values())

    def state(self) -> dict[str, Any]:
        """Settings, schema and learned arrays, as Lightning's checkpoints name them; plain values and tensors."""
        arrays = {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in self.model.learned.items()}
        use = {name: getattr(self, name) for name in ("slope", "intercept", "threshold", "saw_valid")}
        hyper_parameters = {**self.model.settings, "schema": self.schema.to_dict()}
        return {"hyper_parameters": hyper_parameters, "state_dict": arrays, "use": use}

    @staticmethod
    def restore(model_class: type[Classical], content: Mapping[str, Any]) -> "Fitted":
        """The fitted model of this class that has this state."""
        settings = dict(content["hyper_parameters"])
        schema = FeatureSchema.parse(settings.pop("schema"))
        learned = {name: tensor.numpy() for name, tensor in content["state_dict"].items()}
        return Fitted(model=model_class.restore(settings, learned), schema=schema, **content["use"])


def learns_from_likes(model: Classical, label: Label) -> bool:
    """Whether a model learns from what was liked alone, rather than from the value of every label.

    It does for implicit labels, and for labels of 0 and 1 where it cannot take values. Raises ValueError where it can
    learn from neither.
    """
    implicit = label.kind == "implicit" or (label.kind != "rating" and "ratings" not in model.feedback)
    model.check_feedback(implicit=implicit)
    return implicit
