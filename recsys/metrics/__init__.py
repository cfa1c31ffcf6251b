"""Pure functions from scores and labels to numbers: ratings, clicks, ranked lists and how sure the numbers are."""

from recsys.metrics.beyond_accuracy import (
    GROUPS,
    activity_groups,
    diversity,
    item_coverage,
    novelty,
    popularity_lift,
)
from recsys.metrics.bootstrap import auc_loss, labelled_intervals, mean_intervals, rating_intervals, rmse_loss
from recsys.metrics.classification import (
    auc,
    best_threshold,
    calibration_error,
    gauc,
    logloss,
    precision_recall_f1,
)
from recsys.metrics.ranking import (
    average_precision_at_k,
    f1_at_k,
    hit_rate_at_k,
    mrr,
    ndcg_at_k,
    precision_at_k,
    ranked_hits,
    ranking_metrics,
    recall_at_k,
)
from recsys.metrics.rating import mae, rmse

LESS_IS_BETTER = ("rmse", "mae", "logloss", "calibration_error")

__all__ = [
    "GROUPS",
    "LESS_IS_BETTER",
    "activity_groups",
    "auc",
    "auc_loss",
    "average_precision_at_k",
    "best_threshold",
    "calibration_error",
    "diversity",
    "f1_at_k",
    "gauc",
    "hit_rate_at_k",
    "item_coverage",
    "labelled_intervals",
    "logloss",
    "mae",
    "mean_intervals",
    "mrr",
    "ndcg_at_k",
    "novelty",
    "popularity_lift",
    "precision_at_k",
    "precision_recall_f1",
    "ranked_hits",
    "ranking_metrics",
    "rating_intervals",
    "recall_at_k",
    "rmse",
    "rmse_loss",
]
