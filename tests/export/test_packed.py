"""Histories one behind the other: what they hold, and that a model scores them as it scores padded ones."""

from dataclasses import replace

import pytest
import torch

from export.core import example_batch
from export.multiply_out import multiply_out
from export.packed import PLACES, ROW, PackedDIN, pack
from recsys.data.batches import Batch
from recsys.models.din import DIN
from recsys.schema import PADDING, FeatureSchema


def with_gaps(schema: FeatureSchema, seed: int, share: float, length: int = 7) -> Batch:
    """A batch of which every place of a history is padding with a probability of 1 - `share`, in all columns alike."""
    batch = example_batch(schema, rows=5, length=length, seed=seed)
    keep_BL = torch.rand(5, length, generator=torch.Generator().manual_seed(seed)) < share
    histories = {name: ids for name, ids in batch.lists.items() if name.startswith("history.")}
    blanked = {
        name: torch.where(keep_BL.view(5, length, *(1,) * (ids.dim() - 2)), ids, PADDING)
        for name, ids in histories.items()
    }
    return replace(batch, lists=batch.lists | blanked)


@pytest.mark.parametrize("length", [1, 7, 16])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_every_real_place_is_there_once_in_its_row(schema, share, length):
    batch = with_gaps(schema, 5, share, length)
    packed = pack(batch, schema)
    row_N = packed.lists[ROW]
    assert len(row_N) % PLACES == 0
    for name in ("history.item", "history.category", "history.tags"):
        ids = packed.lists[name]
        assert len(ids) == len(row_N)
        for row in range(len(batch)):
            of_row, before = ids[row_N == row], batch.lists[name][row]
            assert torch.equal(of_row[of_row != PADDING], before[before != PADDING])


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_packed_histories_score_as_padded_ones(schema, softmax, share):
    torch.manual_seed(0)
    model = DIN(schema, softmax=softmax, attention_hidden=[24, 8], hidden=[16]).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        model.embedding.table.weight[PADDING] = 0.0
    ready, batch = multiply_out(model), with_gaps(schema, 3, share)
    assert isinstance(ready, PackedDIN)
    torch.testing.assert_close(ready.score_packed(pack(batch, schema)), model.score(batch), atol=1e-5, rtol=0)
