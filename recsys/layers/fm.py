"""The factorization machine's pairwise term."""

from torch import Tensor


def fm(emb_BFD: Tensor) -> Tensor:
    """The sum of the dot products of all pairs of vectors, (B,), in linear time.

    sum_{i<j} <v_i, v_j> = 0.5 * sum_d ((sum_i v_id)^2 - sum_i v_id^2)   (Rendle 2010, lemma 3.1)

    >>> import torch
    >>> fm(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]])).item() == (1 * 3 + 2 * 4) + 2 * 1 + 4 * 1
    True
    """
    total_BD = emb_BFD.sum(1)
    return 0.5 * (total_BD.square() - emb_BFD.square().sum(1)).sum(-1)
