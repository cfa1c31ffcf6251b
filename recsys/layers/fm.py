"""The factorization machine's pairwise term."""

from typing import Any

import torch
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


def fm_of_parts(emb_BFD: Tensor, x_BN: Tensor, times_ND: Tensor) -> Tensor:
    """`fm` of the vectors `emb_BFD` and of N others, x_BN[:, n] * times_ND[n], which are never made."""
    with torch.autocast(emb_BFD.device.type, enabled=False):
        square_B = x_BN.square() @ times_ND.square().sum(1)
        return _Pairs.apply(emb_BFD, x_BN @ times_ND) - 0.5 * square_B


class _Pairs(torch.autograd.Function):
    """0.5 * sum_d ((sum_i v_id + o_d)^2 - sum_i v_id^2), (B,), with half of the passes that autograd makes over v."""

    @staticmethod
    def forward(ctx: Any, emb_BFD: Tensor, other_BD: Tensor) -> Tensor:
        total_BD = emb_BFD.sum(1).add_(other_BD)
        ctx.save_for_backward(emb_BFD, total_BD)
        return 0.5 * (total_BD.square().sum(1) - torch.linalg.vector_norm(emb_BFD, dim=(1, 2)).square())

    @staticmethod
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, Tensor]:
        emb_BFD, total_BD = ctx.saved_tensors
        return (total_BD.unsqueeze(1) - emb_BFD).mul_(grad_B.view(-1, 1, 1)), total_BD * grad_B.unsqueeze(1)
