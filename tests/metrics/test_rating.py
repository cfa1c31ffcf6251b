import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from torch import tensor

from recsys.metrics import mae, rmse


def test_hand_computed_errors():
    score_B, label_B = tensor([1.0, 2.0, 5.0]), tensor([2.0, 2.0, 3.0])
    assert rmse(score_B, label_B) == pytest.approx(((1**2 + 0**2 + 2**2) / 3) ** 0.5, abs=1e-15)
    assert mae(score_B, label_B) == pytest.approx((1 + 0 + 2) / 3, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_200k_rows_match_sklearn_whatever_the_dtype(dtype):
    rng = np.random.default_rng(0)
    score_B = tensor(rng.normal(3, 1, 200_000)).to(dtype)
    label_B = tensor(rng.integers(1, 6, 200_000))
    score, label = score_B.double().numpy(), label_B.numpy()
    assert rmse(score_B, label_B) == pytest.approx(root_mean_squared_error(label, score), abs=1e-12)
    assert mae(score_B, label_B) == pytest.approx(mean_absolute_error(label, score), abs=1e-12)


@pytest.mark.parametrize("metric", [rmse, mae])
@pytest.mark.parametrize(
    ("score_B", "label_B", "rule"),
    [
        (torch.zeros(0), torch.zeros(0), "at least one row"),
        (torch.zeros(3, 1), torch.zeros(3), "shape"),
        (torch.zeros(3, 1), torch.zeros(3, 1), "shape"),
        (tensor([float("nan")]), torch.zeros(1), "NaN"),
        (torch.zeros(1), tensor([float("nan")]), "NaN"),
    ],
)
def test_unusable_input_is_refused(metric, score_B, label_B, rule):
    with pytest.raises(ValueError, match=rule):
        metric(score_B, label_B)
