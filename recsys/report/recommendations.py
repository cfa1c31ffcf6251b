"""A model's recommendations for a few test users, to be judged by eye. `I`: items, `Q`: queries, `P`: picked items."""

from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recsys.data.candidates import EXCLUDED, Candidates
from recsys.data.split import TEST, TRAIN
from recsys.data.store import Store

USERS, ITEMS = 5, 10


class Ranks(Protocol):
    """What a model must do to be shown: rank the candidates of a query."""

    def score_query(self, candidates: Candidates, query: int) -> tuple[Tensor, Tensor]:
        """What the candidates are ranked by, and their scores, (I,) each, on the CPU."""


def recommendations(model: Ranks, store: Store) -> list[dict[str, Any]]:
    """What `model` recommends to a few test users, from the least active to the most active.

    Per user: `events`, its number of training events; `history`, the titles of what it liked before, the latest
    first; and `items`, the best unseen items with `title`, `score` and whether the user `liked` them in the test part.
    The queries are those of `Candidates`. Empty where the label does not say what a user likes.
    """
    if not store.schema.label.ranks:
        return []
    candidates, titles = Candidates(store, TEST), store.titles
    events_U = np.bincount(store.user_E[store.part_E == TRAIN], minlength=store.users)
    events_Q = events_U[store.user_E[candidates.rows_Q]]
    return [
        {
            "events": int(events_Q[query]),
            "history": titles.take(pa.array(_history(store, candidates.rows_Q[query]))).to_pylist(),
            "items": _best(model, candidates, query, titles),
        }
        for query in _spread(events_Q).tolist()
    ]


def _spread(events_Q: np.ndarray) -> np.ndarray:
    """Positions of `USERS` queries in ascending order of activity, of as many different activities as there are."""
    order = np.argsort(events_Q, kind="stable")
    _, first, count = np.unique(events_Q[order], return_index=True, return_counts=True)
    repeat_Q = np.arange(len(order)) - np.repeat(first, count)
    levels = order[np.argsort(repeat_Q, kind="stable")][: max(USERS, len(first))]
    picked = levels[np.linspace(0, len(levels) - 1, min(USERS, len(levels))).round().astype("int64")]
    return picked[np.argsort(events_Q[picked], kind="stable")]


def _history(store: Store, row: int) -> np.ndarray:
    """The items that the user of an event liked before it, the latest first; without a history, in training."""
    if store.schema.history is not None:
        return store.history_H[store.start_E[row] : store.stop_E[row]][::-1][:ITEMS]
    liked = np.flatnonzero((store.user_E == store.user_E[row]) & (store.part_E == TRAIN) & store.liked_E)
    return store.item_E[liked[np.argsort(store.order_E[liked], kind="stable")]][::-1][:ITEMS]


def _best(model: Ranks, candidates: Candidates, query: int, titles: pa.Array) -> list[dict[str, Any]]:
    """The unseen items that are ranked first; of equal ones the first in the catalogue."""
    place_I = np.arange(candidates.width)
    user = candidates.store.user_E[candidates.rows_Q[query]]
    label_I = torch.from_numpy(candidates.labels(user, place_I, place_I))
    rank_I, score_I = model.score_query(candidates, query)
    order_I = rank_I.argsort(descending=True, stable=True)
    best_P = order_I[label_I[order_I] != EXCLUDED][:ITEMS]
    title_P = titles.take(pa.array(best_P.numpy())).to_pylist()
    score_P, liked_P = score_I[best_P].tolist(), (label_I[best_P] == 1).tolist()
    rows = zip(title_P, score_P, liked_P, strict=True)
    return [{"title": title, "score": score, "liked": liked} for title, score, liked in rows]
