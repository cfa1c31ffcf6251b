"""Errors of predicted ratings, in the unit of the rating. `B`: rows."""

from torch import Tensor
from torchmetrics.functional import mean_absolute_error, mean_squared_error


def rmse(score_B: Tensor, label_B: Tensor) -> float:
    """Return the root mean squared error, `sqrt(mean((score - label)^2))`.

    Args:
        score_B: predicted ratings, any real numbers.
        label_B: true ratings.

    Raises:
        ValueError: the shapes differ or are not (B,), B is 0, or a value is NaN.

    >>> from torch import tensor
    >>> rmse(tensor([3.0, 5.0]), tensor([4.0, 5.0])) == (1 / 2) ** 0.5
    True
    """
    return float(mean_squared_error(*paired_float64(score_B, label_B), squared=False))


def mae(score_B: Tensor, label_B: Tensor) -> float:
    """Return the mean absolute error, `mean(|score - label|)`.

    Args:
        score_B: predicted ratings, any real numbers.
        label_B: true ratings.

    Raises:
        ValueError: the shapes differ or are not (B,), B is 0, or a value is NaN.

    >>> from torch import tensor
    >>> mae(tensor([3.0, 5.0]), tensor([4.0, 5.0]))
    0.5
    """
    return float(mean_absolute_error(*paired_float64(score_B, label_B)))


def paired_float64(score_B: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return both columns in float64, without gradient, once they are known to match row by row.

    Raises:
        ValueError: the shapes differ or are not (B,), B is 0, or a value is NaN.

    >>> from torch import tensor
    >>> paired_float64(tensor([0.5]), tensor([1]))
    (tensor([0.5000], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    if score_B.ndim != 1 or score_B.shape != label_B.shape:
        shapes = f"{tuple(score_B.shape)} and {tuple(label_B.shape)}"
        raise ValueError(f"scores and labels must both have shape (B,), got {shapes}.")
    if score_B.numel() == 0:
        raise ValueError("scores and labels must have at least one row, got none.")
    if score_B.isnan().any() or label_B.isnan().any():
        raise ValueError("scores and labels must not hold NaN; did the training diverge?")
    return score_B.detach().double(), label_B.detach().double()
