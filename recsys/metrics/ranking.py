"""Quality of ranked lists. `Q`: queries (users), `I`: items, `K`: the first k places.

`ranked_hits` orders the items of each query once; every metric reads its hits and returns one float64 per
query. A query without relevant items gets 0 from all of them; the caller leaves it out of the mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def ranked_hits(score_QI: Tensor, relevant_QI: Tensor, excluded_QI: Tensor) -> tuple[Tensor, Tensor]:
    """Return, place by place in descending order of score, whether the item there is relevant and which item it is.

    Among equal scores relevant items come last, so a constant scorer gains nothing. Excluded items stand
    behind all others, whatever their score, and never count as relevant.

    Args:
        score_QI: floating-point scores; infinite ones are ranked like any other.
        relevant_QI: true where the item is a right answer.
        excluded_QI: true where the item must not be recommended, such as those seen in training.

    Returns:
        Boolean `hit_QI` and int64 `item_QI`, where the second axis is the place in the ranking. `item_QI` holds the
        item's column, or -1 where the place holds an excluded item.

    Raises:
        ValueError: the shapes differ or are not (Q, I), or a score is NaN.

    >>> from torch import tensor
    >>> ranked_hits(tensor([[0.9, 0.5, 0.5, 0.7]]), tensor([[1, 1, 0, 0]]), tensor([[1, 0, 0, 0]]))
    (tensor([[False, False,  True, False]]), tensor([[ 3,  2,  1, -1]]))
    """
    shapes = [tuple(x_QI.shape) for x_QI in (score_QI, relevant_QI, excluded_QI)]
    if score_QI.ndim != 2 or len(set(shapes)) > 1:
        raise ValueError(f"scores, relevant and excluded must all have shape (Q, I), got {shapes}.")
    if score_QI.isnan().any():
        raise ValueError("`score_QI` must not hold NaN; did the training diverge?")
    excluded_QI = excluded_QI.bool()
    relevant_QI = relevant_QI.bool() & ~excluded_QI
    # The first sort settles ties of the second, also between excluded items and others scored -inf.
    tie_QI = relevant_QI.byte().masked_fill(excluded_QI, 2).argsort(dim=1, stable=True)
    masked_QI = score_QI.detach().masked_fill(excluded_QI, -torch.inf).gather(1, tie_QI)
    item_QI = tie_QI.gather(1, masked_QI.argsort(dim=1, descending=True, stable=True))
    return relevant_QI.gather(1, item_QI), item_QI.masked_fill(excluded_QI.gather(1, item_QI), -1)


def precision_at_k(hit_QI: Tensor, k: int) -> Tensor:
    """Return the share of the first k places that are hits, `hits / k`, also where k exceeds I.

    Args:
        hit_QI: hits of `ranked_hits`.
        k: length of the list, at least 1.

    Raises:
        ValueError: k is below 1.

    >>> precision_at_k(torch.tensor([[True, False, True]]), k=2)
    tensor([0.5000], dtype=torch.float64)
    """
    return _hits(hit_QI, k) / k


def recall_at_k(hit_QI: Tensor, k: int) -> Tensor:
    """Return the share of the relevant items found in the first k places; 0 without relevant items.

    Args:
        hit_QI: hits of `ranked_hits`.
        k: length of the list, at least 1.

    Raises:
        ValueError: k is below 1.

    >>> recall_at_k(torch.tensor([[True, False, False, True]]), k=3)
    tensor([0.5000], dtype=torch.float64)
    """
    return _hits(hit_QI, k) / hit_QI.sum(1).clamp(min=1)


def f1_at_k(hit_QI: Tensor, k: int) -> Tensor:
    """Return the harmonic mean of precision and recall at k, `2 hits / (k + relevant)`.

    Args:
        hit_QI: hits of `ranked_hits`.
        k: length of the list, at least 1.

    Raises:
        ValueError: k is below 1.

    >>> f1_at_k(torch.tensor([[True, False, False, True]]), k=2)
    tensor([0.5000], dtype=torch.float64)
    """
    return 2 * _hits(hit_QI, k) / (k + hit_QI.sum(1))


def hit_rate_at_k(hit_QI: Tensor, k: int) -> Tensor:
    """Return 1 where the first k places hold a hit, else 0.

    Args:
        hit_QI: hits of `ranked_hits`.
        k: length of the list, at least 1.

    Raises:
        ValueError: k is below 1.

    >>> hit_rate_at_k(torch.tensor([[False, True], [False, False]]), k=2)
    tensor([1., 0.], dtype=torch.float64)
    """
    return _hits(hit_QI, k).clamp(max=1)


def ndcg_at_k(hit_QI: Tensor, k: int) -> Tensor:
    """Return `DCG / ideal DCG` where `DCG = sum over hits in the first k places of 1 / log2(1 + place)`.

    The ideal list starts with min(k, relevant) hits; without relevant items the result is 0.
    Järvelin and Kekäläinen (2002), "Cumulated gain-based evaluation of IR techniques", binary gains with the
    now common discount.

    Args:
        hit_QI: hits of `ranked_hits`.
        k: length of the list, at least 1.

    Raises:
        ValueError: k is below 1.

    >>> ndcg_at_k(torch.tensor([[False, False, True]]), k=3)
    tensor([0.5000], dtype=torch.float64)
    """
    hit_QK = _first(hit_QI, k)
    place_K = torch.arange(1, hit_QK.shape[1] + 1, device=hit_QI.device)
    gain_K = 1 / torch.log2(1 + place_K.double())
    ideal_QK = place_K <= hit_QI.sum(1, keepdim=True)
    ideal_Q = (ideal_QK * gain_K).sum(1)
    return (hit_QK * gain_K).sum(1) / torch.where(ideal_Q > 0, ideal_Q, 1)


def average_precision_at_k(hit_QI: Tensor, k: int) -> Tensor:
    """Return the sum over hits in the first k places of the precision at that place, over min(k, relevant).

    A list that starts with min(k, relevant) hits reaches 1; without relevant items the result is 0. The mean over
    queries is MAP@k. Manning, Raghavan and Schütze (2008), "Introduction to Information Retrieval", section 8.4, cut
    after k places.

    Args:
        hit_QI: hits of `ranked_hits`.
        k: length of the list, at least 1.

    Raises:
        ValueError: k is below 1.

    >>> average_precision_at_k(torch.tensor([[True, False, False, True]]), k=4) == (1 / 1 + 2 / 4) / 2
    tensor([True])
    """
    hit_QK = _first(hit_QI, k)
    place_K = torch.arange(1, hit_QK.shape[1] + 1, device=hit_QI.device)
    precision_QK = hit_QK.cumsum(1).double() / place_K
    return (hit_QK * precision_QK).sum(1) / hit_QI.sum(1).clamp(1, k)


def mrr(hit_QI: Tensor) -> Tensor:
    """Return `1 / place` of the first hit in the full ranking; 0 without relevant items.

    Args:
        hit_QI: hits of `ranked_hits`.

    >>> mrr(torch.tensor([[False, True, True], [False, False, False]]))
    tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    first_Q = hit_QI.byte().argmax(1)
    return hit_QI.any(1) / (first_Q + 1).double()


def ranking_metrics(hit_QI: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """Return every metric of this module by name, such as `ndcg@10`, then `mrr`: one value per query.

    Args:
        hit_QI: hits of `ranked_hits`, for example for one block of users.
        ks: lengths of the list, each at least 1.

    Raises:
        ValueError: a k is below 1.

    >>> list(ranking_metrics(torch.tensor([[True, False]]), ks=[1]))
    ['precision@1', 'recall@1', 'f1@1', 'hit_rate@1', 'ndcg@1', 'map@1', 'mrr']
    """
    at_k = {
        "precision": precision_at_k,
        "recall": recall_at_k,
        "f1": f1_at_k,
        "hit_rate": hit_rate_at_k,
        "ndcg": ndcg_at_k,
        "map": average_precision_at_k,
    }
    values = {f"{name}@{k}": metric(hit_QI, k) for k in ks for name, metric in at_k.items()}
    return values | {"mrr": mrr(hit_QI)}


def _hits(hit_QI: Tensor, k: int) -> Tensor:
    return _first(hit_QI, k).sum(1).double()


def _first(hit_QI: Tensor, k: int) -> Tensor:
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    return hit_QI[:, :k]
