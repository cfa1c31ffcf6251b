"""DIN's local activation unit: how much each past item matters for this candidate."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.layers.mlp import activation_layer, check_hidden


class LocalActivationUnit(nn.Module):
    """Weighted sum of past items (Zhou et al. 2018, arXiv:1706.06978, eq. 3 and figure 2).

    out = sum_l a(key_l, query) key_l, where a is a small network over [query, key, query - key, query * key]. The
    first layer is linear in that list, so it is computed as W_q query + W_k key + W_p (query * key), the query's
    part once per row: the same functions at a third of the work. Without `softmax` (the paper's choice) the weights
    keep their scale, so a long history of related items weighs more than a short one. Places outside the mask
    never count; an empty history gives zeros.
    """

    def __init__(
        self, dim: int, hidden: Sequence[int] = (64, 16), *, activation: str = "dice", softmax: bool = False
    ) -> None:
        super().__init__()
        check_hidden(hidden, "attention_hidden")
        if not hidden:
            raise ValueError("`attention_hidden` must name at least one layer width.")
        self.softmax = softmax
        self.query = nn.Linear(dim, hidden[0])
        self.key = nn.Linear(dim, hidden[0], bias=False)
        self.product = nn.Linear(dim, hidden[0], bias=False)
        self.activations = nn.ModuleList(activation_layer(activation, width) for width in hidden)
        self.inner = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(hidden))
        self.out = nn.Linear(hidden[-1], 1, bias=not softmax)

    def forward(self, query_BD: Tensor, key_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """The user's interest in the candidate, (B, D).

        In evaluation mode, keys and a mask of one row serve all queries and are projected once.
        """
        assert not self.training or len(mask_BL) == len(query_BD)
        if self.training:  # padding is often most of the places, so compute the real ones only
            row_N, place_N = mask_BL.nonzero(as_tuple=True)
            first_NH = self.first(query_BD[row_N], self.query(query_BD)[row_N], key_BLD[row_N, place_N])
            weight_N = self.weigh(first_NH)
            weight_BL = weight_N.new_zeros(mask_BL.shape).index_put((row_N, place_N), weight_N)
        elif key_BLD.shape[0] == 1:
            weight_BL = self.weigh(self._first_of_shared(query_BD, key_BLD[0]))
        else:
            weight_BL = self.weigh(self.first(query_BD.unsqueeze(1), self.query(query_BD).unsqueeze(1), key_BLD))
        if self.softmax:
            weight_BL = weight_BL.masked_fill(~mask_BL, torch.finfo(weight_BL.dtype).min).softmax(-1)
        weight_BL = weight_BL * mask_BL
        return (weight_BL.unsqueeze(1) @ key_BLD).squeeze(1)

    def first(self, query: Tensor, linear: Tensor, key: Tensor) -> Tensor:
        """The first layer's sums (..., H) for each key; `linear` is the query's part of them."""
        return linear + self.key(key) + self.product(query * key)

    def _first_of_shared(self, query_BD: Tensor, key_LD: Tensor) -> Tensor:
        """The first layer's sums (B, L, H) where all queries share the keys.

        They are linear in the query, (W_q + W_p diag(key_l)) query + W_k key_l + b: one product for all keys.
        """
        weight_LHD = self.query.weight + self.product.weight * key_LD.unsqueeze(1)
        bias_LH = self.query.bias + self.key(key_LD)
        first_BK = torch.addmm(bias_LH.flatten(), query_BD, weight_LHD.flatten(0, 1).T)
        return first_BK.unflatten(1, bias_LH.shape)

    def weigh(self, x: Tensor) -> Tensor:
        """a(key, query) for each key from the first layer's sums (..., H), the last dimension gone."""
        return _flat(self.out, self.last_hidden(x)).squeeze(-1)

    def last_hidden(self, x: Tensor) -> Tensor:
        """The units of the last hidden layer (..., H') from the first layer's sums (..., H)."""
        for activation, inner in itertools.zip_longest(self.activations, self.inner):
            x = activation(x)
            x = x if inner is None else _flat(inner, x)
        return x


def _flat(linear: nn.Module, x: Tensor) -> Tensor:
    """A layer on all but the last dimension in one, so that ONNX Runtime adds the bias within the product."""
    flat = linear(x.view(-1, x.shape[-1]))
    return flat.view(*x.shape[:-1], flat.shape[-1])
