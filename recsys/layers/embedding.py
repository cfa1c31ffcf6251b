"""One embedding table for all columns, and what is looked up in it.

Letters: B rows, F id fields, N numbers, L history length, T tags, D embedding dimension, C history columns.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recsys.schema import PADDING, FeatureSchema, history_name

if TYPE_CHECKING:
    from recsys.data.batches import Batch


class Table(nn.Embedding):
    """An embedding table of `rows` normal vectors; row 0 is padding, and `zero` lists rows that start at zero.

    With `sparse`, the gradient holds the looked-up rows only (for optimizers that accept sparse gradients). In
    training, every look-up adds `l2` * (sum of its squared vectors) / B to `penalty`: only touched rows are pulled
    to zero, each as often as it is used. Whoever computes the loss adds the penalty and clears it.
    """

    def __init__(
        self, rows: int, embedding_dim: int, zero: Sequence[int], *, std: float, sparse: bool, l2: float
    ) -> None:
        if embedding_dim < 1:
            raise ValueError(f"`embedding_dim` must be at least 1, got {embedding_dim}.")
        if not l2 >= 0:
            raise ValueError(f"`embedding_l2` must not be negative, got {l2}.")
        if not std >= 0:
            raise ValueError(f"`embedding_std` must not be negative, got {std}.")
        super().__init__(rows, embedding_dim, padding_idx=PADDING, sparse=sparse)
        nn.init.normal_(self.weight, std=std)
        with torch.no_grad():
            self.weight[[PADDING, *zero]] = 0.0
        self.l2 = l2
        self.penalty: Tensor | float = 0.0

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (..., D) of ids (...)."""
        vectors = super().forward(ids)
        if self.training and self.l2:
            self.penalty = self.penalty + self.l2 * vectors.square().sum() / ids.shape[0]
        return vectors

    def mean(self, ids_BT: Tensor) -> Tensor:
        """The mean vector (..., D) over the last dimension of `ids_BT`, without padding; zeros if all is padding."""
        count_B = (ids_BT != PADDING).sum(-1, keepdim=True).clamp(min=1)
        return self(ids_BT).sum(-2) / count_B


class FeatureEmbedding(nn.Module):
    """Every column of a batch as one vector: id fields, then tags (their mean), then numbers (value * vector).

    All columns share one table. Rows of unseen values start at zero: a value without training says nothing.
    """

    def __init__(
        self, schema: FeatureSchema, embedding_dim: int, *, std: float = 0.1, sparse: bool = False, l2: float = 0.0
    ) -> None:
        super().__init__()
        unseen = [schema.offset(c.name) for c in (*schema.fields, *schema.tags)]
        self.table = Table(schema.rows, embedding_dim, unseen, std=std, sparse=sparse, l2=l2)
        self.tags = [c.name for c in schema.tags]
        self.number = None
        if schema.numbers:
            self.number = nn.Parameter(torch.randn(len(schema.numbers), embedding_dim) * std)
        self.columns = len(schema.fields) + len(schema.tags) + len(schema.numbers)

    def forward(self, batch: "Batch") -> Tensor:
        """Vectors of all columns, (B, columns, D)."""
        parts = [self.table(batch.ids_BF)]
        parts += [self.table.mean(batch.lists[name]).unsqueeze(1) for name in self.tags]
        if self.number is not None:
            parts.append(batch.numbers_BN.unsqueeze(-1) * self.number)
        return torch.cat(parts, dim=1)


class PairEmbedding(nn.Module):
    """The user's and the item's vector, from a table that holds nothing else."""

    shift: Tensor

    def __init__(
        self, schema: FeatureSchema, embedding_dim: int, *, std: float = 0.1, sparse: bool = False, l2: float = 0.0
    ) -> None:
        super().__init__()
        names = [c.name for c in schema.fields]
        for key in (schema.user, schema.item):
            if key not in names:
                raise ValueError(f"the model needs the key column {key!r} among `data.columns` (kind category).")
        self.positions = [names.index(key) for key in (schema.user, schema.item)]
        users = schema.size(schema.user)
        shift = [1 - schema.offset(schema.user), 1 + users - schema.offset(schema.item)]
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        rows = 1 + users + schema.size(schema.item)
        self.table = Table(rows, embedding_dim, [1, 1 + users], std=std, sparse=sparse, l2=l2)

    def forward(self, batch: "Batch") -> Tensor:
        """Vectors (B, 2, D): the user's, the item's."""
        return self.table(batch.ids_BF[:, self.positions] + self.shift)


class HistoryEmbedding(nn.Module):
    """A history and the candidate item in the same columns, from a given shared table."""

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        if schema.history is None:
            raise ValueError("the model reads histories; declare `data.history` with its columns.")
        names = [c.name for c in schema.fields]
        self.columns = [(c.name, names.index(c.name) if c.is_field else None) for c in schema.histories]

    def forward(self, batch: "Batch", table: Table) -> tuple[Tensor, Tensor, Tensor]:
        """The candidate (B, C*D), the past items (B, L, C*D) and which places are real, bool (B, L)."""
        query, keys, masks = [], [], []
        for name, position in self.columns:
            ids = batch.lists[history_name(name)]
            if position is None:
                query.append(table.mean(batch.lists[name]))
                keys.append(table.mean(ids))
                masks.append((ids != PADDING).any(-1))
            else:
                query.append(table(batch.ids_BF[:, position]))
                keys.append(table(ids))
                masks.append(ids != PADDING)
        return torch.cat(query, -1), torch.cat(keys, -1), _any(masks)


def _any(masks: Sequence[Tensor]) -> Tensor:
    found = masks[0]
    for mask in masks[1:]:
        found = found | mask
    return found
