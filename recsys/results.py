"""What a part's scores amount to: metrics, 95% intervals, and hot, warm and cold users and items apart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from recsys.data.candidates import EXCLUDED, Candidates
from recsys.data.split import TRAIN
from recsys.data.store import Store
from recsys.metrics import (
    GROUPS,
    activity_groups,
    auc,
    calibration_error,
    diversity,
    gauc,
    item_coverage,
    labelled_intervals,
    logloss,
    mae,
    mean_intervals,
    novelty,
    popularity_lift,
    precision_recall_f1,
    ranked_hits,
    ranking_metrics,
    rating_intervals,
    rmse,
)

K = 10  # the cut-off of everything that is not asked for at several
Groups = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Metrics of one part by name; `intervals`, `users` and `items` (by group) when details were asked for."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    users: Groups = field(default_factory=dict)
    items: Groups = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A block of queries once all their items are scored: metrics per query, the first places and which are liked."""

    values: dict[str, Tensor]
    place_QK: Tensor
    hit_QK: Tensor

    @staticmethod
    def of(score_QI: Tensor, label_QI: Tensor, ks: Sequence[int]) -> "Ranked":
        """Rank queries by the scores and the labels (1, 0, `EXCLUDED`) of all their candidates."""
        hit_QI, place_QI = ranked_hits(score_QI, label_QI == 1, label_QI == EXCLUDED)
        return Ranked(ranking_metrics(hit_QI, ks), place_QI[:, :K].clone(), hit_QI[:, :K].clone())

    @staticmethod
    def joined(blocks: Sequence["Ranked"]) -> "Ranked":
        """All queries of some blocks in order; there is at least one block."""
        values = {name: torch.cat([block.values[name] for block in blocks]) for name in blocks[0].values}
        place_QK, hit_QK = (torch.cat([getattr(block, name) for block in blocks]) for name in ("place_QK", "hit_QK"))
        return Ranked(values, place_QK, hit_QK)


def merge_results(found: Sequence[Results]) -> Results:
    """The results of a part's labelled rows and of its rankings as one."""
    merged = Results(metrics={})
    for results in found:
        merged.metrics.update(results.metrics)
        merged.intervals.update(results.intervals)
        for mine, theirs in ((merged.users, results.users), (merged.items, results.items)):
            for group, values in theirs.items():
                mine.setdefault(group, {}).update(values)
    return merged


def labelled_results(
    store: Store,
    row_B: np.ndarray,
    logit_B: Tensor,
    score_B: Tensor,
    label_B: Tensor,
    threshold: float,
    *,
    details: bool,
) -> Results:
    """Judge labelled events; `row_B` says which of the store's events the scores belong to."""
    user_B, item_B = (torch.from_numpy(a[row_B].astype("int64")) for a in (store.user_E, store.item_E))
    rating = store.schema.label.kind == "rating"
    if rating:
        metrics = {"rmse": rmse(score_B, label_B), "mae": mae(score_B, label_B)}
    else:
        metrics = {
            "auc": auc(logit_B, label_B),
            "gauc": gauc(logit_B, label_B, user_B),
            "logloss": logloss(score_B, label_B),
            "calibration_error": calibration_error(score_B, label_B),
            **precision_recall_f1(logit_B, label_B, threshold),
        }
    if not details:
        return Results(metrics=metrics)

    def judged(chosen_B: Tensor) -> dict[str, float]:
        score, label = score_B[chosen_B], label_B[chosen_B]
        if rating:
            return {"rows": len(label), "rmse": rmse(score, label)}
        both = 0 < float(label.sum()) < len(label)
        ranked = auc(logit_B[chosen_B], label) if both else float("nan")
        return {"rows": len(label), "auc": ranked, "logloss": logloss(score, label)}

    activity = {"users": (store.user_E, store.users, user_B), "items": (store.item_E, store.items, item_B)}
    groups = {
        side: _by_group(side, _counts(store, of_E, size), of_B, judged) for side, (of_E, size, of_B) in activity.items()
    }
    intervals = (
        rating_intervals(score_B, label_B, user_B)
        if rating
        else labelled_intervals(logit_B, score_B, label_B, user_B, threshold)
    )
    return Results(metrics=metrics, intervals=intervals, **groups)


def ranking_results(
    queries: Candidates, values: Mapping[str, Tensor], place_QK: Tensor, hit_QK: Tensor, *, details: bool
) -> Results:
    """Judge rankings, a query each.

    `values` holds every metric per query, `place_QK` which of a query's candidates stand in the first 10 places (-1:
    none) and `hit_QK` which of them are liked. Rankings of the whole catalogue are also judged beyond accuracy, by
    coverage, novelty, diversity and popularity lift.
    """
    store, note = queries.store, queries.note
    top_QK = torch.from_numpy(queries.top_items(place_QK.numpy()))
    values = {f"{name}{note}": value for name, value in values.items()}
    user_Q = torch.from_numpy(store.user_E[queries.rows_Q].astype("int64"))
    metrics = {}
    if not note:
        count_I = _counts(store, store.item_E, store.items, liked=True)
        values, metrics = values | _per_list(store, top_QK, count_I), _over_lists(store, top_QK, user_Q, count_I)
    metrics = {name: float(value.nanmean()) for name, value in values.items()} | metrics
    if not details:
        return Results(metrics=metrics)
    shown = [f"{name}@{K}{note}" for name in ("recall", "ndcg")]

    def judged(chosen_Q: Tensor) -> dict[str, float]:
        return {name: float(values[name][chosen_Q].mean()) for name in shown}

    liked = torch.from_numpy(queries.liked_items().astype("int64"))
    times_I = torch.bincount(top_QK[hit_QK], minlength=store.items)
    wanted_I = torch.bincount(liked, minlength=store.items)

    def recalled(chosen: Tensor) -> dict[str, float]:
        of = liked[chosen].unique()
        return {f"recall@{K}{note}": float(times_I[of].sum() / wanted_I[of].sum())}

    return Results(
        metrics=metrics,
        intervals=mean_intervals(values, user_Q),
        users=_by_group("users", _counts(store, store.user_E, store.users), user_Q, judged),
        items=_by_group("items", _counts(store, store.item_E, store.items), liked, recalled),
    )


def _counts(store: Store, of_E: np.ndarray, size: int, *, liked: bool = False) -> Tensor:
    """Training events (`liked`: positive ones) of each user or item."""
    chosen = store.part_E == TRAIN
    return torch.from_numpy(np.bincount(of_E[chosen & store.liked_E if liked else chosen], minlength=size))


def _by_group(side: str, count_N: Tensor, of_B: Tensor, judge: Callable[[Tensor], dict[str, float]]) -> Groups:
    """`judge` of the rows whose user (or item, by `side`) is cold, warm or hot, with the number of these."""
    group_B = activity_groups(count_N)[of_B]
    chosen = {name: group_B == number for number, name in enumerate(GROUPS)}
    return {name: {side: len(of_B[c].unique()), **judge(c)} for name, c in chosen.items() if c.any()}


def _per_list(store: Store, top_QK: Tensor, count_I: Tensor) -> dict[str, Tensor]:
    """Novelty and diversity of each list; `count_I` holds the liked training events of each item."""
    lists = {f"novelty@{K}": novelty(top_QK, count_I)}
    if attributes := _attributes(store):
        lists[f"diversity@{K}"] = diversity(top_QK, attributes)
    return lists


def _attributes(store: Store) -> Sequence[Tensor]:
    """The item columns but the key, each as (I, T) ids."""
    side, schema = store.sides["item"], store.schema
    fields = [c.name for c in schema.fields if c.role == "item"]
    columns = [side.ids[:, [n]] for n, name in enumerate(fields) if name != schema.item]
    return [torch.from_numpy(a.astype("int64")) for a in (*columns, *side.tags.values())]


def _over_lists(store: Store, top_QK: Tensor, user_Q: Tensor, count_I: Tensor) -> dict[str, float]:
    """Coverage and popularity lift of all lists together; `count_I` as for `_per_list`."""
    liked = (store.part_E == TRAIN) & store.liked_E
    user, item = store.user_E[liked], store.item_E[liked]
    events_U = np.bincount(user, minlength=store.users)
    popularity_U = np.bincount(user, count_I.numpy()[item], minlength=store.users)
    profile_U = np.divide(popularity_U, events_U, out=np.full(store.users, np.nan), where=events_U > 0)
    return {
        f"coverage@{K}": item_coverage(top_QK, store.items),
        f"popularity_lift@{K}": popularity_lift(top_QK, count_I, torch.from_numpy(profile_U)[user_Q]),
    }
