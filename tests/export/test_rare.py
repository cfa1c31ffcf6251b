"""Rows of rare values: other values keep their scores, rare ones take the score of unseen ones."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from export.rare import min_count_for, prune_rows
from recsys.data.batches import Batch
from recsys.data.encoders import Encoders, Standardiser, Vocabulary
from recsys.data.events import Events, load_events
from recsys.data.module import DataSpec
from recsys.data.split import split_events
from recsys.data.store import encode_side, open_store, write_store
from recsys.models.base import Recommender
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.mf import MF
from recsys.models.ncf import NCF
from recsys.schema import ROLES, FeatureSchema, history_name

RARE = 8


@pytest.fixture
def shop(tiny: dict[str, Any], tmp_path: Path) -> tuple[Events, FeatureSchema, Encoders]:
    """The tiny shop's events, and what was fitted on its training rows."""
    spec = DataSpec.parse(tiny)
    events = load_events(spec.tables, spec.schema, None)
    write_store(tmp_path / "store", spec.schema, events, split_events(spec.split, events))
    store = open_store(tmp_path / "store")
    return events, store.schema, store.encoders


@pytest.fixture(params=[MF, NCF, DeepFM, DIN])
def model(request: pytest.FixtureRequest, shop: tuple[Events, FeatureSchema, Encoders]) -> Recommender:
    torch.manual_seed(0)
    model = request.param(shop[1])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model.eval()


def scores(model: Recommender, encoders: Encoders, events: Events) -> Tensor:
    """From raw values to scores; every row's history is its own item, then the first."""
    frames = {"user": events.users, "item": events.items, "scene": events.scene.frame()}
    sides = {role: encode_side(model.schema, encoders, frames[role], role) for role in ROLES}
    at = {"user": events.user_E, "item": events.item_E, "scene": np.arange(len(events.user_E))}
    ids = np.concatenate([sides[role].ids[at[role]] for role in ROLES], 1).astype("int64")
    numbers = np.concatenate([sides[role].numbers[at[role]] for role in ROLES], 1)
    tags = {name: t[at[role]].astype("int64") for role in ROLES for name, t in sides[role].tags.items()}
    lists = {name: torch.from_numpy(values) for name, values in tags.items()}
    fields = [c.name for c in model.schema.fields]
    past = np.stack([events.item_E, np.zeros_like(events.item_E)], 1)
    for column in model.schema.histories:
        own = ids[:, fields.index(column.name)] if column.is_field else tags[column.name]
        first = own[np.flatnonzero(events.item_E == 0)[:1]].repeat(len(past), 0)
        lists[history_name(column.name)] = torch.from_numpy(np.stack([own, first], 1))
    batch = Batch(torch.from_numpy(ids), torch.from_numpy(numbers), lists, torch.zeros(len(ids)))
    with torch.no_grad():
        return model.score(batch)


def rare_values(encoders: Encoders, column: str) -> list[Any]:
    vocabulary = encoders.columns[column]
    assert isinstance(vocabulary, Vocabulary)
    return [v for v, count in zip(vocabulary.values, vocabulary.counts, strict=True) if count < RARE]


def test_common_values_keep_their_scores_and_rare_ones_are_unseen(model, shop):
    events, schema, encoders = shop
    rare = rare_values(encoders, "shopper")
    assert 3 < len(rare) < 25
    pruned, fewer = prune_rows(model, encoders, RARE)
    assert pruned.schema.rows == model.schema.rows - sum(
        len(rare_values(encoders, n)) for n in schema.sizes if n != "years"
    )
    assert (pruned.schema.encoders, pruned.schema.sizes) == (fewer.fingerprint, fewer.sizes())
    before, after = scores(model, encoders, events), scores(pruned, fewer, events)
    is_rare = events.users["shopper"].isin(rare).to_numpy()[events.user_E]
    torch.testing.assert_close(after[~is_rare], before[~is_rare], atol=1e-6, rtol=0)
    strangers = events.users.assign(shopper=events.users["shopper"].where(~events.users["shopper"].isin(rare), "new"))
    as_new = scores(pruned, fewer, dataclasses.replace(events, users=strangers))
    assert torch.equal(after[is_rare], as_new[is_rare])
    assert torch.equal(before[is_rare], as_new[is_rare]) is False


def test_kept_rows_are_the_common_values_own(shop):
    _, schema, encoders = shop
    common = np.array(encoders.columns["shopper"].counts) >= RARE
    model = MF(schema)
    before = model.factors.table.weight.detach()
    after = prune_rows(model, encoders, RARE)[0].factors.table.weight.detach()
    assert torch.equal(after[:2], before[:2])
    assert torch.equal(after[2 : 2 + common.sum()], before[2 : 2 + len(common)][torch.from_numpy(common)])


def test_nothing_changes_below_the_counts_that_are_there(model, shop):
    events, schema, encoders = shop
    pruned, fewer = prune_rows(model, encoders, 1)
    assert pruned.schema == schema
    assert torch.equal(scores(pruned, fewer, events), scores(model, encoders, events))


def test_min_count_for_is_the_least_that_fits(shop):
    encoders = shop[2]

    def rows(min_count: int) -> int:
        total = 1
        for encoder in encoders.columns.values():
            if isinstance(encoder, Vocabulary):
                total += 1 + sum(count >= min_count for count in encoder.counts)
            elif not isinstance(encoder, Standardiser):
                total += encoder.size
        return total

    least = rows(10**9)
    for target in range(least, rows(1) + 3):
        expected = next(m for m in range(1, 10**4) if rows(m) <= target)
        assert min_count_for(encoders, target) == expected
    with pytest.raises(ValueError, match=rf"`rows` must be at least {least}.*got {least - 1}"):
        min_count_for(encoders, least - 1)


def test_min_count_for_counts_only_values_that_have_rows():
    vocabulary = Vocabulary.fit(pd.Series(list("aaabbc")), min_count=2)
    assert min_count_for(Encoders(columns={"letter": vocabulary}), 4) == 1
    assert min_count_for(Encoders(columns={"letter": vocabulary}), 3) == 3


def test_other_encoders_and_a_bad_count_are_refused(shop):
    _, schema, encoders = shop
    model = MF(schema)
    with pytest.raises(ValueError, match="`encoders` are not the model's own"):
        prune_rows(model, prune_rows(model, encoders, RARE)[1], 2)
    with pytest.raises(ValueError, match="`min_count` must be at least 1, got 0"):
        prune_rows(model, encoders, 0)
