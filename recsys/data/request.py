"""One user in one scene and N candidate items: a batch in two parts, of which each says its things once.

The *context* is a batch of one row with the user's and the scene's columns and the histories; the *items* are a batch
of N rows with the items' columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.data.batches import Batch
from recsys.schema import CONTEXT, ITEM, FeatureSchema, Role, history_name


def take_roles(batch: Batch, schema: FeatureSchema, roles: Sequence[Role]) -> Batch:
    """The columns of `roles` alone, the histories with the user's."""
    fields = [place for place, column in enumerate(schema.fields) if column.role in roles]
    numbers = [place for place, column in enumerate(schema.numbers) if column.role in roles]
    names = [c.name for c in schema.tags if c.role in roles]
    if "user" in roles:
        names += [history_name(c.name) for c in schema.histories]
    lists = {name: batch.lists[name] for name in names}
    return Batch(batch.ids_BF[:, fields], batch.numbers_BN[:, numbers], lists, batch.label_B)


def split(batch: Batch, schema: FeatureSchema) -> tuple[Batch, Batch]:
    """The context of a batch's first row, and the items of all its rows."""
    lists = {name: ids[:1] for name, ids in batch.lists.items()}
    first = Batch(batch.ids_BF[:1], batch.numbers_BN[:1], lists, batch.label_B[:1])
    return take_roles(first, schema, CONTEXT), take_roles(batch, schema, ITEM)


def join(context: Batch, items: Batch, schema: FeatureSchema) -> Batch:
    """The rows that a request stands for: the context beside each of the N items, with the items' labels."""
    count = items.ids_BF.shape[0]
    users, user_numbers = (sum(c.role == "user" for c in columns) for columns in (schema.fields, schema.numbers))
    return Batch(
        _between(context.ids_BF.expand(count, -1), items.ids_BF, users),
        _between(context.numbers_BN.expand(count, -1), items.numbers_BN, user_numbers),
        {name: ids.expand(count, *ids.shape[1:]) for name, ids in context.lists.items()} | items.lists,
        items.label_B,
    )


def _between(outer: Tensor, inner: Tensor, place: int) -> Tensor:
    """The columns of `inner` between those of `outer`, before the one at `place`."""
    return torch.cat([outer[:, :place], inner, outer[:, place:]], 1)
