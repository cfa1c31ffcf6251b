"""Quality of scores for yes-or-no labels. `B`: rows, `T`: distinct scores in descending order.

Counts are int64 here: torchmetrics counts in float32 and squashes scores outside [0, 1], which makes ties.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from recsys.metrics.rating import paired_float64


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
    zero = positive_T.new_zeros(1)
    both_T = positive_T + torch.cat([zero, positive_T[:-1]])
    doubled_area = int((torch.diff(negative_T, prepend=zero) * both_T).sum())
    return doubled_area / (2 * n_positive * n_negative)


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
    probability_B, label_B = _paired_binary(probability_B, label_B)
    low, high = float(probability_B.min()), float(probability_B.max())
    if low < 0 or high > 1:
        raise ValueError(f"`probability_B` must be in [0, 1], got values from {low} to {high}; apply a sigmoid first.")
    eps = torch.finfo(torch.float64).eps
    return float(binary_cross_entropy(probability_B.clamp(eps, 1 - eps), label_B))


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
    score_B, label_B = _paired_binary(score_B, label_B)
    predicted_B, actual_B = score_B >= threshold, label_B.bool()
    hits, predicted, actual = (int(x_B.sum()) for x_B in (predicted_B & actual_B, predicted_B, actual_B))
    return {
        "precision": hits / max(predicted, 1),
        "recall": hits / max(actual, 1),
        "f1": 2 * hits / max(predicted + actual, 1),
    }


def _counts_above(score_B: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct scores with the numbers of positives and of rows that score at least as much."""
    score_B, label_B = _paired_binary(score_B, label_B)
    sorted_B, order_B = score_B.sort(descending=True)
    score_T, count_T = torch.unique_consecutive(sorted_B, return_counts=True)
    predicted_T = count_T.cumsum(0)
    positive_B = label_B[order_B].long().cumsum(0)
    return score_T, positive_B[predicted_T - 1], predicted_T


def _paired_binary(score_B: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
    score_B, label_B = paired_float64(score_B, label_B)
    wrong_B = (label_B != 0) & (label_B != 1)
    if wrong_B.any():
        wrong = float(label_B[wrong_B][0])
        raise ValueError(f"`label_B` must hold 0 and 1 only, got {wrong}; binarise it first.")
    return score_B, label_B
