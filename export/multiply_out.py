"""Models multiplied out for scoring: the same scores, up to rounding, from fewer and cheaper steps.

Letters: B rows, C looked-up columns, N numbers, D embedding dimension, H units of the first layer.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from export.packed import PLACES, PackedDIN
from export.tables import FloatTable, Int8Table, ScalarTable, copy_sharing
from recsys.data.batches import Batch
from recsys.layers.attention import LocalActivationUnit
from recsys.layers.embedding import Table
from recsys.layers.mlp import MLP, Dice
from recsys.models.base import Recommender
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.schema import CONTEXT, ITEM, ROLES, Role


def multiply_out(model: Recommender) -> Recommender:
    """A copy for scoring alone, which shares the model's weights.

    Tables of single numbers are looked up as vectors, means of tags are taken by products, batch norm becomes a part of
    the layer before it, an attention's Dice takes all its places at once, a DeepFM is multiplied out, and a DIN scores
    packed histories. Comes after `quantize_tables`.
    """
    ready = copy_sharing(model)
    for mlp in [module for module in ready.modules() if isinstance(module, MLP)]:
        _fuse_batch_norm(mlp)
    if isinstance(ready, DeepFM) and len(ready.mlp):
        ready.__class__ = MultipliedDeepFM
        cast(MultipliedDeepFM, ready).prepare()
    if isinstance(ready, DIN):
        ready.__class__ = PackedDIN
    for name, module in list(ready.named_modules()):
        if isinstance(module, Table) and module.embedding_dim == 1:
            ready.set_submodule(name, ScalarTable(module.weight.detach()[:, 0]))
        elif isinstance(module, Table):
            module.__class__ = FloatTable
        if isinstance(module, LocalActivationUnit):
            module.activations = nn.ModuleList(WideDice(a) if isinstance(a, Dice) else a for a in module.activations)
    return ready


def _fuse_batch_norm(mlp: MLP) -> None:
    """Scale and shift the layers by the running statistics once, rather than their outputs in every batch."""
    for n, (layer, norm) in enumerate(itertools.pairwise(list(mlp))):
        if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            mlp[n], mlp[n + 1] = fuse_linear_bn_eval(layer, norm), nn.Identity()


class WideDice(nn.Module):
    """A trained Dice of the units of many places, x (a + (1 - a) sigmoid(s x + t)) with four numbers for each unit.

    ONNX Runtime takes only the H numbers of one place at a time where they meet a vector of H, which is slow when they
    are few, so the numbers are repeated for every place.
    """

    number_4H: Tensor

    def __init__(self, dice: Dice) -> None:
        super().__init__()
        scale_H, alpha_H = torch.rsqrt(dice.running_var + dice.eps), dice.alpha.detach()
        shift_H = -dice.running_mean * scale_H
        self.register_buffer("number_4H", torch.stack([scale_H, shift_H, 1 - alpha_H, alpha_H]))

    def forward(self, x: Tensor) -> Tensor:
        """What the Dice makes of (B, L, H), or of (N, H) with N a multiple of `PLACES`."""
        places = x.shape[1] if x.dim() == 3 else PLACES
        scale, shift, rest, alpha = self.number_4H.unsqueeze(1).expand(-1, places, -1).flatten(1)
        wide = x.reshape(-1, places * x.shape[-1])
        return (wide * (torch.sigmoid(wide * scale + shift) * rest + alpha)).view(x.shape)


class Sums(NamedTuple):
    """What the columns so far add to each term: (B, ...), or one row where all rows share them.

    `hidden` (B, H): to the first layer's units. `vector` (B, D): to the sum of the vectors. `single` (B,): first order
    less half of the vectors' squares.
    """

    hidden: Tensor
    vector: Tensor
    single: Tensor


class MultipliedDeepFM(DeepFM):
    """A DeepFM in which every column adds its own share to three sums, made by `multiply_out`.

    logit = bias + sum_c single_c + |sum_c v_c|^2 / 2 + deep(sum_c W_c v_c), for the pairs' sum is
    (|sum_c v_c|^2 - sum_c |v_c|^2) / 2, and single_c = w_c - |v_c|^2 / 2 is kept in the first-order table. A number x
    with the vector v adds x (W v) and x v, with W v multiplied in advance: the MLP's first layer reads no numbers.
    """

    number_NH: Tensor
    square_N: Tensor

    def prepare(self) -> None:
        """Compute the products once."""
        weight_HK, vector_ND = self._first_layer().weight.detach(), self.embedding.number
        if vector_ND is not None:
            weight_HND = weight_HK[:, -vector_ND.numel() :].unflatten(1, vector_ND.shape)
            self.register_buffer("number_NH", torch.einsum("hnd,nd->nh", weight_HND, vector_ND.detach()))
            self.register_buffer("square_N", 0.5 * vector_ND.detach().square().sum(1))
        self.first_order.set_submodule("table", ScalarTable(self._singles()))

    def _singles(self) -> Tensor:
        """First order less half of the vector's square for every row of a field; rows of tags enter as means."""
        rows_R = torch.arange(1, 1 + sum(self.schema.size(c.name) for c in self.schema.fields))
        with torch.no_grad():
            single_R = self.first_order.table(torch.arange(self.schema.rows))[:, 0].clone()
            single_R[rows_R] -= 0.5 * self.embedding.table(rows_R).square().sum(1)
        return single_R.half() if isinstance(self.embedding.table, Int8Table) else single_R

    def _first_layer(self) -> nn.Linear:
        layer = self.mlp[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, batch: Batch) -> Tensor:
        """Logits (or ratings), float32 (B,)."""
        return self._logit(self._add(self._nothing(), batch, ROLES))

    def forward_candidates(self, context: Batch, items: Batch) -> Tensor:
        """Logits (N,) of N items for one user in one scene; the context's sums are computed once."""
        shared = self._add(self._nothing(), context, CONTEXT)
        return self._logit(self._add(shared, items, ITEM))

    def item_sums(self, items: Batch) -> Tensor:
        """What items add to the sums of whatever context they are offered in, (N, H + D + 1)."""
        nothing = Sums(*(torch.zeros_like(value) for value in self._nothing()))
        return torch.cat([value.reshape(len(items), -1) for value in self._add(nothing, items, ITEM)], 1)

    def score_ready(self, context: Batch, sums_NK: Tensor) -> Tensor:
        """`score_candidates` of items of which the `item_sums` are known."""
        shared, hidden = self._add(self._nothing(), context, CONTEXT), self._first_layer().out_features
        parts = Sums(sums_NK[:, :hidden], sums_NK[:, hidden:-1], sums_NK[:, -1])
        whole = Sums(*(mine + theirs for mine, theirs in zip(shared, parts, strict=True)))
        return self.to_score(self._logit(whole))

    def _nothing(self) -> Sums:
        """The sums of no columns."""
        return Sums(self._first_layer().bias, torch.zeros(self.embedding.table.embedding_dim), self.bias)

    def _add(self, sums: Sums, batch: Batch, roles: Sequence[Role]) -> Sums:
        """The sums with the columns of `roles`; sums go into products as the term that these are added to."""
        sums = sums if self.embedding.number is None else self._add_numbers(sums, batch.numbers_BN, roles)
        fields_BFD, *tags = self.embedding.look_up(batch, roles)
        looked_BK = torch.cat([fields_BFD, *tags], 1).flatten(1) if tags else fields_BFD.flatten(1)
        single_B = torch.cat(self.first_order.look_up(batch, roles), 1).sum((1, 2))
        for mean_B1D in tags:
            single_B = single_B - 0.5 * mean_B1D.square().sum((1, 2))
        width, dim = looked_BK.shape[1], self.embedding.table.embedding_dim
        places = torch.tensor(self.embedding.flat_places(roles)[:width])
        weight_HK = self._first_layer().weight.index_select(1, places)
        return Sums(
            torch.addmm(sums.hidden, looked_BK, weight_HK.T),
            torch.addmm(sums.vector, looked_BK, torch.eye(dim).repeat(width // dim, 1)),  # quicker than a sum
            sums.single + single_B,
        )

    def _add_numbers(self, sums: Sums, number_BN: Tensor, roles: Sequence[Role]) -> Sums:
        assert self.embedding.number is not None
        assert self.first_order.number is not None
        chosen = [n for n, role in enumerate(self.embedding.number_roles) if role in roles]
        places = torch.tensor(chosen, dtype=torch.int64)
        square_N1 = self.square_N[places].unsqueeze(1)
        single_B1 = number_BN @ self.first_order.number[places] - (number_BN * number_BN) @ square_N1
        return Sums(
            torch.addmm(sums.hidden, number_BN, self.number_NH[places]),
            torch.addmm(sums.vector, number_BN, self.embedding.number[places]),
            sums.single + single_B1.squeeze(1),
        )

    def _logit(self, sums: Sums) -> Tensor:
        x = sums.hidden
        for layer in list(self.mlp)[1:]:
            x = layer(x)
        return sums.single + 0.5 * (sums.vector * sums.vector).sum(1) + self.out(x).squeeze(1)
