"""A model's recommendations for a few test users, to be judged by eye. `I`: items, `Q`: queries, `P`: picked items."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recsys.data.batches import EXCLUDED, Candidates
from recsys.data.split import TEST, TRAIN
from recsys.data.store import Store
from recsys.models.base import Recommender

USERS, ITEMS, CHUNK = 5, 10, 8192


def recommendations(model: Recommender, store: Store) -> list[dict[str, Any]]:
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


def _best(model: Recommender, candidates: Candidates, query: int, titles: pa.Array) -> list[dict[str, Any]]:
    """The unseen items with the highest logits; of equal ones the first in the catalogue."""
    logit_I, label_I = _score(model, candidates, query)
    order_I = logit_I.argsort(descending=True, stable=True)
    best_P = order_I[label_I[order_I] != EXCLUDED][:ITEMS]
    title_P = titles.take(pa.array(best_P.numpy())).to_pylist()
    score_P, liked_P = model.to_score(logit_I[best_P]).tolist(), (label_I[best_P] == 1).tolist()
    rows = zip(title_P, score_P, liked_P, strict=True)
    return [{"title": title, "score": score, "liked": liked} for title, score, liked in rows]


def _score(model: Recommender, candidates: Candidates, query: int) -> tuple[Tensor, Tensor]:
    """The logits and labels of all candidates of a query, (I,), on the CPU."""
    start, items = query * candidates.width, candidates.width
    logits, labels = [], []
    with torch.inference_mode():
        for first in range(0, items, CHUNK):
            batch = candidates[np.arange(start + first, start + min(items, first + CHUNK))]
            logits.append(model(batch.to(model.device)).float().cpu())
            labels.append(batch.label_B)
    return torch.cat(logits), torch.cat(labels)
