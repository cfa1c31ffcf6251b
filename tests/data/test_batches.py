"""Batches against the raw tables, row by row; samplers; candidates; negatives."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.batches import GROUP, InOrder, Rows, Shuffled, TrainRows, make_batch
from recsys.data.candidates import EXCLUDED, Candidates, FewCandidates
from recsys.data.module import DataModule, DataSpec
from recsys.data.split import TEST, TRAIN, VALID
from recsys.data.store import Store


def opened(mapping: dict, cache: Path) -> Store:
    data = DataModule(DataSpec.parse(mapping), cache=cache)
    data.prepare_data()
    data.setup()
    return data.store


def vocabulary(store: Store, column: str) -> dict:
    """Global id of every value, by hand from the saved JSON form."""
    fitted = store.encoders.to_dict()[column]
    return {value: store.schema.offset(column) + 1 + n for n, value in enumerate(fitted["values"])}


@pytest.mark.parametrize("reads", [set(), {"labels"}, {"history.sku"}, {"sku", "history.labels", "history.shelf"}])
def test_a_batch_holds_the_lists_that_are_read_and_everything_else(tiny, tmp_path, reads):
    rows = TrainRows(opened(tiny, tmp_path))
    whole = rows[np.arange(20), (0,)]
    rows.reads = reads
    some = rows[np.arange(20), (0,)]
    assert set(some.lists) == reads & set(whole.lists)
    assert all(torch.equal(ids, whole.lists[name]) for name, ids in some.lists.items())
    assert torch.equal(some.ids_BF, whole.ids_BF)
    assert torch.equal(some.numbers_BN, whole.numbers_BN)


def test_a_batch_equals_a_row_by_row_join(tiny, tmp_path):
    store = opened(tiny, tmp_path)
    visits, goods = pd.read_csv(tmp_path / "visits.csv"), pd.read_csv(tmp_path / "goods.csv", keep_default_na=False)
    rows = Rows(store, TEST)
    batch = rows[np.arange(len(rows))]
    fields = [c.name for c in store.schema.fields]
    assert fields == ["shopper", "years", "sku", "shelf", "device"]
    ids = {name: vocabulary(store, name) for name in ("shopper", "sku", "shelf", "device", "labels")}
    goods = goods.set_index("sku")
    train = visits.iloc[Rows(store, TRAIN).rows]
    cost = goods["cost"][train["sku"]]
    for at, row in enumerate(rows.rows):
        visit = visits.iloc[row]
        good = goods.loc[visit["sku"]]
        for name, value in (("shopper", visit["shopper"]), ("sku", visit["sku"]), ("shelf", good["shelf"])):
            expected = ids[name].get(value, store.schema.offset(name))
            assert batch.ids_BF[at, fields.index(name)].item() == expected
        expected_cost = (good["cost"] - cost.mean()) / cost.std(ddof=0)
        assert batch.numbers_BN[at, 0].item() == pytest.approx(expected_cost, abs=1e-5)
        tags = [ids["labels"].get(t, store.schema.offset("labels")) for t in good["labels"].split("|") if t][:2]
        assert batch.lists["labels"][at].tolist() == tags + [0] * (2 - len(tags))
        assert batch.label_B[at].item() == visit["bought"]
        past = visits[
            (visits["shopper"] == visit["shopper"]) & (visits["when"] < visit["when"]) & (visits["bought"] == 1)
        ]
        known = [ids["sku"].get(s, store.schema.offset("sku")) for s in past["sku"]][-4:]
        assert batch.lists["history.sku"][at].tolist()[: len(known)] == known
        assert not batch.lists["history.sku"][at, len(known) :].any()
        assert batch.lists["history.labels"].shape[1:] == (batch.lists["history.sku"].shape[1], 2)


def test_a_batch_without_any_history_is_one_place_of_padding(tiny, tmp_path):
    store = opened(tiny, tmp_path)
    first = Rows(store, TRAIN)[np.array([0])]
    assert first.lists["history.sku"].tolist() == [[0]]


blocks = st.one_of(st.none(), st.integers(1, 9))


@settings(max_examples=80, deadline=None)
@given(count=st.integers(1, 60), size=st.integers(1, 9), world=st.integers(1, 3), seed=st.integers(0, 9), block=blocks)
def test_shuffled_gives_every_rank_its_share_of_a_fresh_permutation(count, size, world, seed, block):
    ranks = [Shuffled(count, size, seed=seed, rank=r, world=world, block=block) for r in range(world)]
    epochs = []
    for epoch in (0, 1):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        drawn = [[rows for rows, _ in sampler] for sampler in ranks]
        assert all(len(d) == len(s) for d, s in zip(drawn, ranks, strict=True))
        assert all(min(2, size, count // world) <= len(rows) <= size for d in drawn for rows in d)
        every = np.concatenate([rows for d in drawn for rows in d] or [np.empty(0, int)])
        assert len(np.unique(every)) == len(every) >= min(count - count % world, count - 2 * world + 1)
        epochs.append(every)
    if count > 20 and len(epochs[0]) > 20:
        assert not np.array_equal(*epochs)
    keys = {key for s in ranks for _, key in s}
    assert len(keys) == sum(map(len, ranks))


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 3), st.integers(0, 30), blocks)
def test_shuffled_goes_on_where_it_stopped(count, size, world, done, block):
    options = {"seed": 3, "rank": world - 1, "world": world, "block": block}
    whole, rest = (Shuffled(count, size, start=(2, n), **options) for n in (0, done))
    assert len(whole) == len(rest)
    for epoch in (2, 3):
        for sampler in (whole, rest):
            sampler.set_epoch(epoch)
        expected = list(whole)[done if epoch == 2 else 0 :]
        assert [(rows.tolist(), key) for rows, key in rest] == [(rows.tolist(), key) for rows, key in expected]


@given(st.integers(200, 4000), st.integers(2, 12), st.integers(0, 9))
def test_blocks_keep_few_rows_in_use(count, block, seed):
    """Any stretch of the epoch as long as a group touches two groups' blocks at most, and the rows of one are mixed."""
    order = np.concatenate([rows for rows, _ in Shuffled(count, 10, seed=seed, block=block)])
    group = GROUP * block
    for start in range(0, len(order), 37):
        assert len(np.unique(order[start : start + group] // block)) <= 2 * GROUP
    assert (np.diff(order[:group]) == 1).mean() < 0.5
    assert count < 4 * group or order[:group].max() >= group, "blocks are taken from all over the table"


@given(st.integers(20, 300), st.integers(1, 9), st.integers(2, 3), blocks)
def test_ranks_share_the_batches_of_one_process(count, size, world, block):
    ranks = [Shuffled(count, size, seed=5, rank=r, world=world, block=block) for r in range(world)]
    alone = Shuffled(count, size * world, seed=5, block=block)
    for (batch, _), *shares in zip(alone, *ranks, strict=False):
        np.testing.assert_array_equal(np.sort(np.concatenate([rows for rows, _ in shares])), np.sort(batch))


@settings(max_examples=50, deadline=None)
@given(units=st.integers(0, 60), unit=st.integers(1, 5), size=st.integers(1, 9), world=st.integers(1, 3))
def test_in_order_covers_every_position_once_in_equal_steps_and_whole_units(units, unit, size, world):
    ranks = [InOrder(units * unit, size, unit=unit, rank=r, world=world) for r in range(world)]
    steps = [list(sampler) for sampler in ranks]
    assert len({len(s) for s in steps}) == 1
    assert {len(s) for s in steps} == {len(sampler) for sampler in ranks}
    shares = [np.concatenate([np.empty(0, int), *s]) for s in steps]
    assert all(len(share) % unit == 0 for share in shares)
    assert np.concatenate(shares).tolist() == list(range(units * unit))
    assert all(len(rows) <= size for s in steps for rows in s)
    alone = [rows.tolist() for rows in InOrder(units * unit, size, unit=unit) if len(rows)]
    assert [rows.tolist() for s in steps for rows in s if len(rows)] == alone


@pytest.fixture
def tiny_implicit(tiny: dict, tmp_path: Path) -> dict:
    """The first visits only, so that nobody has taken everything."""
    pd.read_csv(tmp_path / "visits.csv").head(200).to_csv(tmp_path / "visits.csv", index=False)
    return {**tiny, "label": {"kind": "implicit", "negatives": 3}, "split": {"by": "leave_one_out"}}


def test_negatives_follow_their_positive_and_bring_their_own_attributes(tiny_implicit, tmp_path):
    store = opened(tiny_implicit, tmp_path)
    rows = TrainRows(store)
    index_B = np.arange(20)
    batch = rows[index_B, (0, 0)]
    assert len(batch) == 20 * 4
    assert batch.label_B.view(-1, 4).tolist() == [[1.0, 0.0, 0.0, 0.0]] * 20
    sku, shelf = 2, 3
    shelf_of = {int(s): int(h) for s, h in store.sides["item"].ids[:, [0, 1]]}
    assert all(shelf_of[int(row[sku])] == int(row[shelf]) for row in batch.ids_BF)
    user_GK = batch.ids_BF[:, 0].view(-1, 4)
    assert (user_GK == user_GK[:, :1]).all()
    known = {(int(u), int(i)) for u, i in Rows(store, TRAIN)[np.arange(len(rows))].ids_BF[:, [0, sku]]}
    negatives = batch.ids_BF.view(20, 4, -1)[:, 1:].reshape(60, -1)
    assert not {(int(r[0]), int(r[sku])) for r in negatives} & known


def test_negatives_are_fresh_each_epoch_and_repeatable(tiny_implicit, tmp_path):
    train = TrainRows(opened(tiny_implicit, tmp_path))
    index_B = np.arange(50)
    first, again, later = (train[index_B, key].ids_BF for key in ((0, 0, 0, 0), (0, 0, 0, 0), (0, 1, 0, 0)))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_users_who_took_everything_are_left_out_with_a_warning(tiny_implicit, tmp_path, caplog):
    visits = pd.read_csv(tmp_path / "visits.csv")
    glutton = pd.DataFrame({"shopper": "p0", "sku": range(100, 112), "when": 0, "bought": 1, "device": "desk"})
    pd.concat([glutton, visits]).to_csv(tmp_path / "visits.csv", index=False)
    store = opened(tiny_implicit, tmp_path)
    rows = TrainRows(store)
    assert not (store.user_E[rows.rows] == store.user_E[0]).any()
    assert (
        f"{int((store.user_E[Rows(store, TRAIN).rows] == store.user_E[0]).sum())} training rows left out" in caplog.text
    )


def test_candidates_are_all_items_with_seen_ones_excluded(tiny, tmp_path):
    store = opened(tiny, tmp_path)
    visits = pd.read_csv(tmp_path / "visits.csv")
    candidates = Candidates(store, TEST)
    batch = candidates[np.arange(len(candidates))]
    label_QI = batch.label_B.view(-1, 12)
    earlier = visits.iloc[np.flatnonzero(np.asarray(store.part_E) < TEST)]
    test = visits.iloc[np.flatnonzero(np.asarray(store.part_E) == TEST)]
    liked = test[test["bought"] == 1]
    seen = set(zip(earlier["shopper"], earlier["sku"], strict=True))
    expected_users = sorted({u for u, i in zip(liked["shopper"], liked["sku"], strict=True) if (u, i) not in seen})
    assert len(candidates.rows_Q) == len(expected_users) > 0
    for row, labels in zip(candidates.rows_Q, label_QI.tolist(), strict=True):
        shopper = visits.iloc[row]["shopper"]
        mine = liked[liked["shopper"] == shopper]
        new = [i for i in mine["sku"] if (shopper, i) not in seen]
        for sku, label in zip(range(100, 112), labels, strict=True):
            assert label == (EXCLUDED if (shopper, sku) in seen else float(sku in new))
        first = mine[mine["sku"].isin(new)].index[0]
        assert row == first, "the query is the first event with something to find"


def few(store, part, count, *, given=False):
    queries = FewCandidates(store, part, count, given=given)
    batch = queries[np.arange(len(queries))]
    shape = (len(queries.rows_Q), queries.width)
    return queries, batch, batch.label_B.view(shape).numpy(), queries.item_QC


def test_sampled_candidates_are_new_to_the_user_and_the_same_every_time(tiny_implicit, tmp_path):
    store = opened(tiny_implicit, tmp_path)
    queries, _, label_QC, item_QC = few(store, TEST, 4)
    assert queries.note == "[4 sampled]"
    assert (label_QC == np.where(item_QC < 0, EXCLUDED, [1.0, 0.0, 0.0, 0.0, 0.0])).all()
    met = set(zip(store.user_E.tolist(), store.item_E.tolist(), strict=True))
    for row, items in zip(queries.rows_Q, item_QC, strict=True):
        user = int(store.user_E[row])
        assert items[0] == store.item_E[row]
        assert not {(user, int(i)) for i in items[1:]} & met
    np.testing.assert_array_equal(few(store, TEST, 4)[3], item_QC)


def test_sampled_candidates_are_all_different(tiny_implicit, tmp_path):
    """Bug: they were drawn with replacement, so a list of 99 held fewer items; now short ones hold all there are."""
    store = opened(tiny_implicit, tmp_path)
    queries, *_, item_QC = few(store, TEST, 11)
    met = {u: set(store.item_E[store.user_E == u].tolist()) for u in set(store.user_E.tolist())}
    for row, items in zip(queries.rows_Q, item_QC, strict=True):
        others = sorted(items[1:].tolist())
        free = sorted(set(range(12)) - met[int(store.user_E[row])])
        assert others == [-1] * (11 - len(free)) + free


def test_queries_of_users_who_met_every_item_are_left_out(tiny_implicit, tmp_path, caplog):
    """Bug: the error spoke of training rows and negatives, though the whole catalogue could be ranked."""
    visits = {"shopper": np.repeat(["p0", "p1"], 12), "sku": [*range(100, 112)] * 2, "when": [*range(12)] * 2}
    visits = pd.DataFrame(visits).assign(bought=1, device="desk")
    visits.iloc[:-1].to_csv(tmp_path / "visits.csv", index=False)
    queries = few(opened(tiny_implicit, tmp_path / "cache"), TEST, 4)[0]
    assert len(queries.rows_Q) == 1
    assert "1 of 2 test queries left out: their users have met every item" in caplog.text
    visits.to_csv(tmp_path / "visits.csv", index=False)
    store = opened(tiny_implicit, tmp_path / "cache")
    assert len(Candidates(store, TEST).rows_Q) == 2
    with pytest.raises(ValueError, match="the users of all 2 test queries have met every item, so there is nothing to"):
        FewCandidates(store, TEST, 4, given=False)


def test_training_without_any_negative_is_refused(tiny_implicit, tmp_path):
    visits = {"shopper": "p0", "sku": [100, 101, 102], "when": range(3), "bought": 1, "device": "desk"}
    pd.DataFrame(visits).to_csv(tmp_path / "visits.csv", index=False)
    with pytest.raises(ValueError, match="every user is positive with all 1 items of the training rows"):
        TrainRows(opened(tiny_implicit, tmp_path))


def test_a_query_stands_for_every_liked_event_and_keeps_its_scene_and_history(tiny, tmp_path):
    store = opened(tiny, tmp_path)
    queries, batch, _, _ = few(store, TEST, 3)
    seen = set(zip(*(a[store.part_E < TEST].tolist() for a in (store.user_E, store.item_E)), strict=True))
    liked = np.flatnonzero((store.part_E == TEST) & store.liked_E)
    new = [e for e in liked if (int(store.user_E[e]), int(store.item_E[e])) not in seen]
    met_by = np.bincount(np.unique(store.user_E.astype("int64") * 12 + store.item_E) // 12)
    new = [e for e in new if met_by[store.user_E[e]] < 12]
    assert queries.rows_Q.tolist() == new
    assert len(new) > len(Candidates(store, TEST).rows_Q)
    own = make_batch(store, store.user_E[new], store.item_E[new], np.array(new), np.ones(len(new)))
    assert torch.equal(batch.ids_BF[:: queries.width], own.ids_BF)


def test_given_candidates_are_used_in_the_test_and_named(tiny_implicit, tmp_path, caplog):
    lists = {"p1": [100, 101, 102], "p2": [103], "stranger": [100], "p3": [999]}
    given = pd.DataFrame([(u, i) for u, items in lists.items() for i in items], columns=["shopper", "sku"])
    given.to_csv(tmp_path / "given.csv", index=False)
    tiny_implicit["tables"]["candidates"] = {"path": str(tmp_path / "given.csv")}
    store = opened(tiny_implicit, tmp_path)
    kept = {e["rule"]: e["rows"] for e in store.cleaning["entries"] if e["table"] == "candidates"}
    assert kept == {"user not in table `users`": 1, "item not in table `items`": 1}
    queries, _, label_QC, item_QC = few(store, TEST, 4, given=True)
    assert queries.note == "[3 given]"
    found = len(Candidates(store, TEST).rows_Q)  # leave one out: an event a user
    left_out = f"{found - len(queries.rows_Q)} of {found} test queries left out: their users are given no candidates"
    assert left_out in caplog.text, "Bug: they vanished in silence."
    assert few(store, TEST, 4)[0].note == "[4 sampled]"
    name = dict(enumerate(f"p{n}" for n in range(30)))
    assert {name[int(store.user_E[row])] for row in queries.rows_Q} <= {"p1", "p2"}
    for row, items, labels in zip(queries.rows_Q, item_QC, label_QC, strict=True):
        wanted = [i - 100 for i in lists[name[int(store.user_E[row])]]]
        assert items[1:].tolist() == wanted + [-1] * (3 - len(wanted))
        assert (labels[1:][items[1:] == -1] == EXCLUDED).all()
        assert labels[0] == 1


def test_to_moves_every_tensor(tiny, tmp_path):
    batch = Rows(opened(tiny, tmp_path), VALID)[np.arange(4)].to("meta")
    tensors = [batch.ids_BF, batch.numbers_BN, batch.label_B, *batch.lists.values()]
    assert {t.device.type for t in tensors} == {"meta"}
