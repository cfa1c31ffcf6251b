"""How well a row-form graph scores the raw events of a part, and what it loses against another one.

Letters: B rows, Q queries of a ranking, C candidates of a query.
"""

from collections.abc import Callable

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from export.rows import RawRows
from recsys.data.candidates import EXCLUDED, FewCandidates
from recsys.metrics import auc, auc_loss, logloss, mae, mean_intervals, ndcg_at_k, ranked_hits, rmse, rmse_loss

CANDIDATES = 99
BATCH = 1024


class Judge:
    """Judges scores of at most `rows` events of a part, drawn once by seed 0, by the metric that fits the label.

    `metric` is `auc` (with `logloss`), `rmse` (with `mae`) for ratings, or, for implicit data, `ndcg@10` of each liked
    item among 99 sampled ones, whose name says so.

    Raises ValueError when the events of a yes-or-no label all have the same, or no item is left to rank among.
    """

    def __init__(self, raw: RawRows, part: int, rows: int) -> None:
        self.raw, store, kind = raw, raw.store, raw.store.schema.label.kind
        rng = np.random.default_rng(0)

        def some(of: np.ndarray, most: int) -> np.ndarray:
            return np.sort(rng.choice(of, most, replace=False)) if len(of) > most else of

        if kind == "implicit":
            queries = FewCandidates(store, part, CANDIDATES, given=False)
            query_Q = some(np.arange(len(queries.rows_Q)), max(1, rows // queries.width))
            query_B = np.repeat(query_Q, queries.width)
            place_B = np.tile(np.arange(queries.width), len(query_Q))
            self.row_B, item_B = queries.rows_Q[query_B], queries.items(query_B, place_B)
            label_B = queries.labels(store.user_E[self.row_B], item_B, place_B)
            self.item_B, self.width = np.maximum(item_B, 0), queries.width
            self.user = torch.from_numpy(store.user_E[queries.rows_Q[query_Q]].astype("int64"))
            self.metric = f"ndcg@10{queries.note}"
        else:
            self.row_B = some(np.flatnonzero(store.part_E == part), rows)
            self.item_B, self.width = store.item_E[self.row_B], 0
            label_B = store.label_E[self.row_B]
            self.user = torch.from_numpy(store.user_E[self.row_B].astype("int64"))
            self.metric = "rmse" if kind == "rating" else "auc"
            if self.metric == "auc" and len(np.unique(label_B)) < 2:
                raise ValueError(
                    f"the {len(label_B)} rows to judge by hold one label only; judge more (`compress.rows`)."
                )
        self.label = torch.from_numpy(np.array(label_B, dtype="float32"))

    def scores(self, session: onnxruntime.InferenceSession) -> Tensor:
        """The graph's scores (B,) of the events."""
        blocks = [slice(start, start + BATCH) for start in range(0, len(self.row_B), BATCH)]
        feeds = (self.raw.feed(session, self.row_B[block], self.item_B[block]) for block in blocks)
        return torch.from_numpy(np.concatenate([session.run(["score"], feed)[0] for feed in feeds]))

    def metrics(self, score_B: Tensor) -> dict[str, float]:
        """The metric, and the one beside it."""
        if self.width:
            return {self.metric: float(self._ndcg(score_B).mean())}
        if self.metric == "rmse":
            return {"rmse": rmse(score_B, self.label), "mae": mae(score_B, self.label)}
        return {"auc": auc(score_B, self.label), "logloss": logloss(score_B, self.label)}

    def loss(self, score_B: Tensor, other_B: Tensor) -> tuple[float, float, float]:
        """How much worse the metric is by `other_B` than by `score_B`, and its 95% interval over users."""
        ours, theirs = (self.metrics(s)[self.metric] for s in (score_B, other_B))
        if self.width:
            loss_Q = self._ndcg(score_B) - self._ndcg(other_B)
            return ours - theirs, *mean_intervals({"loss": loss_Q}, self.user)["loss"]
        interval: Callable[..., tuple[float, float]] = rmse_loss if self.metric == "rmse" else auc_loss
        worse = theirs - ours if self.metric == "rmse" else ours - theirs
        return worse, *interval(score_B, other_B, self.label, self.user)

    def _ndcg(self, score_B: Tensor) -> Tensor:
        score_QC, label_QC = (x.view(-1, self.width) for x in (score_B, self.label))
        hit_QC, _ = ranked_hits(score_QC, label_QC == 1, label_QC == EXCLUDED)
        return ndcg_at_k(hit_QC, 10)
