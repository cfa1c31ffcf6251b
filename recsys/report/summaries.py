"""Summaries of labelled test rows, small whatever their number. `B`: rows, `K`: bins, `T`: distinct scores.

Every function takes finite scores and labels of shape (B,), B at least 1, and returns plain Python values. Equal
scores (or counts) always share a bin, so the order of the rows changes nothing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from recsys.metrics import auc, logloss, rmse

Metric = Callable[[np.ndarray, np.ndarray], float | None]


def summarise(
    score_B: np.ndarray, label_B: np.ndarray, user_events_B: np.ndarray, item_events_B: np.ndarray, *, rating: bool
) -> dict[str, Any]:
    """Everything that the page draws of labelled rows.

    Args:
        score_B: probabilities, or with `rating` predicted ratings.
        label_B: 0 or 1, or with `rating` true ratings.
        user_events_B: training events of the row's user.
        item_events_B: training events of the row's item.
    """
    score_B, label_B = score_B.astype("float64"), label_B.astype("float64")
    metrics: dict[str, Metric] = {"rmse": _rmse} if rating else {"auc": _auc, "logloss": _logloss}
    summary = {
        "calibration": calibration(score_B, label_B),
        "by_user_activity": by_count(score_B, label_B, user_events_B, metrics),
        "by_item_popularity": by_count(score_B, label_B, item_events_B, metrics),
    }
    if rating:
        return summary | {"by_true_rating": by_true_rating(score_B, label_B)}
    return summary | {"roc": roc(score_B, label_B), "histogram": histogram(score_B, label_B)}


def roc(score_B: np.ndarray, label_B: np.ndarray, points: int = 200) -> dict[str, list[float]]:
    """At most `points` points of the ROC curve from (0, 0) to (1, 1), evenly spread along it.

    Where one class is missing, its rate stays 0.
    """
    order = np.argsort(-score_B, kind="stable")
    last_T = np.flatnonzero(np.append(np.diff(score_B[order]) != 0, True))
    found_T = np.append(0, np.cumsum(label_B[order] > 0)[last_T])
    missed_T = np.append(0, last_T + 1) - found_T
    true_T, false_T = found_T / max(1, found_T[-1]), missed_T / max(1, missed_T[-1])
    kept = _spread(true_T + false_T, points)
    return {"false_positive_rate": false_T[kept].tolist(), "true_positive_rate": true_T[kept].tolist()}


def _spread(position_T: np.ndarray, points: int) -> np.ndarray:
    """Which of ascending positions to keep: the first, the last and those nearest to even steps between them."""
    if len(position_T) <= points:
        return np.arange(len(position_T))
    steps = np.linspace(position_T[0], position_T[-1], points)
    return np.unique(np.append(np.searchsorted(position_T, steps[:-1]), len(position_T) - 1))


def calibration(score_B: np.ndarray, label_B: np.ndarray, bins: int = 20) -> list[dict[str, float]]:
    """Mean score and mean label in at most `bins` bins of about equally many rows, the lowest scores first."""
    bin_B = np.searchsorted(_quantiles(score_B, bins), score_B)
    rows_K = np.bincount(bin_B)
    predicted_K, observed_K = (np.bincount(bin_B, weights=x_B) / rows_K for x_B in (score_B, label_B))
    return [
        {"predicted": predicted, "observed": observed, "rows": rows}
        for predicted, observed, rows in zip(predicted_K.tolist(), observed_K.tolist(), rows_K.tolist(), strict=True)
    ]


def _quantiles(value_B: np.ndarray, bins: int) -> np.ndarray:
    """The distinct upper ends, values themselves, of `bins` bins of about equally many values."""
    last = np.maximum(np.arange(1, bins + 1) * len(value_B) // bins - 1, 0)
    return np.unique(np.partition(value_B, last)[last])


def histogram(score_B: np.ndarray, label_B: np.ndarray, bins: int = 40) -> dict[str, list[float]]:
    """Rows of each label by probability, in `bins` bins of equal width between 0 and 1."""
    edges = np.linspace(0, 1, bins + 1)
    negative, positive = (np.histogram(score_B[(label_B > 0) == is_positive], edges)[0] for is_positive in (0, 1))
    return {"edges": edges.tolist(), "negative": negative.tolist(), "positive": positive.tolist()}


def by_true_rating(score_B: np.ndarray, label_B: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """The mean and the quartiles of the predicted ratings by true rating, in at most `bins` bins.

    Up to `bins` different true ratings have a bin each. `rating` is the mean true rating of the bin.
    """
    values = np.unique(label_B)
    bin_B = np.searchsorted(values if len(values) <= bins else _quantiles(label_B, bins), label_B)
    rows = []
    for number in np.unique(bin_B):
        here = bin_B == number
        low, middle, high = np.quantile(score_B[here], (0.25, 0.5, 0.75)).tolist()
        means = {"rating": float(label_B[here].mean()), "mean": float(score_B[here].mean())}
        rows.append({**means, "low": low, "median": middle, "high": high, "rows": int(here.sum())})
    return rows


def by_count(
    score_B: np.ndarray, label_B: np.ndarray, count_B: np.ndarray, metrics: dict[str, Metric], bins: int = 8
) -> list[dict[str, Any]]:
    """Metrics by a whole number such as the training events of the row's user.

    Rows with 0 have a bin of their own; the others share `bins` - 1 bins of about equally many rows. A metric is
    None where it is undefined.
    """
    counted_B = count_B[count_B > 0]
    upper_K = np.append(0, _quantiles(counted_B, bins - 1) if len(counted_B) else []).astype("int64")
    bin_B = np.searchsorted(upper_K, count_B)
    rows = []
    for number in np.unique(bin_B):
        here = bin_B == number
        values = {name: metric(score_B[here], label_B[here]) for name, metric in metrics.items()}
        rows.append({"events": _range(upper_K, number), "rows": int(here.sum()), **values})
    return rows


def _range(upper_K: np.ndarray, number: int) -> str:
    """The whole numbers of a bin in words: "0", "1-4"."""
    if number == 0:
        return "0"
    low, high = upper_K[number - 1] + 1, upper_K[number]
    return f"{low}" if low == high else f"{low}-{high}"


def _auc(score_B: np.ndarray, label_B: np.ndarray) -> float | None:
    if (label_B == label_B[0]).all():
        return None
    return auc(torch.from_numpy(score_B), torch.from_numpy(label_B))


def _logloss(score_B: np.ndarray, label_B: np.ndarray) -> float:
    return logloss(torch.from_numpy(score_B), torch.from_numpy(label_B))


def _rmse(score_B: np.ndarray, label_B: np.ndarray) -> float:
    return rmse(torch.from_numpy(score_B), torch.from_numpy(label_B))
