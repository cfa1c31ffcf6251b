"""One embedding table for all columns, and what is looked up in it.

Letters: B rows, F id fields, N numbers, L history length, T tags, D embedding dimension, C history columns.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.schema import CONTEXT, ITEM, PADDING, ROLES, FeatureSchema, Role, history_name

if TYPE_CHECKING:
    from recsys.data.batches import Batch


class Table(nn.Embedding):
    """An embedding table of `rows` normal vectors; row 0 is padding, and `zero` lists rows that start at zero.

    With `sparse`, the gradient holds the looked-up rows only (for optimizers that accept sparse gradients). In
    training, every look-up adds `l2` * (sum of its squared vectors) / B to `penalty`: only touched rows are pulled
    to zero, each as often as it is used. Whoever computes the loss adds the penalty and clears it.

    Every process holds all rows of a `replicated` table, and the same.
    """

    replicated = True

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

    def forward(self, ids: Tensor, *, padded: bool = True) -> Tensor:
        """Vectors (..., D) of ids (B, ...). If none is padding, `padded=False` spares the gradient a search for it."""
        vectors = self.fetch(ids, padded=padded)
        if self.training and self.l2:
            self.penalty = self.penalty + self.l2 * vectors.square().sum() / ids.shape[0]
        return vectors

    def fetch(self, ids: Tensor, *, padded: bool = True) -> Tensor:
        """The same without penalty."""
        if self.training and self.sparse and not padded:
            return _LookUp.apply(self.weight, ids)
        return F.embedding(ids, self.weight, PADDING if padded else None, sparse=self.sparse)

    def sum(self, ids_BF: Tensor) -> Tensor:
        """The sum of vectors (B, D) over the last dimension of `ids_BF`, none of which is padding, in one kernel."""
        if self.training and self.l2:
            return self(ids_BF, padded=False).sum(1)
        return F.embedding_bag(ids_BF, self.weight, mode="sum", sparse=self.sparse)

    def mean(self, ids_BT: Tensor) -> Tensor:
        """The mean vector (..., D) over the last dimension of `ids_BT`, without padding; zeros if all is padding."""
        count_B = (ids_BT != PADDING).sum(-1, keepdim=True).clamp(min=1)
        if self.training and self.l2:  # the penalty is one of B rows
            return self(ids_BT).sum(-2) / count_B
        return self(ids_BT.movedim(-1, 0)).sum(0) / count_B  # the first dimension is the quickest to sum over


class _LookUp(torch.autograd.Function):
    """`F.embedding` with a sparse gradient, by the kernel of bags, which fetches rows ahead: half the time on a CPU.

    On an H200 0.6 instead of 1.0 ms for 1.7 million rows of 16 numbers: torch's own kernel is made for wide rows.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor) -> Tensor:
        row_N = ids.reshape(-1)
        ctx.save_for_backward(row_N)
        ctx.shape = weight.shape
        vectors = F.embedding_bag(row_N, weight, torch.arange(len(row_N), device=ids.device), mode="sum")
        return vectors.view(*ids.shape, weight.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (row_N,) = ctx.saved_tensors
        values_ND = grad.reshape(-1, grad.shape[-1])
        return torch.sparse_coo_tensor(row_N.unsqueeze(0), values_ND, ctx.shape, check_invariants=False), None


class FeatureEmbedding(nn.Module):
    """Every column of a batch as one vector: id fields, then tags (their mean), then numbers (value * vector).

    All columns share one table. Rows of unseen values start at zero: a value without training says nothing.
    With `history`, each history column is one of the user's tags: the mean vector of all past values.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        embedding_dim: int,
        *,
        std: float = 0.1,
        sparse: bool = False,
        l2: float = 0.0,
        history: bool = False,
    ) -> None:
        super().__init__()
        if history and schema.history is None:
            raise ValueError(
                "`model.history` needs the users' histories; declare `data.history` with its columns, or set "
                "model.history=false."
            )
        past = schema.histories if history else ()
        unseen = [schema.offset(c.name) for c in (*schema.fields, *schema.tags)]
        self.table = Table(schema.rows, embedding_dim, unseen, std=std, sparse=sparse, l2=l2)
        self.tags: list[tuple[str, Role]] = [(c.name, c.role) for c in schema.tags]
        self.tags += [(history_name(c.name), "user") for c in past]
        self.number_roles = [c.role for c in schema.numbers]
        self.number = None
        if schema.numbers:
            self.number = nn.Parameter(torch.randn(len(schema.numbers), embedding_dim) * std)
        self.roles = [*(c.role for c in schema.fields), *(role for _, role in self.tags), *self.number_roles]
        self.columns = len(self.roles)
        self.reads = frozenset((*(c.name for c in schema.columns), *(name for name, _ in self.tags)))

    def forward(self, batch: "Batch", roles: Sequence[Role] = ROLES) -> Tensor:
        """Vectors (B, columns, D) of all columns; of those of `roles` alone where the batch holds no others."""
        parts = self.look_up(batch, roles)
        if self.number is not None:
            number = self.number if len(roles) == len(ROLES) else self.number[_places(self.number_roles, roles)]
            parts.append(batch.numbers_BN.unsqueeze(-1) * number)
        return torch.cat(parts, dim=1)

    def look_up(self, batch: "Batch", roles: Sequence[Role] = ROLES) -> list[Tensor]:
        """The vectors that come from the table: the fields' (B, F, D), then each tags column's (B, 1, D)."""
        means = [self._mean(batch, name).unsqueeze(1) for name, role in self.tags if role in roles]
        return [self.table(batch.ids_BF, padded=False), *means]

    def _mean(self, batch: "Batch", name: str) -> Tensor:
        """The mean vector (B, D) of a list; that of a history of tags is over all tags of all its places."""
        return self.table.mean(batch.lists[name].flatten(1))

    def looked_up(self, batch: "Batch") -> Tensor:
        """The same in one, (B, F + tags, D)."""
        parts = self.look_up(batch)
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def sum(self, batch: "Batch") -> Tensor:
        """The sum of all columns' vectors, (B, D)."""
        total_BD = self.table.sum(batch.ids_BF)
        for name, _ in self.tags:
            total_BD = total_BD + self._mean(batch, name)
        return total_BD if self.number is None else total_BD + (batch.numbers_BN.unsqueeze(-1) * self.number).sum(1)

    def places(self, roles: Sequence[Role]) -> list[int]:
        """Where the columns of `roles` stand among all columns."""
        return _places(self.roles, roles)

    def flat_places(self, roles: Sequence[Role]) -> list[int]:
        """Where those columns' values stand in the flattened vectors, (B, columns * D)."""
        dim = self.table.embedding_dim
        return [place * dim + d for place in self.places(roles) for d in range(dim)]


def _places(of_columns: Sequence[Role], roles: Sequence[Role]) -> list[int]:
    return [place for place, role in enumerate(of_columns) if role in roles]


class PairEmbedding(nn.Module):
    """The user's and the item's vector, from a table that holds nothing else."""

    position: Tensor
    shift: Tensor

    def __init__(
        self, schema: FeatureSchema, embedding_dim: int, *, std: float = 0.1, sparse: bool = False, l2: float = 0.0
    ) -> None:
        super().__init__()
        names = [c.name for c in schema.fields]
        for key in (schema.user, schema.item):
            if key not in names:
                raise ValueError(f"the model needs the key column {key!r} among `data.columns` (kind category).")
        positions = [names.index(key) for key in (schema.user, schema.item)]
        users = schema.size(schema.user)
        self.shifts = [1 - schema.offset(schema.user), 1 + users - schema.offset(schema.item)]
        self.register_buffer("position", torch.tensor(positions), persistent=False)  # a list would wait for the device
        self.register_buffer("shift", torch.tensor(self.shifts), persistent=False)
        self.reads = frozenset((schema.user, schema.item))
        self.user_position = _position(schema, schema.user, CONTEXT)
        self.item_position = _position(schema, schema.item, ITEM)
        rows = 1 + users + schema.size(schema.item)
        self.table = Table(rows, embedding_dim, [1, 1 + users], std=std, sparse=sparse, l2=l2)

    def forward(self, batch: "Batch") -> Tensor:
        """Vectors (B, 2, D): the user's, the item's."""
        return self.table(batch.ids_BF.index_select(1, self.position) + self.shift, padded=False)

    def user(self, context: "Batch") -> Tensor:
        """The user's vector (B, D) alone, from a batch of user and scene columns."""
        return self.table(context.ids_BF[:, self.user_position] + self.shifts[0])

    def item(self, items: "Batch") -> Tensor:
        """The items' vectors (B, D) alone, from a batch of item columns."""
        return self.table(items.ids_BF[:, self.item_position] + self.shifts[1])


def _position(schema: FeatureSchema, name: str, roles: Sequence[Role]) -> int:
    """Where an id field stands in a batch that holds the columns of `roles` only."""
    return [c.name for c in schema.fields if c.role in roles].index(name)


class HistoryEmbedding(nn.Module):
    """A history and the candidate item in the same columns, from a given shared table."""

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        if schema.history is None:
            raise ValueError("the model reads histories; declare `data.history` with its columns.")
        self.columns = [c.name for c in schema.histories]
        fields = [c.name for c in schema.histories if c.is_field]
        self.reads = frozenset((*self.columns, *map(history_name, self.columns)))
        self.positions = {name: _position(schema, name, ROLES) for name in fields}
        self.item_positions = {name: _position(schema, name, ITEM) for name in fields}

    def forward(self, batch: "Batch", table: Table) -> tuple[Tensor, Tensor, Tensor]:
        """The candidate (B, C*D), the past items (B, L, C*D) and which places are real, bool (B, L)."""
        query, keys, masks = [], [], []
        for name in self.columns:
            query.append(self._candidate(batch, table, name, self.positions))
            key, mask = self._past(batch, table, name)
            keys.append(key)
            masks.append(mask)
        return torch.cat(query, -1), torch.cat(keys, -1), _any(masks)

    def candidates(self, items: "Batch", table: Table) -> Tensor:
        """The candidates (B, C*D) alone, from a batch of item columns."""
        return torch.cat([self._candidate(items, table, name, self.item_positions) for name in self.columns], -1)

    def past(self, context: "Batch", table: Table) -> tuple[Tensor, Tensor]:
        """The past items (B, L, C*D) and which places are real, bool (B, L), from a batch with histories."""
        keys, masks = zip(*(self._past(context, table, name) for name in self.columns), strict=True)
        return torch.cat(keys, -1), _any(masks)

    def _candidate(self, batch: "Batch", table: Table, name: str, positions: dict[str, int]) -> Tensor:
        return table(batch.ids_BF[:, positions[name]]) if name in positions else table.mean(batch.lists[name])

    def _past(self, batch: "Batch", table: Table, name: str) -> tuple[Tensor, Tensor]:
        ids = batch.lists[history_name(name)]
        real = ids != PADDING
        return (table(ids), real) if name in self.positions else (table.mean(ids), real.any(-1))


def _any(masks: Sequence[Tensor]) -> Tensor:
    found = masks[0]
    for mask in masks[1:]:
        found = found | mask
    return found
