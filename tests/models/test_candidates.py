"""What a request's candidates share is computed once."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from export.core import example_batch
from recsys.data.request import join, split
from recsys.models.base import Recommender
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.mf import MF
from recsys.models.ncf import NCF
from recsys.schema import FeatureSchema


def multiplications(model: Recommender, schema: FeatureSchema, count: int, length: int = 6) -> int:
    """Multiplications in matrix products for `count` candidates."""
    context, items = split(example_batch(schema, rows=count, length=length), schema)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval().forward_candidates(context, items)
    return counter.get_total_flops() // 2


def test_a_candidate_more_costs_deepfm_the_items_part_of_the_first_layer(every_role):
    model = DeepFM(every_role, embedding_dim=8, hidden=[32, 16])
    item_columns = 4  # item, category, tags, price
    per_candidate = item_columns * 8 * 32 + 32 * 16 + 16 * 1 + 8  # the MLP, and FM's pairs across
    assert multiplications(model, every_role, 9) - multiplications(model, every_role, 8) == per_candidate


def test_a_candidate_more_costs_ncf_the_items_part_of_the_first_layer(every_role):
    model = NCF(every_role, embedding_dim=8, mlp_embedding_dim=4, hidden=[32, 16])
    per_candidate = 4 * 32 + 32 * 16 + (8 + 16)
    assert multiplications(model, every_role, 9) - multiplications(model, every_role, 8) == per_candidate


def test_a_candidate_more_costs_din_no_projection_of_the_history(every_role):
    model = DIN(every_role, embedding_dim=2, hidden=[32, 16], attention_hidden=[10, 5])
    interest = 3 * 2  # three history columns
    attention = 6 * (interest * 10 + 10 * 5 + 5) + 6 * interest  # the query's own part is in the first product
    per_candidate = attention + (4 * 2 + 2 * interest) * 32 + 32 * 16 + 16
    assert multiplications(model, every_role, 9) - multiplications(model, every_role, 8) == per_candidate


def test_a_candidate_more_costs_mf_one_dot_product(every_role):
    model = MF(every_role, embedding_dim=8)
    assert multiplications(model, every_role, 9) - multiplications(model, every_role, 8) == 8 + 2


@pytest.mark.parametrize("role", ["user", "item"])
def test_columns_may_all_be_of_one_side(role):
    columns = {name: {"role": role, "kind": "category"} for name in ("a", "b")}
    schema = FeatureSchema.parse(
        {
            "user": "user",
            "item": "item",
            "label": {"kind": "binary", "column": "clicked"},
            "columns": columns,
            "sizes": {"a": 5, "b": 5},
        }
    )
    model = DeepFM(schema, embedding_dim=4, hidden=[8]).eval()
    context, items = split(example_batch(schema, rows=6, length=0), schema)
    torch.testing.assert_close(model.forward_candidates(context, items), model(join(context, items, schema)))
