import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.events import load_events
from recsys.data.tables import SPLIT_COLUMN, TableSet
from recsys.declare import declare
from recsys.schema import FeatureSchema

CATEGORY = {"kind": "category", "role": "scene"}


@pytest.fixture
def load(tmp_path):
    """Load tables given as {name: {column: cells}}, written as CSV, or as Parquet with `parquet`."""

    def load(tables, schema=None, options=None, parquet=False, split_column=None):
        declared = {}
        for name, columns in tables.items():
            path = tmp_path / f"{name}.{'parquet' if parquet else 'csv'}"
            frame = pa.table(columns)
            pq.write_table(frame, path) if parquet else frame.to_pandas().to_csv(path, index=False)
            declared[name] = {"path": str(path), **((options or {}).get(name, {}))}
        about = {"user": "user", "item": "item", "label": {"kind": "implicit"}, **(schema or {})}
        about["columns"] = {"user": {"role": "user", "kind": "category"}, **about.get("columns", {})}
        return load_events(declare(TableSet, declared, "tables"), FeatureSchema.parse(about), split_column)

    return load


def keys_of(events):
    return list(zip(events.users["user"][events.user_E], events.items["item"][events.item_E], strict=True))


def test_events_point_into_users_and_items(load):
    pairs = [("b", 3), ("a", 1), ("b", 2), ("c", 3)]
    behaviour = {"user": [u for u, _ in pairs], "item": [i for _, i in pairs]}
    items = {"item": [3, 2, 1, 7], "brand": ["x", "y", "z", "w"]}
    schema = {"columns": {"brand": {"role": "item", "kind": "category"}}}
    events = load({"behaviour": behaviour, "items": items}, schema)
    assert keys_of(events) == pairs
    assert events.items["brand"][events.item_E].tolist() == ["x", "z", "y", "x"]
    assert events.items["item"].tolist() == [3, 2, 1, 7]  # items without an event stay
    assert events.users["user"].tolist() == ["a", "b", "c"]
    assert events.order_E.tolist() == [0, 1, 2, 3]
    assert events.time_E is None


@pytest.mark.parametrize(("ours", "theirs"), [([1, 2], ["1", "2", "x"]), (["1", "2", "x"], [2, 1]), ([1, 2], [2, 1])])
def test_integers_join_texts(load, ours, theirs):
    events = load({"behaviour": {"user": ["u"] * len(ours), "item": ours}, "items": {"item": theirs}}, parquet=True)
    known = [i for i in ours if str(i) in map(str, theirs)]
    assert [str(i) for _, i in keys_of(events)] == [str(i) for i in known]


def test_leading_zeros_and_large_integers_stay_apart(load):
    items = ["007", "7", str(2**53), str(2**53 + 1), str(2**64), str(2**64 + 1), "NA"]
    events = load({"behaviour": {"user": ["u"] * len(items), "item": items}, "items": {"item": items[::-1]}})
    assert [i for _, i in keys_of(events)] == items
    assert len(events.items) == len(items)


def test_key_of_another_name(load):
    """A users table may call its key otherwise, and that column may be a feature too."""
    tables = {"behaviour": {"user": [2, 1], "item": [5, 5]}, "users": {"uid": [1, 2], "user": ["x", "y"]}}
    schema = {"columns": {"uid": {"role": "user", "kind": "category"}}}
    events = load(tables, schema, {"users": {"key": "uid"}})
    assert events.users["user"][events.user_E].tolist() == [2, 1]
    assert events.users["uid"][events.user_E].tolist() == [2, 1]


def test_names_that_the_framework_uses_itself(load):
    """Bug: scene columns called like internal ones ("users.position", "order", "split") replaced them."""
    names = ["users.position", "items.position", "order", "split", "scene", "time", "oracle"]
    behaviour = {"user": ["a", "b"], "item": ["x", "y"], "at": [5, 3], **{n: [f"{n}1", f"{n}2"] for n in names}}
    schema = {"columns": dict.fromkeys(names, CATEGORY), "time": {"column": "at"}, "history": {"columns": ["item"]}}
    schema["columns"] |= {"item": {"role": "item", "kind": "category"}}
    events = load({"behaviour": behaviour}, schema, split_column="split")
    assert {n: events.scene[n].tolist() for n in names} == {n: [f"{n}1", f"{n}2"] for n in names}
    assert keys_of(events) == [("a", "x"), ("b", "y")]
    assert events.order_E.tolist() == [5, 3]
    assert events.split_E.tolist() == ["split1", "split2"]


def test_a_scenes_column_called_like_a_behaviour_column(load):
    """Bug: a scenes column named like the time column replaced the time."""
    tables = {
        "behaviour": {"user": ["a", "b"], "item": ["x", "y"], "at": [10, 20], "where": ["h", "s"]},
        "scenes": {"where": ["s", "h"], "at": ["evening", "noon"]},
    }
    schema = {"columns": {"at": CATEGORY, "where": CATEGORY}, "time": {"column": "at"}}
    events = load(tables, schema, {"scenes": {"key": "where"}})
    assert events.time_E.tolist() == [10.0, 20.0]
    assert events.scene["at"].tolist() == ["noon", "evening"]
    assert events.scene["where"].tolist() == ["h", "s"]


def test_time_column_as_a_feature_keeps_its_own_values(load):
    behaviour = {"user": ["a", "b"], "item": ["x", "y"], "at": ["2024-01-01", "1970-01-02"]}
    events = load({"behaviour": behaviour}, {"columns": {"at": CATEGORY}, "time": {"column": "at"}})
    assert events.scene["at"].tolist() == behaviour["at"]
    assert events.time_E[1] == 86400.0


def test_time_parts_of_local_time(load):
    behaviour = {
        "user": ["a", "b", "c"],
        "item": ["x"] * 3,
        "at": ["2024-02-29T23:30:00", None, "2024-12-31T23:00:00Z"],
    }
    columns = {part: {**CATEGORY, "part": part} for part in ("hour", "weekday", "weekend", "month")}
    events = load({"behaviour": behaviour}, {"columns": columns, "time": {"column": "at", "utc_offset": 1}})
    found = [events.scene.frame().loc[row, ["hour", "weekday", "weekend", "month"]].tolist() for row in range(2)]
    assert found == [[0, 4, 0, 3], [0, 2, 0, 1]]  # Friday 1 March 2024, Wednesday 1 January 2025
    assert [e["rule"] for e in events.report.entries] == ["missing or not a timestamp"]


def test_milliseconds_taken_for_seconds_have_no_hour(load):
    tables = {"behaviour": {"user": ["a"], "item": ["x"], "at": [1_700_000_000_000]}}
    schema = {"columns": {"hour": {**CATEGORY, "part": "hour"}}, "time": {"column": "at"}}
    with pytest.raises(ValueError, match=r"beyond the year 5000.*`time.unit`, now 's'"):
        load(tables, schema)
    schema["time"]["unit"] = "ms"
    assert load(tables, schema).scene["hour"].tolist() == [22]


@pytest.mark.parametrize(("at", "unit", "warned"), [(20250131, "s", True), (1.7e9, "ms", True), (1.7e9, "s", False)])
def test_times_of_the_seventies_are_named(load, caplog, at, unit, warned):
    """Bug: dates as numbers, and seconds taken for milliseconds, made a constant hour in silence."""
    tables = {"behaviour": {"user": ["a", "b"], "item": ["x"] * 2, "at": [at, at + 1]}}
    schema = {"columns": {"hour": {**CATEGORY, "part": "hour"}}, "time": {"column": "at", "unit": unit}}
    load(tables, schema)
    assert ("column 'at' lie around 1970-" in caplog.text) is warned
    assert ("may have no true hour: `time.unit` is" in caplog.text) is warned


def test_order_column_is_what_before_means(load):
    behaviour = {"user": ["a", "b", "c"], "item": ["x"] * 3, "at": [3, 2, 1], "step": [1, None, 0]}
    schema = {"columns": {"item": {"role": "item", "kind": "category"}}, "time": {"column": "at"}}
    schema["history"] = {"columns": ["item"], "order": "step"}
    events = load({"behaviour": behaviour}, schema)
    assert events.order_E.tolist() == [1, 0]
    assert events.time_E.tolist() == [3, 1]
    without_time = load({"behaviour": behaviour}, {**schema, "time": None})
    assert without_time.time_E.tolist() == without_time.order_E.tolist() == [1, 0]
    schema["history"]["order"] = "at"  # the time under its other name
    assert load({"behaviour": behaviour}, schema).order_E.tolist() == [3, 2, 1]


@pytest.mark.parametrize("unknown", ["drop", "keep"])
def test_history_table(load, unknown):
    tables = {
        "behaviour": {"user": ["a", "b"], "item": ["x", "y"], "at": [10, 20]},
        "history": {
            "user": ["b", "b", "c", "b", None, "b"],
            "item": ["x", "q", "x", "x", "x", "y"],
            "at": [1, 2, 3, 1, 5, None],
        },
        "items": {"item": ["x", "y"]},
        "users": {"user": ["a", "b"]},
    }
    options = {name: {"unknown": unknown} for name in ("items", "users")}
    schema = {"columns": {"item": {"role": "item", "kind": "category"}}, "time": {"column": "at"}}
    events = load(tables, {**schema, "history": {"columns": ["item"]}}, options)
    past = events.past
    found = [
        (events.users["user"][u], events.items["item"][i], at)
        for u, i, at in zip(past.user_P, past.item_P, past.order_P, strict=True)
    ]
    strange = [("b", "q", 2.0), ("c", "x", 3.0)] if unknown == "keep" else []
    assert found == [("b", "x", 1.0), *strange]
    rules = {e["rule"]: e["rows"] for e in events.report.entries if e["table"] == "history"}
    assert rules == {
        "duplicate row": 1,
        "missing value": 1,
        "missing or not a timestamp": 1,
        "user not in table `users`": 1,
        "item not in table `items`": 1,
    }
    assert events.report.to_dict()["rows"]["history"] == {"read": 6, "kept": len(found)}


def test_history_of_items_without_a_table_of_items(load):
    tables = {
        "behaviour": {"user": ["a"], "item": ["x"], "at": [10]},
        "history": {"user": ["a", "z"], "item": ["y", "x"], "at": [1, 2]},
    }
    events = load(tables, {"time": {"column": "at"}})
    assert events.items["item"].tolist() == ["x", "y"]
    assert events.users["user"].tolist() == ["a", "z"]


def test_oracle_and_files_per_split(tmp_path):
    for name, p in (("train", 0.25), ("test", 0.75)):
        pd.DataFrame({"user": [1], "item": [2], "label": [1], "p": [p]}).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "test")}
    label = {"kind": "binary", "column": "label", "oracle": "p"}
    columns = {"user": {"role": "user", "kind": "category"}}
    schema = FeatureSchema.parse({"user": "user", "item": "item", "label": label, "columns": columns})
    events = load_events(declare(TableSet, {"behaviour": {"path": files}}, "tables"), schema, SPLIT_COLUMN)
    assert events.oracle_E.tolist() == [0.25, 0.75]
    assert events.split_E.tolist() == ["train", "test"]


def test_columns_are_checked_once_for_all_files(tmp_path):
    """Bugs: an error that named no file, and a `rename` of a column that is not read and only the first file has."""
    paths = [str(tmp_path / f"{number}.csv") for number in range(2)]
    pd.DataFrame({"user": [1], "item": [2], "b": [3]}).to_csv(paths[0], index=False)
    pd.DataFrame({"user": [4], "item": [5]}).to_csv(paths[1], index=False)
    columns = {"user": {"role": "user", "kind": "category"}}
    about = {"user": "user", "item": "item", "label": {"kind": "implicit"}, "columns": columns}
    tables = declare(TableSet, {"behaviour": {"path": paths, "rename": {"b": "z"}}}, "tables")
    assert keys_of(load_events(tables, FeatureSchema.parse(about))) == [(1, 2), (4, 5)]
    columns["z"] = CATEGORY
    with pytest.raises(ValueError, match=r"table `behaviour`: file .*1\.csv has 0 columns called 'b', not one"):
        load_events(tables, FeatureSchema.parse(about))


def test_titles_stand_beside_the_items(load):
    behaviour = {"user": ["a"] * 5, "item": ["7", "x", "new", "8", "9"]}
    names = ["old", "Toy\n Story ", None, " ", "七"]
    items = {"item": ["7", "7", "8", "9", "x"], "name": names}
    events = load({"behaviour": behaviour, "items": items}, {"title": "name"}, {"items": {"unknown": "keep"}})
    titles = dict(
        zip(events.items["item"], events.titles.astype(object).where(events.titles.notna(), None), strict=True)
    )
    assert titles == {"7": "Toy Story", "8": None, "9": None, "x": "七", "new": None}


def test_a_number_can_be_a_title_and_a_title_a_feature(load):
    tables = {"behaviour": {"user": ["a", "a"], "item": [1, 2]}, "items": {"item": [2, 1], "year": [1995, None]}}
    schema = {"title": "year", "columns": {"year": {"role": "item", "kind": "category"}}}
    events = load(tables, schema, parquet=True)
    assert events.titles.tolist()[0] == "1995"
    assert events.titles.isna().tolist() == [False, True]
    assert events.items["year"][0] == 1995


def test_without_a_title_there_are_none(load):
    assert load({"behaviour": {"user": ["a"], "item": [1]}}).titles is None


def test_a_missing_title_is_refused(load):
    tables = {"behaviour": {"user": ["a"], "item": [1]}}
    with pytest.raises(ValueError, match=r"`title` names column 'name', but there is no table `items`"):
        load(tables, {"title": "name"})
    with pytest.raises(ValueError, match=r"table `items` has no column 'nmae': did you mean 'name'\?"):
        load({**tables, "items": {"item": [1], "name": ["x"]}}, {"title": "nmae"})
