"""Percentile bootstrap intervals: how far a metric could be off because other users might have come.

Users are drawn with replacement and bring all their rows, for the rows of one user are not independent. Efron and
Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13. A resample is only a weight per user: how often it
was drawn. `S`: resamples, `U`: users, `B`: rows, `Q`: queries, `M`: sums per user, `T`: distinct scores.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from recsys.metrics.classification import (
    area_under_curve,
    group_aucs,
    group_numbers,
    hit_ratios,
    paired_binary,
    row_logloss,
)
from recsys.metrics.rating import paired_float64

BLOCK = 2**22  # weights of rows in memory at once
AFFORDABLE = 20_000_000  # weights of rows in all resamples

# From the weights of the users, float64 (S, U), to the values of each metric, float64 (S,).
Statistic = Callable[[Tensor], dict[str, Tensor]]


def mean_intervals(
    values: Mapping[str, Tensor],
    user_Q: Tensor,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return for each metric the interval of its mean over queries, such as the values of `ranking_metrics`.

    NaN values are left out of the mean; the interval of a metric without any other value is NaN.

    Args:
        values: one value per query, (Q,), by name.
        user_Q: int64, whose query it is; a user may own several.
        resamples: number of times that the users are drawn.
        seed: of the draws.
        level: share of the resamples inside the interval, in (0, 1).

    Raises:
        ValueError: there is no metric, Q is 0, a shape is not (Q,), `resamples` is below 1 or `level` not in (0, 1).

    >>> mean_intervals({"mrr": torch.tensor([0.5, 0.5, 0.5])}, torch.tensor([4, 4, 7]))
    {'mrr': (0.5, 0.5)}
    """
    if not values:
        raise ValueError("`values` must hold at least one metric, got none.")
    user_Q = group_numbers(user_Q, len(user_Q))
    for name, value_Q in values.items():
        if value_Q.shape != user_Q.shape:
            raise ValueError(f"`{name}` must have shape ({len(user_Q)},) as the users, got {tuple(value_Q.shape)}.")
    sum_UM = _user_sums([value_Q.nan_to_num() for value_Q in values.values()], user_Q)
    known_UM = _user_sums([~value_Q.isnan() for value_Q in values.values()], user_Q)

    def means(weight_SU: Tensor) -> dict[str, Tensor]:
        mean_SM = (weight_SU @ sum_UM) / (weight_SU @ known_UM)
        return dict(zip(values, mean_SM.T, strict=True))

    return _intervals(means, user_Q, resamples=resamples, seed=seed, level=level)


def labelled_intervals(
    logit_B: Tensor,
    probability_B: Tensor,
    label_B: Tensor,
    user_B: Tensor,
    threshold: float,
    *,
    resamples: int | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return the intervals of `auc`, `gauc`, `logloss`, `precision`, `recall` and `f1`.

    Each is defined as the function of that name. Resamples in which a metric is undefined (AUC of one class) are left
    out of its interval. A calibration error has none here: resampling adds noise to each of its bins, so the
    interval of a small error would lie above the error itself.

    Args:
        logit_B: scores that order the rows and meet the threshold.
        probability_B: chance of a positive, in [0, 1].
        label_B: 0 or 1.
        user_B: int64, whose row it is.
        threshold: rows with at least this logit are predicted positive.
        resamples: number of times that the users are drawn. None means 500, and fewer above 40,000 rows, down to 100
            from 200,000 on: each AUC costs a pass over all rows.
        seed: of the draws.
        level: share of the resamples inside the interval, in (0, 1).

    Raises:
        ValueError: a probability is outside [0, 1], a label is not 0 or 1, a shape is not (B,), B is 0, a value is NaN,
            `resamples` is below 1 or `level` is outside (0, 1).

    >>> from torch import tensor
    >>> logit_B, label_B, one_user_B = tensor([2.0, 1.0, -1.0]), tensor([1, 0, 0]), tensor([7, 7, 7])
    >>> found = labelled_intervals(logit_B, logit_B.sigmoid(), label_B, one_user_B, threshold=0.0)
    >>> found["auc"], found["precision"], found["recall"]
    ((1.0, 1.0), (0.5, 0.5), (1.0, 1.0))
    """
    user_B = group_numbers(user_B, len(logit_B))
    if resamples is None:
        resamples = _affordable_resamples(len(logit_B))
    auc_of = _auc_of(logit_B, label_B, user_B)
    sum_UM = _labelled_sums(logit_B, probability_B, label_B, user_B, threshold)

    def metrics(weight_SU: Tensor) -> dict[str, Tensor]:
        rows_S, loss_S, hits_S, predicted_S, actual_S, wins_S, mixed_S = (weight_SU @ sum_UM).T
        return {
            "auc": auc_of(weight_SU),
            "gauc": wins_S / mixed_S,
            "logloss": loss_S / rows_S,
            **hit_ratios(hits_S, predicted_S, actual_S),
        }

    return _intervals(metrics, user_B, resamples=resamples, seed=seed, level=level)


def rating_intervals(
    score_B: Tensor,
    label_B: Tensor,
    user_B: Tensor,
    *,
    resamples: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return the intervals of `rmse` and `mae`, defined as the functions of those names.

    Args:
        score_B: predicted ratings, any real numbers.
        label_B: true ratings.
        user_B: int64, whose row it is.
        resamples: number of times that the users are drawn.
        seed: of the draws.
        level: share of the resamples inside the interval, in (0, 1).

    Raises:
        ValueError: a shape is not (B,), B is 0, a value is NaN, `resamples` is below 1 or `level` is outside (0, 1).

    >>> from torch import tensor
    >>> rating_intervals(tensor([3.0, 5.0]), tensor([4.0, 4.0]), tensor([1, 2]))
    {'rmse': (1.0, 1.0), 'mae': (1.0, 1.0)}
    """
    score_B, label_B = paired_float64(score_B, label_B)
    user_B, error_B = group_numbers(user_B, len(score_B)), score_B - label_B
    sum_UM = _user_sums([torch.ones_like(error_B), error_B**2, error_B.abs()], user_B)

    def metrics(weight_SU: Tensor) -> dict[str, Tensor]:
        rows_S, squared_S, absolute_S = (weight_SU @ sum_UM).T
        return {"rmse": (squared_S / rows_S).sqrt(), "mae": absolute_S / rows_S}

    return _intervals(metrics, user_B, resamples=resamples, seed=seed, level=level)


def auc_loss(
    score_B: Tensor,
    other_B: Tensor,
    label_B: Tensor,
    user_B: Tensor,
    *,
    resamples: int | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of how much lower the AUC is by `other_B` than by `score_B`, on the same draws of users.

    Args:
        score_B: scores of the model to compare with.
        other_B: scores of the other model for the same rows.
        label_B: 0 or 1.
        user_B: int64, whose row it is.
        resamples: as in `labelled_intervals`.
        seed: of the draws.
        level: share of the resamples inside the interval, in (0, 1).

    Raises:
        ValueError: as `labelled_intervals`.

    >>> from torch import tensor
    >>> auc_loss(tensor([0.9, 0.1]), tensor([0.4, 0.6]), tensor([1, 0]), tensor([3, 3]))
    (1.0, 1.0)
    """
    user_B = group_numbers(user_B, len(score_B))
    ours, theirs = (_auc_of(score, label_B, user_B) for score in (score_B, other_B))
    return _intervals(
        lambda weight_SU: {"loss": ours(weight_SU) - theirs(weight_SU)},
        user_B,
        resamples=_affordable_resamples(len(score_B)) if resamples is None else resamples,
        seed=seed,
        level=level,
    )["loss"]


def rmse_loss(
    score_B: Tensor,
    other_B: Tensor,
    label_B: Tensor,
    user_B: Tensor,
    *,
    resamples: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of how much higher the RMSE is by `other_B` than by `score_B`, on the same draws of users.

    Arguments and errors are those of `auc_loss`, with true ratings as labels.

    >>> from torch import tensor
    >>> rmse_loss(tensor([4.0, 4.0]), tensor([5.0, 3.0]), tensor([4.0, 4.0]), tensor([1, 2]))
    (1.0, 1.0)
    """
    user_B = group_numbers(user_B, len(score_B))
    squares = [(score - label).square() for score, label in (paired_float64(s, label_B) for s in (score_B, other_B))]
    sum_UM = _user_sums([torch.ones_like(squares[0]), *squares], user_B)

    def losses(weight_SU: Tensor) -> dict[str, Tensor]:
        rows_S, ours_S, theirs_S = (weight_SU @ sum_UM).T
        return {"loss": (theirs_S / rows_S).sqrt() - (ours_S / rows_S).sqrt()}

    return _intervals(losses, user_B, resamples=resamples, seed=seed, level=level)["loss"]


def _affordable_resamples(rows: int) -> int:
    """Return how often to resample this many rows: about `AFFORDABLE` weights in all, within 100 and 500 times.

    >>> [_affordable_resamples(rows) for rows in (0, 40_000, 80_000, 1_000_000)]
    [500, 500, 250, 100]
    """
    return min(500, max(100, AFFORDABLE // max(rows, 1)))


def _auc_of(score_B: Tensor, label_B: Tensor, user_B: Tensor) -> Callable[[Tensor], Tensor]:
    """Sort the rows once; the result maps weights of users to the AUC of each resample."""
    score_B, label_B = paired_binary(score_B, label_B)
    sorted_B, order_B = score_B.sort(descending=True)
    last_T = sorted_B.unique_consecutive(return_counts=True)[1].cumsum(0) - 1
    label_B, user_B = label_B[order_B], user_B[order_B]

    def auc_of(weight_SU: Tensor) -> Tensor:
        weight_SB = weight_SU[:, user_B]
        predicted_ST = weight_SB.cumsum(1)[:, last_T]
        positive_ST = (weight_SB * label_B).cumsum(1)[:, last_T]
        return area_under_curve(positive_ST, predicted_ST - positive_ST)

    return auc_of


def _labelled_sums(logit_B: Tensor, probability_B: Tensor, label_B: Tensor, user_B: Tensor, threshold: float) -> Tensor:
    """Return per user rows, loss, hits, predicted, actual, AUC * rows and rows (0 of one class), float64 (U, M)."""
    logit_B, label_B = paired_binary(logit_B, label_B)
    predicted_B = logit_B >= threshold
    loss_B = row_logloss(probability_B, label_B)
    sum_UM = _user_sums([torch.ones_like(loss_B), loss_B, predicted_B * label_B, predicted_B, label_B], user_B)
    auc_U, rows_U = group_aucs(logit_B, label_B, user_B)
    mixed_U = rows_U * ~auc_U.isnan()
    return torch.cat([sum_UM, (auc_U.nan_to_num() * rows_U)[:, None], mixed_U[:, None]], dim=1)


def _user_sums(columns: Sequence[Tensor], user_B: Tensor) -> Tensor:
    """Return the sum of each column over the rows of each user, float64 (U, M)."""
    return torch.stack([torch.bincount(user_B, column_B.double()) for column_B in columns], dim=1)


def _intervals(
    statistic: Statistic, user_B: Tensor, *, resamples: int, seed: int, level: float
) -> dict[str, tuple[float, float]]:
    """Resample the users block by block and return the percentiles of every metric."""
    if len(user_B) == 0:
        raise ValueError("users must have at least one row, got none.")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples}.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1) such as 0.95, got {level}.")
    rng, users, size = np.random.default_rng(seed), int(user_B.max()) + 1, max(1, BLOCK // len(user_B))
    blocks = []
    for start in range(0, resamples, size):
        weight_SU = _weights(rng, min(size, resamples - start), users)
        blocks.append(statistic(weight_SU.to(user_B.device)))
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=user_B.device)
    quantiles = {name: torch.cat([block[name] for block in blocks]).nanquantile(tail) for name in blocks[0]}
    return {name: (float(low), float(high)) for name, (low, high) in quantiles.items()}


def _weights(rng: np.random.Generator, resamples: int, users: int) -> Tensor:
    """Return how often each user is drawn, float64 (S, U)."""
    draws = (rng.integers(users, size=users) for _ in range(resamples))
    return torch.from_numpy(np.stack([np.bincount(draw_U, minlength=users) for draw_U in draws])).double()
