"""Rows scored without the padding of their histories: the past items of all rows stand one behind the other.

Letters: B rows, L history length, T tags, N places of past items, D their vectors' length, H units of a layer.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.data.batches import Batch
from recsys.layers.attention import LocalActivationUnit
from recsys.models.din import DIN
from recsys.schema import PADDING, FeatureSchema, history_name

PLACES = 16  # the number of places is a multiple of it
ROW = "places/row"  # the name, among a packed batch's lists, of the row that each place belongs to


class PackedDIN(DIN):
    """A DIN that also scores packed batches, made by `multiply_out`."""

    def score_packed(self, batch: Batch) -> Tensor:
        """What `score` gives for the batch before `pack`, float32 (B,)."""
        query_BD, key_ND, mask_N = self.history(batch, self.embedding.table)
        interest_BD = interest(self.attention, query_BD, key_ND, mask_N, batch.lists[ROW])
        return self.to_score(self.logits(batch, query_BD, interest_BD))


def interest(attention: LocalActivationUnit, query_BD: Tensor, key_ND: Tensor, mask_N: Tensor, row_N: Tensor) -> Tensor:
    """The attention's weighted sums (B, D) of past items that each belong to a row; keys outside the mask are zeros."""
    query_ND, linear_NH = query_BD.index_select(0, row_N), attention.query(query_BD).index_select(0, row_N)
    first_NH = attention.first(query_ND, linear_NH, key_ND)
    if attention.softmax:
        weight_ND = _softmax(attention.weigh(first_NH), mask_N, row_N, query_BD.shape[0]).unsqueeze(1)
    else:  # each weight D times, for ONNX Runtime multiplies equal shapes several times as fast
        out, dim = attention.out, key_ND.shape[1]
        weight_ND = F.linear(attention.last_hidden(first_NH), out.weight.expand(dim, -1), out.bias.expand(dim))
    return torch.zeros_like(query_BD).index_put((row_N,), weight_ND * key_ND, accumulate=True)


def _softmax(weight_N: Tensor, mask_N: Tensor, row_N: Tensor, rows: int) -> Tensor:
    """The softmax of the weights of each row's places, (N,)."""
    least = torch.finfo(weight_N.dtype).min
    weight_N = weight_N.masked_fill(~mask_N, least)
    top_B = torch.full((rows,), least).scatter_reduce(0, row_N, weight_N, "amax")
    weight_N = (weight_N - top_B[row_N]).exp() * mask_N
    sum_B = torch.zeros(rows).index_put((row_N,), weight_N, accumulate=True)
    return weight_N / sum_B.clamp(min=1)[row_N]  # at least 1 where a row has places, for the top one adds 1


def pack(batch: Batch, schema: FeatureSchema) -> Batch:
    """The batch with its histories by place: categories (N,) and tags (N, T), with the row of each place, int64 (N,).

    Behind them stand 1 to `PLACES` places of padding, which belong to row 0.
    """
    histories = {history_name(c.name): batch.lists[history_name(c.name)] for c in schema.histories}
    masks = [ids != PADDING for ids in histories.values()]
    real_BL = torch.stack([mask if mask.dim() == 2 else mask.any(2) for mask in masks]).any(0)
    row_N, place_N = real_BL.nonzero(as_tuple=True)
    more = PLACES - len(row_N) % PLACES
    packed = {ROW: F.pad(row_N, (0, more))}
    for name, ids in histories.items():
        packed[name] = F.pad(ids[row_N, place_N], (*(0, 0) * (ids.dim() - 2), 0, more))
    return replace(batch, lists=batch.lists | packed)
