"""A request says once what its rows repeat."""

import torch

from export.graph import example_batch
from recsys.data.request import join, split, take_roles
from recsys.schema import ITEM


def test_a_request_stands_for_its_context_beside_every_item(every_role):
    batch = example_batch(every_role, rows=5, length=4)
    context, items = split(batch, every_role)
    joined = join(context, items, every_role)
    for ids_B, joined_B, column in zip(batch.ids_BF.T, joined.ids_BF.T, every_role.fields, strict=True):
        assert torch.equal(joined_B, ids_B if column.role == "item" else ids_B[:1].expand(5)), column.name
    for value_B, joined_B, column in zip(batch.numbers_BN.T, joined.numbers_BN.T, every_role.numbers, strict=True):
        assert torch.equal(joined_B, value_B if column.role == "item" else value_B[:1].expand(5)), column.name
    assert joined.lists.keys() == batch.lists.keys()
    for name, ids in batch.lists.items():
        expected = ids if name == "tags" else ids[:1].expand(5, *ids.shape[1:])
        assert torch.equal(joined.lists[name], expected), name


def test_the_context_is_one_row_and_the_items_know_nothing_of_it(every_role):
    context, items = split(example_batch(every_role, rows=5, length=4), every_role)
    assert (len(context), len(items)) == (1, 5)
    assert context.ids_BF.shape == (1, len(every_role.fields) - items.ids_BF.shape[1])
    assert set(context.lists) == {"hobbies", "history.item", "history.category", "history.tags"}
    assert set(items.lists) == {"tags"}


def test_the_columns_of_a_role_keep_the_schemas_order(every_role):
    batch = example_batch(every_role, rows=3, length=2)
    names = [c.name for c in every_role.fields]
    items = take_roles(batch, every_role, ITEM)
    assert torch.equal(items.ids_BF, batch.ids_BF[:, [names.index("item"), names.index("category")]])
