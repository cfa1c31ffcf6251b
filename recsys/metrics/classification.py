"""Quality of scores for yes-or-no labels.

`B`: rows, `T`: distinct scores in descending order, `G`: groups of rows (users), `R`: runs of equal scores within a
group, `M`: bins of probability. Counts are int64 or float64 here: torchmetrics counts in float32 and squashes scores
outside [0, 1], which makes ties.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, pad

from recsys.metrics.rating import paired_float64

BINS = 15


def auc(score_B: Tensor, label_B: Tensor) -> float:
    """Return the chance that a positive row scores above a negative one; a tie counts half.

    Args:
        score_B: any real scores; only their order matters.
        label_B: 0 or 1.

    Raises:
        ValueError: only one class is present, a label is not 0 or 1, the shapes differ or are not (B,),
            B is 0, or a value is NaN.

    >>> from torch import tensor
    >>> auc(tensor([9.0, 5.0, 5.0, -1.0]), tensor([1, 1, 0, 0])) == (1 + 1 + 1 / 2 + 1) / 4
    True
    """
    _, positive_T, predicted_T = _counts_above(score_B, label_B)
    negative_T = predicted_T - positive_T
    n_positive, n_negative = int(positive_T[-1]), int(negative_T[-1])
    if n_positive == 0 or n_negative == 0:
        raise ValueError(f"AUC needs both classes, got {n_positive} positive and {n_negative} negative rows.")
    return float(area_under_curve(positive_T, negative_T))


def gauc(score_B: Tensor, label_B: Tensor, group_B: Tensor) -> float:
    """Return the mean AUC of the groups that have both classes, weighted by their numbers of rows.

    Unlike `auc`, it compares rows of one group only, so a score that merely knows which users click often gains
    nothing. NaN where no group has both classes. Zhou et al. (2018), "Deep Interest Network for Click-Through Rate
    Prediction", where the weight is the user's number of impressions; first in Zhu et al. (2017), "Optimized Cost per
    Click in Taobao Display Advertising".

    Args:
        score_B: any real scores; only their order within a group matters, and a tie counts half.
        label_B: 0 or 1.
        group_B: int64, which group (user) the row belongs to; any numbers.

    Raises:
        ValueError: a label is not 0 or 1, the shapes differ or are not (B,), B is 0, or a value is NaN.

    >>> from torch import tensor
    >>> gauc(tensor([0.1, 0.2, 0.9, 0.8, 0.7]), tensor([0, 1, 1, 1, 0]), tensor([7, 7, 8, 8, 8]))
    1.0
    """
    auc_G, rows_G = group_aucs(score_B, label_B, group_B)
    mixed_G = ~auc_G.isnan()
    return float((auc_G * rows_G)[mixed_G].sum() / rows_G[mixed_G].sum())


def logloss(probability_B: Tensor, label_B: Tensor) -> float:
    """Return the mean negative log-likelihood, `-mean(y log p + (1 - y) log(1 - p))`, in nats.

    Probabilities are clipped to [eps, 1 - eps] with the eps of float64, as scikit-learn does for float64
    input, so a row costs 36.04 at most.

    Args:
        probability_B: chance of a positive, in [0, 1].
        label_B: 0 or 1.

    Raises:
        ValueError: a probability is outside [0, 1], a label is not 0 or 1, the shapes differ or are not (B,),
            B is 0, or a value is NaN.

    >>> from math import log
    >>> from torch import tensor
    >>> logloss(tensor([0.5, 0.5]), tensor([1, 0])) == log(2)
    True
    """
    return float(row_logloss(probability_B, label_B).mean())


def calibration_error(probability_B: Tensor, label_B: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error, `sum over bins of rows_m / rows |mean label_m - mean probability_m|`.

    The bins are equally wide; bin m holds the probabilities in ((m - 1) / bins, m / bins], the first also 0.
    Guo et al. (2017), "On Calibration of Modern Neural Networks", eq. 3, for the chance of a positive rather than of
    the top class; Naeini et al. (2015), "Obtaining Well Calibrated Probabilities Using Bayesian Binning".

    Args:
        probability_B: chance of a positive, in [0, 1].
        label_B: 0 or 1.
        bins: number of bins, at least 1.

    Raises:
        ValueError: `bins` is below 1, a probability is outside [0, 1], a label is not 0 or 1, the shapes differ or
            are not (B,), B is 0, or a value is NaN.

    >>> from torch import tensor
    >>> calibration_error(tensor([0.25, 0.25, 0.75]), tensor([0, 1, 1]), bins=2) == (2 * 1 / 4 + 1 * 1 / 4) / 3
    True
    """
    gap_B, bin_B = calibration_gaps(probability_B, label_B, bins)
    return float(torch.bincount(bin_B, weights=gap_B).abs().sum() / len(gap_B))


def best_threshold(score_B: Tensor, label_B: Tensor) -> float:
    """Return the score with the greatest F1 when rows with `score >= threshold` are predicted positive.

    Among thresholds of equal F1 the highest wins; without positive rows that is the greatest score.

    Args:
        score_B: any real scores.
        label_B: 0 or 1.

    Raises:
        ValueError: a label is not 0 or 1, the shapes differ or are not (B,), B is 0, or a value is NaN.

    >>> from torch import tensor
    >>> best_threshold(tensor([0.75, 0.5, 0.25]), tensor([1, 1, 0]))
    0.5
    """
    score_T, positive_T, predicted_T = _counts_above(score_B, label_B)
    f1_T = 2 * positive_T.double() / (predicted_T + positive_T[-1])
    return float(score_T[f1_T.argmax()])


def precision_recall_f1(score_B: Tensor, label_B: Tensor, threshold: float) -> dict[str, float]:
    """Return `precision`, `recall` and `f1` of predicting positive where `score >= threshold`.

    Each is 0 where it is undefined: precision without predicted, recall without actual positives, f1
    without either. Scores are compared in float64: the float32 nearest to 0.7 lies below a threshold of 0.7.

    Args:
        score_B: any real scores.
        label_B: 0 or 1.
        threshold: in the unit of the scores.

    Raises:
        ValueError: a label is not 0 or 1, the shapes differ or are not (B,), B is 0, or a value is NaN.

    >>> from torch import tensor
    >>> precision_recall_f1(tensor([0.75, 0.5, 0.25]), tensor([1, 0, 0]), 0.5)
    {'precision': 0.5, 'recall': 1.0, 'f1': 0.6666666666666666}
    """
    score_B, label_B = paired_binary(score_B, label_B)
    predicted_B, actual_B = score_B >= threshold, label_B.bool()
    ratios = hit_ratios(*(x_B.sum().double() for x_B in (predicted_B & actual_B, predicted_B, actual_B)))
    return {name: float(ratio) for name, ratio in ratios.items()}


def area_under_curve(positive_T: Tensor, negative_T: Tensor) -> Tensor:
    """Return the AUC of cumulative counts (..., T) of both classes; NaN where a class is absent."""
    positive_T, negative_T = pad(positive_T, (1, 0)), pad(negative_T, (1, 0))
    doubled = (negative_T.diff() * (positive_T[..., 1:] + positive_T[..., :-1])).sum(-1)
    return doubled.double() / (2 * positive_T[..., -1] * negative_T[..., -1])


def group_aucs(score_B: Tensor, label_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return AUC and number of rows of each group in ascending order, float64; the AUC is NaN without both classes.

    Raises:
        ValueError: as `gauc`.
    """
    score_B, label_B = paired_binary(score_B, label_B)
    group_B = group_numbers(group_B, len(score_B))
    order_B = score_B.argsort()
    order_B = order_B[group_B[order_B].argsort(stable=True)]
    score_B, label_B, group_B = score_B[order_B], label_B[order_B], group_B[order_B]
    new_B = (score_B[1:] != score_B[:-1]) | (group_B[1:] != group_B[:-1])
    starts_B = pad(new_B, (1, 0), value=True)
    run_B, group_R = starts_B.cumsum(0) - 1, group_B[starts_B]
    positive_R, negative_R = torch.bincount(run_B, label_B), torch.bincount(run_B, 1 - label_B)
    positive_G, negative_G = torch.bincount(group_R, positive_R), torch.bincount(group_R, negative_R)
    below_R = (negative_R.cumsum(0) - negative_R) - (negative_G.cumsum(0) - negative_G)[group_R]
    wins_G = torch.bincount(group_R, positive_R * (below_R + negative_R / 2))
    return wins_G / (positive_G * negative_G), positive_G + negative_G


def group_numbers(group_B: Tensor, rows: int) -> Tensor:
    """Return the groups numbered from 0 in ascending order, int64 (B,).

    Raises:
        ValueError: the shape is not (rows,).
    """
    if group_B.shape != (rows,):
        raise ValueError(f"groups (users) must have shape ({rows},) as the rows, got {tuple(group_B.shape)}.")
    return group_B.unique(return_inverse=True)[1]


def row_logloss(probability_B: Tensor, label_B: Tensor) -> Tensor:
    """Return the `logloss` of each row, float64 (B,); raises ValueError as `logloss`."""
    probability_B, label_B = _paired_probability(probability_B, label_B)
    eps = torch.finfo(torch.float64).eps
    return binary_cross_entropy(probability_B.clamp(eps, 1 - eps), label_B, reduction="none")


def calibration_gaps(probability_B: Tensor, label_B: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Return `label - probability`, float64, and the bin of each row; raises ValueError as `calibration_error`."""
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, got {bins}.")
    probability_B, label_B = _paired_probability(probability_B, label_B)
    edge_M = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=probability_B.device)[1:-1]
    return label_B - probability_B, torch.bucketize(probability_B, edge_M)


def hit_ratios(hits: Tensor, predicted: Tensor, actual: Tensor) -> dict[str, Tensor]:
    """Return `precision`, `recall` and `f1` of float64 counts of any one shape, each 0 where it is undefined."""
    return {
        "precision": hits / predicted.clamp(min=1),
        "recall": hits / actual.clamp(min=1),
        "f1": 2 * hits / (predicted + actual).clamp(min=1),
    }


def paired_binary(score_B: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return both columns as `paired_float64` does; raises ValueError also where a label is not 0 or 1."""
    score_B, label_B = paired_float64(score_B, label_B)
    wrong_B = (label_B != 0) & (label_B != 1)
    if wrong_B.any():
        wrong = float(label_B[wrong_B][0])
        raise ValueError(f"`label_B` must hold 0 and 1 only, got {wrong}; binarise it first.")
    return score_B, label_B


def _counts_above(score_B: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct scores with the numbers of positives and of rows that score at least as much."""
    score_B, label_B = paired_binary(score_B, label_B)
    sorted_B, order_B = score_B.sort(descending=True)
    score_T, count_T = torch.unique_consecutive(sorted_B, return_counts=True)
    predicted_T = count_T.cumsum(0)
    positive_B = label_B[order_B].long().cumsum(0)
    return score_T, positive_B[predicted_T - 1], predicted_T


def _paired_probability(probability_B: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
    probability_B, label_B = paired_binary(probability_B, label_B)
    low, high = float(probability_B.min()), float(probability_B.max())
    if low < 0 or high > 1:
        raise ValueError(f"`probability_B` must be in [0, 1], got values from {low} to {high}; apply a sigmoid first.")
    return probability_B, label_B
