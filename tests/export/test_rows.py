"""What a shop would send for its events, against the shop's own tables read by pandas."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from export.rows import RawRows, plain, raw_array, tag_matrix
from export.vocabularies import MISSING_INT
from recsys.data.module import DataModule, DataSpec
from recsys.data.split import VALID

TYPES = {
    "shopper": "string",
    "years": "float",
    "sku": "int64",
    "shelf": "string",
    "grade": "int64",
    "cost": "float",
    "labels": "string",
    "codes": "int64",
    "device": "string",
    "when": "int64",
    "history.sku": "int64",
    "history.shelf": "string",
    "history.labels": "string",
    "history.codes": "int64",
}
LENGTH = 4


def session(*names: str) -> Any:
    """What `RawRows` asks of a graph: its inputs' names and types."""
    return SimpleNamespace(
        get_inputs=lambda: [SimpleNamespace(name=name, type=f"tensor({TYPES[name]})") for name in names]
    )


@pytest.fixture
def shop(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The tiny shop with missing values of every kind, integer codes, and times in milliseconds."""
    goods = pd.read_csv(tmp_path / "goods.csv")
    goods["grade"] = pd.array([5, 9, None] * 4, dtype="Int64")
    goods["codes"] = ["7|8", "8", "", "9|7|8"] * 3
    goods.loc[2:3, "shelf"] = None
    goods.loc[4:5, "cost"] = None
    goods.to_csv(tmp_path / "goods.csv", index=False)
    visits = pd.read_csv(tmp_path / "visits.csv")
    visits["when"] = visits["when"] * 1000 + 1_700_000_000_123
    visits.loc[7:9, "device"] = None
    visits.to_csv(tmp_path / "visits.csv", index=False)
    columns = {
        **tiny["columns"],
        "cost": {"role": "item", "kind": "number", "fill": 2.5},
        "grade": {"role": "item", "kind": "category"},
        "codes": {"role": "item", "kind": "tags", "length": 3, "fill": 7},
        "hour": {"role": "scene", "kind": "category", "part": "hour"},
    }
    history = {"columns": ["sku", "shelf", "labels", "codes"], "length": LENGTH}
    return {**tiny, "columns": columns, "time": {"column": "when", "unit": "ms"}, "history": history}


@pytest.fixture
def raw(shop: dict[str, Any], tmp_path: Path) -> RawRows:
    data = DataModule(DataSpec.parse(shop), cache=tmp_path / "cache")
    data.prepare_data()
    data.setup()
    return RawRows.read(data)


@pytest.fixture
def tables(shop: dict[str, Any], tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Visits, goods by sku and people by name, as they lie on the disk."""
    goods, people = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("goods", "people"))
    return pd.read_csv(tmp_path / "visits.csv"), goods.set_index("sku"), people.set_index("shopper")


def words(cell: Any) -> list[str]:
    return [] if pd.isna(cell) else str(cell).split("|")


def texts(values: pd.Series) -> list[str]:
    return values.fillna("").tolist()


def test_every_column_is_that_of_the_tables(raw, tables):
    visits, goods, people = tables
    rows = np.random.default_rng(0).permutation(len(visits))[:200]
    names = [name for name in TYPES if not name.startswith("history.")]
    feed = raw.feed(session(*names), rows)
    visit = visits.iloc[rows]
    good = goods.loc[visit["sku"]]
    assert list(feed) == names
    assert feed["shopper"].tolist() == visit["shopper"].tolist()
    assert feed["sku"].tolist() == visit["sku"].tolist()
    assert feed["when"].tolist() == visit["when"].tolist()
    assert feed["device"].tolist() == texts(visit["device"])
    np.testing.assert_array_equal(feed["years"], people["years"].loc[visit["shopper"]].astype("float32"))
    assert feed["shelf"].tolist() == texts(good["shelf"])
    np.testing.assert_array_equal(feed["cost"], good["cost"].fillna(2.5).astype("float32"))
    assert feed["grade"].tolist() == [MISSING_INT if pd.isna(g) else int(g) for g in good["grade"]]
    assert plain({"labels": feed["labels"]})["labels"] == [words(cell) for cell in good["labels"]]
    codes = [list(map(int, words(cell))) or [7] for cell in good["codes"]]
    assert plain({"codes": feed["codes"]})["codes"] == codes
    kinds = {name: values.dtype for name, values in feed.items()}
    assert {kinds[name] for name, kind in TYPES.items() if kind == "string" and name in kinds} == {np.dtype(object)}
    assert kinds["years"] == kinds["cost"] == np.float32
    assert kinds["codes"] == kinds["when"] == np.int64


def past_of(visits: pd.DataFrame, row: int) -> list[int]:
    """The goods that the visitor of a row bought strictly before, the latest ones."""
    now = visits.iloc[row]
    before = visits[(visits["shopper"] == now["shopper"]) & (visits["when"] < now["when"]) & (visits["bought"] == 1)]
    return before.sort_values("when", kind="stable")["sku"].tolist()[-LENGTH:]


def test_histories_are_the_earlier_purchases_with_their_attributes(raw, tables):
    visits, goods, _ = tables
    rows = np.arange(0, len(visits), 7)
    names = [name for name in TYPES if name.startswith("history.")]
    feed = raw.feed(session(*names), rows)
    past = [past_of(visits, row) for row in rows]
    assert max(map(len, past)) == LENGTH
    assert [] in past
    shelf = {sku: None if pd.isna(value) else value for sku, value in goods["shelf"].items()}
    labels = {sku: words(cell) for sku, cell in goods["labels"].items()}
    codes = {sku: list(map(int, words(cell))) or [7] for sku, cell in goods["codes"].items()}
    assert None in shelf.values()
    assert [] in labels.values()
    of_item = {"sku": {sku: sku for sku in goods.index}, "shelf": shelf, "labels": labels, "codes": codes}
    for name, values in plain(feed).items():
        of = of_item[name.removeprefix("history.")]
        assert values == [[of[sku] for sku in skus] for skus in past], name
    assert feed["history.shelf"].dtype == feed["history.labels"].dtype == object
    assert feed["history.codes"].dtype == feed["history.sku"].dtype == np.int64


def test_rows_without_any_history_hold_one_missing_item(raw, tables):
    first = np.flatnonzero(~tables[0]["shopper"].duplicated())[:2]
    feed = raw.feed(session("history.sku", "history.labels"), first)
    assert feed["history.sku"].tolist() == [[MISSING_INT]] * 2
    assert feed["history.labels"].shape[:2] == (2, 1)
    assert plain(feed) == {"history.sku": [[], []], "history.labels": [[], []]}


def test_other_items_bring_their_own_columns_and_nothing_else(raw, tables):
    _, goods, _ = tables
    rows, items = np.array([5, 90, 200]), np.array([0, 11, 4])
    names = ("shopper", "sku", "cost", "labels", "device", "history.sku")
    own, other = raw.feed(session(*names), rows), raw.feed(session(*names), rows, items)
    assert other["sku"].tolist() == goods.index[items].tolist()
    np.testing.assert_array_equal(other["cost"], goods["cost"].iloc[items].fillna(2.5).astype("float32"))
    assert plain(other)["labels"] == [words(cell) for cell in goods["labels"].iloc[items]]
    for name in ("shopper", "device", "history.sku"):
        np.testing.assert_array_equal(other[name], own[name])


def test_a_request_is_one_event_and_items_by_key(raw, tables):
    visits, goods, _ = tables
    inputs = session("shopper", "when", "history.sku")
    own = [SimpleNamespace(name=name, type="tensor(int64)") for name in ("candidates", "seen_items", "k")]
    asked = SimpleNamespace(get_inputs=lambda: [*inputs.get_inputs(), *own])
    row = len(visits) - 1
    feed = raw.request(asked, row, np.array([3, 3, 0]), 2)
    assert feed["candidates"].tolist() == feed["seen_items"].tolist() == goods.index[[3, 3, 0]].tolist()
    assert feed["k"].tolist() == [2]
    assert feed["shopper"].tolist() == [visits["shopper"].iloc[row]]
    assert feed["history.sku"].tolist() == [past_of(visits, row)]


def test_examples_are_validation_rows_as_many_as_asked_for(raw, tables):
    visits = tables[0][["shopper", "sku"]]
    valid = set(visits[raw.store.part_E == VALID].itertuples(index=False, name=None))
    for count in (5, 300):
        feed = raw.example(session("shopper", "sku"), count)
        found = list(zip(feed["shopper"], feed["sku"], strict=True))
        assert len(found) == count
        assert set(found) <= valid
    assert len(set(found)) > 0.9 * len(valid)  # drawn from all of them
    asked = [SimpleNamespace(name=name, type="tensor(int64)") for name in ("candidates", "k")]
    request = raw.example(SimpleNamespace(get_inputs=lambda: asked), 300)
    assert len(request["candidates"]) == 300


def test_cleaned_columns_as_inputs():
    whole = raw_array(pd.Series([3, None, -(2**62)], dtype="Int64"), np.int64)
    assert whole.tolist() == [3, MISSING_INT, -(2**62)]
    assert raw_array(pd.Series(["a", None], dtype="str"), np.str_).tolist() == ["a", ""]
    np.testing.assert_array_equal(raw_array(pd.Series([0.5, None]), np.float32), np.array([0.5, np.nan], "float32"))
    lists = pd.Series(pd.array(pa.array([["x", "y"], None, ["z"], []]), dtype=pd.ArrowDtype(pa.list_(pa.string()))))
    assert tag_matrix(lists, np.str_).tolist() == [["x", "y"], ["", ""], ["z", ""], ["", ""]]
    assert tag_matrix(lists[1:2], np.str_).tolist() == [[""]]


def test_plain_values_are_those_that_people_write():
    feed = {
        "text": np.array(["a", ""], dtype=object),
        "whole": np.array([0, MISSING_INT]),
        "number": np.array([0.5, np.nan], "float32"),
        "tags": np.array([["x", ""], ["", "y"]], dtype=object),
    }
    expected = {"text": ["a", None], "whole": [0, None], "number": [0.5, None], "tags": [["x"], ["y"]]}
    assert plain(feed) == expected


def test_histories_keep_a_place_for_every_item_whatever_is_known_of_it():
    """Bug: an item without tags, or without a shelf, was left out, and the next took its place."""
    feed = {
        "history.sku": np.array([[7, 8, 9], [7, MISSING_INT, MISSING_INT]]),
        "history.shelf": np.array([["a", "", ""], ["", "", ""]], dtype=object),
        "history.tags": np.array([[["", ""], ["x", ""], ["", ""]], [["", ""]] * 3], dtype=object),
    }
    assert plain(feed) == {
        "history.sku": [[7, 8, 9], [7]],
        "history.shelf": [["a", None, None], [None]],
        "history.tags": [[[], ["x"], []], [[]]],
    }
