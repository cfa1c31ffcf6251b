"""Every dataset passes the leak check; planted leaks are named with their rows, each in data that pass without it."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recsys.data.store
from recsys.config import build_data
from recsys.data.batches import TrainRows
from recsys.data.events import Past
from recsys.data.leaks import LeakError, check_leaks
from recsys.data.module import DataModule, DataSpec
from recsys.data.negatives import NegativeSampler
from recsys.data.split import TEST, TRAIN
from recsys.data.store import Store

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CHOICES = [f"{group}={p.stem}" for group in ("data", "experiment") for p in sorted((CONFIGS / group).glob("*.yaml"))]


def prepare(mapping: dict, cache: Path) -> DataModule:
    data = DataModule(DataSpec.parse(mapping), cache=cache)
    data.prepare_data()
    data.setup()
    return data


def findings(data: DataModule, store: Store | None = None) -> list[str]:
    """What the check says about the data, or about a spoilt copy of its store."""
    try:
        check_leaks(TrainRows(store or data.store), data.spec.tables)
    except LeakError as error:
        first, *lines = str(error).split("\n- ")
        assert first == "the leak check failed:"
        return lines
    return []


def rewrite(tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], name: str = "visits") -> None:
    path = tmp_path / f"{name}.csv"
    change(pd.read_csv(path, keep_default_na=False)).to_csv(path, index=False)


def append(tmp_path: Path, name: str = "visits", **row: object) -> None:
    rewrite(tmp_path, lambda frame: pd.concat([frame, pd.DataFrame([row])]), name)


def counts(data: DataModule) -> tuple[int, int]:
    """Training rows, other rows."""
    train = int((data.store.part_E == TRAIN).sum())
    return train, len(data.store.part_E) - train


def without_time(mapping: dict) -> dict:
    return {key: value for key, value in mapping.items() if key not in ("time", "history")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Where experiments find what was prepared of the same data before."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("choice", CHOICES)
def test_every_dataset_passes(composed, cache, request, caplog, choice):
    cfg = composed(choice, f"cache={cache}")
    if "generate" in cfg.data:
        cfg.data.generate.events = 4000
    else:
        request.getfixturevalue("real_data")
    data = build_data(cfg)
    data.prepare_data()
    data.setup()
    with caplog.at_level(logging.INFO):
        data.check_leaks()
    assert "leak check passed: training rows, encoders, histories, test pairs, negatives, duplicates" in caplog.text


@pytest.mark.parametrize("by", ["time", "leave_one_out", "random"])
def test_small_data_pass_under_every_split(tiny, tmp_path, by):
    assert findings(prepare({**tiny, "split": {"by": by}}, tmp_path / "cache")) == []


def test_the_dataset_that_is_checked_is_the_one_trained_on(tiny, tmp_path):
    data = prepare(tiny, tmp_path / "cache")
    data.check_leaks()
    assert data.train_dataloader().dataset is data.train_rows


def test_training_on_test_rows_is_named(tiny, tmp_path):
    data = prepare(tiny, tmp_path / "cache")
    train, later = counts(data)
    data.train_rows.rows = np.arange(train + later)
    with pytest.raises(LeakError, match=f"training rows: {later} of {train + later} are of valid or test"):
        data.check_leaks()


def test_encoders_fitted_on_all_rows_are_all_named(tiny, tmp_path, monkeypatch):
    assert findings(prepare(tiny, tmp_path / "honest")) == []
    fit = recsys.data.store.fit_encoders
    monkeypatch.setattr("recsys.data.store.fit_encoders", lambda s, e, part_E, _: fit(s, e, np.zeros_like(part_E)))
    data = prepare(tiny, tmp_path / "leaky")
    train, later = counts(data)
    found = findings(data)
    for name in ("shopper", "sku", "shelf", "device"):
        assert sum(f"encoders: the counts of column '{name}' are off by {later} (" in line for line in found) == 1
    assert sum(f"encoders: the buckets of column 'years' are off by {later} (" in line for line in found) == 1
    saw = f"the standardiser of column 'cost' saw {train + later} values; the {train} training rows"
    assert sum(saw in line for line in found) == 1
    assert len(found) == 6, "tags beyond `length` hide what the encoder of `labels` saw; the rest is right"


def build_with(monkeypatch: pytest.MonkeyPatch, change: Callable) -> None:
    """From now on stores are built with `change(build, events, part_E, positive_E, length)` as their histories."""
    build = recsys.data.store.build_histories
    monkeypatch.setattr("recsys.data.store.build_histories", lambda *arguments: change(build, *arguments))


def peek(ahead: float) -> Callable:
    """Histories that reach `ahead` beyond the event."""

    def change(build, events, part_E, positive_E, length):
        user_P, item_P, order_P = (a[positive_E] for a in (events.user_E, events.item_E, events.order_E))
        past = Past(user_P=user_P, item_P=item_P, order_P=order_P)
        return build(dataclasses.replace(events, past=past, order_E=events.order_E + ahead), part_E, positive_E, length)

    return change


@pytest.mark.parametrize("ahead", [0.5, 100])
def test_a_history_with_the_event_itself_or_a_later_one_is_named(tiny, tmp_path, monkeypatch, ahead):
    assert findings(prepare(tiny, tmp_path / "honest")) == []
    build_with(monkeypatch, peek(ahead))
    (line,) = findings(prepare(tiny, tmp_path / "leaky"))
    visits = pd.read_csv(tmp_path / "visits.csv")
    bought = visits[visits["bought"] == 1]
    bad = sum(
        any((bought["shopper"] == v.shopper) & (bought["when"] >= v.when) & (bought["when"] < v.when + ahead))
        for v in visits.itertuples()
    )
    assert f"histories: the event itself or something later in {bad} of {len(visits)} (such as that of row " in line


def test_the_example_names_row_user_and_item(tiny, tmp_path, monkeypatch):
    data = prepare(tiny, tmp_path / "cache")
    row = int(np.flatnonzero(data.store.stop_E > data.store.start_E)[0])
    order_E = np.array(data.store.order_E)
    order_E[row] = data.store.history_order_H[data.store.stop_E[row] - 1]
    visit = pd.read_csv(tmp_path / "visits.csv").iloc[row]
    (line,) = findings(data, dataclasses.replace(data.store, order_E=order_E))
    example = f"row {row}, user {visit['shopper']!r}, item {visit['sku']}"
    assert f"histories: the event itself or something later in 1 of {len(order_E)} (such as that of {example})" in line


def test_a_history_that_reaches_into_another_users_past_is_named(tiny, tmp_path, monkeypatch):
    """The last `length` entries, without a stop at the user's first."""
    honest = prepare(tiny, tmp_path / "honest")
    assert findings(honest) == []

    def reach(build, events, part_E, positive_E, length):
        histories = build(events, part_E, positive_E, length)
        return dataclasses.replace(histories, start_E=(histories.stop_E - length).clip(0))

    build_with(monkeypatch, reach)
    leaky = prepare(tiny, tmp_path / "leaky")
    bad = int((np.asarray(leaky.store.start_E) < honest.store.start_E).sum())
    first = findings(leaky)[0]
    assert first.startswith(f"histories: another user's past in {bad} of {sum(counts(leaky))} (such as that of row ")


def test_a_history_of_another_user_is_named(tiny, tmp_path):
    data = prepare(tiny, tmp_path / "cache")
    store = data.store
    last = len(store.user_E) - 1
    other = next(e for e in range(last) if store.user_E[e] != store.user_E[last] and store.stop_E[e] > store.start_E[e])
    start_E, stop_E = np.array(store.start_E), np.array(store.stop_E)
    start_E[last], stop_E[last] = start_E[other], stop_E[other]
    (line,) = findings(data, dataclasses.replace(store, start_E=start_E, stop_E=stop_E))
    assert f"histories: another user's past in 1 of {last + 1} (such as that of row {last}, " in line


def test_a_history_out_of_order_is_named(tiny, tmp_path):
    """Newest first: then the last entry would not tell that all come before the event."""
    data = prepare(tiny, tmp_path / "cache")
    assert findings(data) == []
    store = data.store
    turned = np.lexsort((-np.asarray(store.history_order_H), store.history_user_H))
    arrays = {name: np.asarray(getattr(store, name))[turned] for name in ("history_H", "history_order_H")}
    planted = dataclasses.replace(store, **arrays)
    orders = [planted.history_order_H[a:b] for a, b in zip(store.start_E, store.stop_E, strict=True)]
    bad = sum(bool((np.diff(order) < 0).any()) for order in orders)
    first = findings(data, planted)[0]
    assert first.startswith(f"histories: entries that are not oldest first in {bad} of {sum(counts(data))} (such as ")


def test_a_history_with_positives_of_a_later_part_is_named(tiny, tmp_path, monkeypatch):
    mapping = {**tiny, "split": {"by": "random"}}
    honest = prepare(mapping, tmp_path / "honest")
    assert findings(honest) == []
    monkeypatch.setattr("recsys.data.history._parts_follow", lambda *_: True)
    (line,) = findings(prepare(mapping, tmp_path / "leaky"))
    visits = pd.read_csv(tmp_path / "visits.csv").assign(part=np.asarray(honest.store.part_E))
    bad = 0
    for visit in visits.itertuples():
        past = visits[(visits["shopper"] == visit.shopper) & (visits["when"] < visit.when) & (visits["bought"] == 1)]
        bad += (past.sort_values("when", kind="stable").tail(4)["part"] > visit.part).any()
    assert f"histories: what is no positive of its own or an earlier part in {bad} of {len(visits)} (" in line


def test_a_history_with_items_that_nobody_took_is_named(tiny, tmp_path):
    data = prepare({**tiny, "split": {"by": "random"}}, tmp_path / "cache")
    assert findings(data) == []
    planted = dataclasses.replace(data.store, label_E=np.zeros_like(data.store.label_E))
    filled = int((data.store.stop_E > data.store.start_E).sum())
    last = findings(data, planted)[-1]
    assert f"histories: what is no positive of its own or an earlier part in {filled} of {sum(counts(data))} (" in last


def test_histories_of_their_own_table(tiny, tmp_path, monkeypatch):
    """Their entries are no events of the behaviour table, whatever the split; later ones are found all the same."""
    rng = np.random.default_rng(2)
    past = {
        "shopper": [f"p{n}" for n in range(30)] * 3,
        "sku": rng.integers(100, 112, 90),
        "when": rng.integers(0, 500, 90),
    }
    pd.DataFrame(past).to_csv(tmp_path / "past.csv", index=False)
    mapping = {**tiny, "split": {"by": "random"}}
    mapping["tables"] = {**tiny["tables"], "history": {"path": str(tmp_path / "past.csv")}}
    data = prepare(mapping, tmp_path / "honest")
    assert findings(data) == []

    def peek_ahead(build, events, *given):
        return build(dataclasses.replace(events, order_E=events.order_E + 9), *given)

    build_with(monkeypatch, peek_ahead)
    (line,) = findings(prepare(mapping, tmp_path / "leaky"))
    visits, past = pd.read_csv(tmp_path / "visits.csv"), pd.DataFrame(past)
    bad = sum(
        any((past["shopper"] == v.shopper) & (past["when"] >= v.when) & (past["when"] < v.when + 9))
        for v in visits.itertuples()
    )
    assert f"histories: the event itself or something later in {bad} of {len(visits)} (" in line


@pytest.fixture
def once(tiny: dict, tmp_path: Path) -> dict:
    """Implicit data in which nobody takes an item twice; the last event of each user is left out."""
    rewrite(tmp_path, lambda v: v.drop_duplicates(["shopper", "sku"]).head(200))
    return {**tiny, "label": {"kind": "implicit"}, "split": {"by": "leave_one_out"}}


@pytest.mark.parametrize(("earlier", "leaks"), [(1, False), (0, True), (-1, True)])
def test_a_test_pair_in_training_is_named_unless_it_comes_later(once, tmp_path, earlier, leaks):
    """Bug: leave one out refused a user who took an item again, though every repeat is a later event."""
    data = prepare(once, tmp_path / "honest")
    assert findings(data) == []
    rewrite(tmp_path, lambda v: v.assign(split=np.array(["train", "valid", "test"])[data.store.part_E]))
    visits = pd.read_csv(tmp_path / "visits.csv")
    row = int(np.flatnonzero(data.store.part_E == TEST)[0])
    visit = visits.iloc[row]
    other = {"phone": "desk", "desk": "phone"}[visit["device"]]
    append(tmp_path, **{**visit, "when": visit["when"] - earlier, "device": other, "split": "train"})
    lines = findings(prepare({**once, "split": {"by": "column"}}, tmp_path / "leaky"))
    assert len(lines) == leaks
    example = f"row {row}, user {visit['shopper']!r}, item {visit['sku']}"
    rows = f"1 of {counts(data)[1]} valid and test rows"
    assert all(f"test pairs: a user and item of training in {rows} (such as {example})" in line for line in lines)


def test_repeats_are_counted_for_ratings_and_are_events_of_their_own_for_binary_labels(tiny, tmp_path):
    mapping = {**tiny, "label": {"kind": "rating", "column": "bought"}, "split": {"by": "random"}}
    data = prepare(mapping, tmp_path / "cache")
    visits = pd.read_csv(tmp_path / "visits.csv").assign(train=data.store.part_E == TRAIN)
    last = visits[visits["train"]].groupby(["shopper", "sku"])["when"].max().to_dict()
    later = visits[~visits["train"]].itertuples()
    repeats = sum(visit.when <= last.get((visit.shopper, visit.sku), -1) for visit in later)
    (line,) = findings(data)
    assert f"test pairs: a user and item of training in {repeats} of {counts(data)[1]} valid and test rows (" in line
    assert findings(prepare({**tiny, "split": {"by": "random"}}, tmp_path / "cache")) == []


def test_users_may_take_items_again_where_their_last_event_is_left_out(tiny, tmp_path):
    data = prepare({**tiny, "label": {"kind": "implicit"}, "split": {"by": "leave_one_out"}}, tmp_path / "cache")
    key_E = data.store.user_E * 12 + data.store.item_E
    assert np.isin(key_E[data.store.part_E == TEST], key_E[data.store.part_E == TRAIN]).any()
    assert findings(data) == []


@pytest.mark.parametrize("timed", [True, False])
def test_a_repeat_is_a_later_event_only_where_the_parts_follow_in_a_declared_time(once, tmp_path, timed):
    """The same rows in the same order: without a declared time, the order of rows says nothing about when."""
    rewrite(tmp_path, lambda v: v.assign(split=np.repeat(["train", "valid", "test"], [160, 20, 20])))
    visits = pd.read_csv(tmp_path / "visits.csv")
    append(tmp_path, **{**visits.iloc[0], "when": 999, "split": "test"})
    mapping = {**once, "split": {"by": "column"}}
    lines = findings(prepare(mapping if timed else without_time(mapping), tmp_path / "cache"))
    assert any("test pairs: a user and item of training in 1 of 41 " in line for line in lines) is not timed


def test_a_sampler_of_all_rows_is_named(once, tmp_path, monkeypatch):
    """One item, 112, is met in the last event only; each user with three events has two unknown to training."""
    append(tmp_path, "goods", sku=112, shelf="a", cost=0.5, labels="x")
    append(tmp_path, shopper="p0", sku=112, when=999, bought=1, device="desk")
    data = prepare(once, tmp_path / "cache")
    assert findings(data) == []

    def sampler_of_all_rows(self):
        return NegativeSampler(self.store.user_E, self.store.item_E, users=self.store.users)

    monkeypatch.setattr(TrainRows, "_make_sampler", sampler_of_all_rows)
    pool, users = findings(data)
    assert pool.startswith("negatives: the sampler's items differ from those of the training rows by 1 (such as item ")
    events = pd.read_csv(tmp_path / "visits.csv")["shopper"].value_counts()
    assert f"free items are not those of the training rows for {(events >= 3).sum()} of 30 users (such as " in users


APART = {"when": 77, "device": "tv", "paid": 5.5, "notes": "q", "bought": 0}


@pytest.fixture
def parted(tiny: dict, tmp_path: Path) -> dict:
    """Parts by a column, drawn at random; scene columns of every kind."""
    rng = np.random.default_rng(3)
    parts = lambda n: rng.choice(["train", "valid", "test"], n, p=[0.8, 0.1, 0.1])  # noqa: E731
    rewrite(tmp_path, lambda v: v.assign(split=parts(len(v)), paid=1.5, notes="n|m"))
    scene = {"paid": {"role": "scene", "kind": "number"}, "notes": {"role": "scene", "kind": "tags"}}
    append(tmp_path, shopper="p0", sku=100, when=76, bought=1, device="desk", split="train", paid=1.5, notes="n|m")
    append(tmp_path, shopper="p1", sku=101, split="train", **APART)
    return {**tiny, "columns": tiny["columns"] | scene, "split": {"by": "column"}}


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("timed", [True, False])
def test_a_row_in_two_parts_is_named(parted, tmp_path, timed, part):
    mapping = parted if timed else without_time(parted)
    data = prepare(mapping, tmp_path / "honest")
    assert findings(data) == []
    append(tmp_path, **{**pd.read_csv(tmp_path / "visits.csv").iloc[-2], "split": part})
    (line,) = findings(prepare(mapping, tmp_path / "leaky"))
    last = len(pd.read_csv(tmp_path / "visits.csv")) - 1
    rows = f"1 of {counts(data)[1] + 1} valid and test rows"
    assert f"duplicates: {rows} stand in an earlier part as well (such as row {last}, user 'p0', item 100)" in line


@pytest.mark.parametrize("column", APART)
def test_rows_that_differ_in_one_column_are_different_events(parted, tmp_path, column):
    row = pd.read_csv(tmp_path / "visits.csv").iloc[-2]
    append(tmp_path, **{**row, "split": "test", column: APART[column]})
    assert findings(prepare(parted, tmp_path / "cache")) == []


def test_a_row_in_two_parts_may_be_kept_with_a_warning(parted, tmp_path, caplog):
    append(tmp_path, **{**pd.read_csv(tmp_path / "visits.csv").iloc[-2], "split": "test"})
    parted["tables"]["behaviour"]["duplicates"] = "keep"
    for mapping in (without_time(parted), parted):
        caplog.clear()
        assert findings(prepare(mapping, tmp_path / "cache")) == []
        assert "1 of " in caplog.text
        assert "valid and test rows stand in an earlier part as well (such as row " in caplog.text


@pytest.mark.parametrize("column", ["device", "notes"])
def test_rows_with_values_unknown_to_training_are_no_duplicates(parted, tmp_path, column):
    """Bug: the store holds one id for all rare and unseen values, so that different rows looked equal."""
    row = pd.read_csv(tmp_path / "visits.csv").iloc[-2]
    for part, value in (("valid", "radio"), ("test", "watch")):
        append(tmp_path, **{**row, "split": part, column: value})
    assert findings(prepare(parted, tmp_path / "cache")) == []
