"""What a user and an item are rated above or below the mean: `b_ui = mean + b_u + b_i` (Koren 2010, section 2.1)."""

import numpy as np

from recsys.classical.ratings import Ratings


def fit_biases(
    ratings: Ratings, *, epochs: int = 10, reg_user: float = 15.0, reg_item: float = 10.0
) -> tuple[np.ndarray, np.ndarray]:
    """User and item biases, float64 (U,) and (I,), by alternating least squares, items first (Koren 2010, section 2.1).

    `reg_user` and `reg_item` count as that many more ratings of deviation 0. Cold users and items get 0.
    """
    user_N, item_N = ratings.user_N, ratings.item_N
    count_U = np.bincount(user_N, minlength=ratings.users)
    count_I = np.bincount(item_N, minlength=ratings.items)
    deviation_N = ratings.value_N - ratings.value_N.mean()
    sum_U = np.bincount(user_N, deviation_N, minlength=ratings.users)
    sum_I = np.bincount(item_N, deviation_N, minlength=ratings.items)
    bias_U = np.zeros(ratings.users)
    bias_I = np.zeros(ratings.items)
    for _ in range(epochs):
        bias_I = (sum_I - np.bincount(item_N, bias_U[user_N], minlength=ratings.items)) / (reg_item + count_I)
        bias_U = (sum_U - np.bincount(user_N, bias_I[item_N], minlength=ratings.users)) / (reg_user + count_U)
    return bias_U, bias_I
