"""What recommendations offer besides accuracy: coverage, novelty, diversity, popularity; and groups of activity.

`Q`: queries (users), `K`: places of a list, `I`: items, `P`: pairs of places, `T`: values of an attribute, `N`: users
or items. `top_QK` holds the position of the item at each place, int64, where -1 (no item) is ignored everywhere.
Results are float64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

GROUPS = ("cold", "warm", "hot")
BLOCK = 2**22  # values of pairs of items in memory at once


def item_coverage(top_QK: Tensor, items: int) -> float:
    """Return the share of the catalogue that is recommended to anybody.

    Ge, Delgado-Battenfeld and Jannach (2010), "Beyond Accuracy: Evaluating Recommender Systems by Coverage and
    Serendipity", catalogue coverage.

    Args:
        top_QK: recommended items, -1 for none.
        items: size of the catalogue.

    Raises:
        ValueError: `top_QK` is not (Q, K) or holds a position outside [-1, items).

    >>> item_coverage(torch.tensor([[0, 2], [2, -1]]), items=4) == 2 / 4
    True
    """
    _check(top_QK, items)
    seen_I = torch.zeros(items, dtype=torch.bool, device=top_QK.device)
    seen_I[top_QK[top_QK >= 0]] = True
    return int(seen_I.sum()) / items


def novelty(top_QK: Tensor, count_I: Tensor) -> Tensor:
    """Return the mean self-information of each list, `-log2 p_i` in bits, with `p_i = (count_i + 1) / (events + I)`.

    The added 1 keeps an item without events finite. An empty list gets NaN. Zhou et al. (2010), "Solving the Apparent
    Diversity-Accuracy Dilemma of Recommender Systems"; Vargas and Castells (2011), "Rank and Relevance in Novelty and
    Diversity Metrics for Recommender Systems".

    Args:
        top_QK: recommended items, -1 for none.
        count_I: training events of each item.

    Raises:
        ValueError: `top_QK` is not (Q, K) or holds a position outside [-1, I).

    >>> novelty(torch.tensor([[0, 1], [0, -1]]), count_I=torch.tensor([1, 0, 4]))
    tensor([2.5000, 2.0000], dtype=torch.float64)
    """
    chance_I = (count_I.double() + 1) / (count_I.sum() + len(count_I))
    return _mean_listed(-chance_I.log2(), top_QK)


def diversity(top_QK: Tensor, attributes: Sequence[Tensor]) -> Tensor:
    """Return the mean over pairs of listed items of `1 - similarity`, NaN for lists of fewer than two items.

    The similarity of two items is the mean over attributes of the Jaccard similarity of their sets of values, where
    two empty sets count as equal. Smyth and McClave (2001), "Similarity vs. Diversity", eq. for relative diversity of
    a set; Ziegler et al. (2005), "Improving Recommendation Lists Through Topic Diversification", intra-list similarity.

    Args:
        top_QK: recommended items, -1 for none.
        attributes: for each attribute the values of every item, int64 (I, T), 0 for none; T is 1 for a single value.

    Raises:
        ValueError: there is no attribute, one is not (I, T) with the same I, `top_QK` is not (Q, K) or holds a position
            outside [-1, I).

    >>> genres_IT = torch.tensor([[1, 2], [2, 0], [3, 0]])
    >>> diversity(torch.tensor([[0, 1], [1, 2]]), [genres_IT])
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    shapes = [tuple(value_IT.shape) for value_IT in attributes]
    if len({(len(shape), *shape[:1]) for shape in shapes}) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"`attributes` must be one or more tensors of shape (I, T) with the same I, got {shapes}.")
    _check(top_QK, shapes[0][0])
    sets = [_distinct(value_IT) for value_IT in attributes]
    widest = max(width for _, width in shapes)
    block = max(1, BLOCK // (top_QK.shape[1] ** 2 * widest + 1))
    return torch.cat([_mean_distance(block_QK, sets) for block_QK in top_QK.split(block)])


def popularity_lift(top_QK: Tensor, count_I: Tensor, profile_Q: Tensor) -> float:
    """Return by how much recommended items are more popular than those the users chose, `lists / profiles - 1`.

    `lists` and `profiles` are means over queries of the mean training count of the items listed, and of those in the
    user's own training profile. Queries without a profile or without a list are left out; NaN if none is left.
    Abdollahpouri et al. (2020), "The Connection Between Popularity Bias, Calibration, and Fairness in Recommendation".

    Args:
        top_QK: recommended items, -1 for none.
        count_I: training events of each item.
        profile_Q: mean of `count_I` over the items of the user's training events; NaN without such events.

    Raises:
        ValueError: `top_QK` is not (Q, K) or holds a position outside [-1, I), or `profile_Q` is not (Q,).

    >>> popularity_lift(torch.tensor([[0], [1]]), torch.tensor([6, 2]), torch.tensor([3.0, float("nan")])) == 6 / 3 - 1
    True
    """
    if profile_Q.shape != top_QK.shape[:1]:
        raise ValueError(f"`profile_Q` must have shape ({len(top_QK)},) as `top_QK`, got {tuple(profile_Q.shape)}.")
    listed_Q, profile_Q = _mean_listed(count_I.double(), top_QK), profile_Q.double()
    known_Q = ~(listed_Q.isnan() | profile_Q.isnan())
    return float(listed_Q[known_Q].mean() / profile_Q[known_Q].mean() - 1)


def activity_groups(count_N: Tensor) -> Tensor:
    """Return the group of each user or item, int8 positions in `GROUPS`: 0 cold, 1 warm, 2 hot.

    Cold are those without events; hot is the smallest set of the busiest that holds at least half of all events, where
    the first of equally busy ones go in first; warm are the rest.

    Args:
        count_N: training events of each user (or item).

    >>> activity_groups(torch.tensor([1, 0, 5, 2, 2]))
    tensor([1, 0, 2, 1, 1], dtype=torch.int8)
    """
    sorted_N, order_N = count_N.sort(descending=True, stable=True)
    before_N = sorted_N.cumsum(0) - sorted_N
    hot_N = 2 * before_N < sorted_N.sum()
    group_N = torch.empty(len(count_N), dtype=torch.int8, device=count_N.device)
    group_N[order_N] = (sorted_N > 0).char() + hot_N.char()
    return group_N


def _check(top_QK: Tensor, items: int) -> None:
    if top_QK.ndim != 2:
        raise ValueError(f"`top_QK` must have shape (Q, K), got {tuple(top_QK.shape)}.")
    wrong = top_QK[(top_QK < -1) | (top_QK >= items)]
    if len(wrong):
        raise ValueError(f"`top_QK` must hold positions of {items} items, or -1 for none, got {int(wrong[0])}.")


def _mean_listed(value_I: Tensor, top_QK: Tensor) -> Tensor:
    """Return the mean of the listed items' values; NaN for an empty list."""
    _check(top_QK, len(value_I))
    listed_QK = top_QK >= 0
    return (value_I[top_QK] * listed_QK).sum(1) / listed_QK.sum(1)


def _distinct(value_IT: Tensor) -> Tensor:
    """Return the values in ascending order with each repetition replaced by 0."""
    sorted_IT = value_IT.sort(dim=1).values
    repeated_IT = sorted_IT[:, 1:] == sorted_IT[:, :-1]
    sorted_IT[:, 1:].masked_fill_(repeated_IT, 0)
    return sorted_IT


def _mean_distance(top_QK: Tensor, sets: Sequence[Tensor]) -> Tensor:
    one_P, two_P = torch.triu_indices(top_QK.shape[1], top_QK.shape[1], offset=1, device=top_QK.device)
    one_QP, two_QP = top_QK[:, one_P], top_QK[:, two_P]
    similar_QP = torch.stack([_jaccard(set_IT[one_QP], set_IT[two_QP]) for set_IT in sets]).mean(0)
    both_QP = (one_QP >= 0) & (two_QP >= 0)
    return ((1 - similar_QP) * both_QP).sum(1) / both_QP.sum(1)


def _jaccard(one_QPT: Tensor, two_QPT: Tensor) -> Tensor:
    shared_QPT = torch.zeros_like(one_QPT, dtype=torch.bool)
    for value_QP in two_QPT.unbind(-1):
        shared_QPT |= one_QPT == value_QP[..., None]
    shared_QP = (shared_QPT & (one_QPT != 0)).sum(-1)
    union_QP = (one_QPT != 0).sum(-1) + (two_QPT != 0).sum(-1) - shared_QP
    return torch.where(union_QP > 0, shared_QP.double() / union_QP, 1)
