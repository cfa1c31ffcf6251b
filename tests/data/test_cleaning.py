import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.cells import to_pandas
from recsys.data.cleaning import CleaningReport, Raw, clean_column, clean_entities
from recsys.data.events import load_events
from recsys.data.module import DataSpec
from recsys.data.tables import Table, TableSet
from recsys.declare import declare
from recsys.schema import Column, FeatureSchema

ITEMS = "item,price\ni1,1\ni2,2\n"
USERS = "user,age\n1,30\n2,40\n"
SCENES = "scene,place\ns1,home\ns2,shop\n"


@pytest.fixture
def load(tmp_path):
    """Load tables given as CSV texts; options of a table as (text, options)."""

    def load(columns=None, label=None, split_column=None, schema=None, **tables):
        declared = {}
        for name, table in tables.items():
            content, options = table if isinstance(table, tuple) else (table, {})
            path = tmp_path / f"{name}.csv"
            path.write_text(content, encoding="utf-8")
            declared[name] = {"path": str(path), **({"key": name[:-1]} if name.endswith("s") else {}), **options}
        keys = {"user": {"role": "user", "kind": "category"}, "item": {"role": "item", "kind": "category"}}
        about = {"user": "user", "item": "item", "columns": keys | (columns or {}), **(schema or {})}
        about["label"] = label or {"kind": "binary", "column": "label"}
        return load_events(declare(TableSet, declared, "tables"), FeatureSchema.parse(about), split_column)

    return load


def entries(events, action=None):
    """{(table, column, rule): rows} of one action, or of all."""
    found = events.report.to_dict()["entries"]
    return {(e["table"], e["column"], e["rule"]): e["rows"] for e in found if action in (None, e["action"])}


def rows_of(events, table="behaviour"):
    return events.report.to_dict()["rows"][table]


def test_nothing_to_clean_is_reported_as_nothing(load):
    events = load(behaviour="user,item,label\n1,i1,1\n2,i2,0\n", items=ITEMS, users=USERS)
    assert entries(events) == {}
    assert events.report.to_dict()["rows"] == {name: {"read": 2, "kept": 2} for name in ("behaviour", "items", "users")}


@pytest.mark.parametrize(("duplicates", "kept"), [("drop", 2), ("keep", 4)])
def test_duplicate_rows(load, duplicates, kept):
    table = ("user,item,label\n1,i1,1\n1,i1,1\n1,i1,1\n1,i2,1\n", {"duplicates": duplicates})
    events = load(behaviour=table)
    expected = {("behaviour", "(all columns read)", "duplicate row"): 2} if duplicates == "drop" else {}
    assert entries(events, "dropped") == expected
    assert rows_of(events) == {"read": 4, "kept": kept}
    assert len(events.label_E) == kept


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string())])
def test_rows_that_differ_only_in_tags_are_no_duplicates(tmp_path, kind):
    """Bug: a list column in the behaviour table ended in an Arrow traceback."""
    path = tmp_path / "b.parquet"
    tags = pa.array([["a"], ["a", "b"], None, ["a"]], kind)
    pq.write_table(pa.table({"user": [1] * 4, "item": [2] * 4, "label": [1] * 4, "tags": tags}), path)
    columns = {"tags": {"role": "scene", "kind": "tags"}, "item": {"role": "item", "kind": "category"}}
    schema = {"user": "user", "item": "item", "columns": columns, "label": {"kind": "binary", "column": "label"}}
    events = load_events(declare(TableSet, {"behaviour": {"path": str(path)}}, "tables"), FeatureSchema.parse(schema))
    assert entries(events, "dropped") == {("behaviour", "(all columns read)", "duplicate row"): 1}
    assert [[] if cell is pd.NA else list(cell) for cell in events.scene["tags"]] == [["a"], ["a", "b"], []]


def test_equal_rows_of_a_table_in_memory():
    """Bug: lists with a missing element were all equal."""
    cells = pa.chunked_array([[["x", None], ["y", None]], [["x", None], [], [""], None]], pa.list_(pa.string()))
    frame = to_pandas(pa.table({"user": [1] * 6, "friends": cells}))[::-1]
    assert Raw.of(frame, Table(path="t.csv"), ["user"]).repeated.tolist() == [False] * 5 + [True]


def test_rows_without_user_item_or_label(load):
    events = load(behaviour="user,item,label\n1,i1,1\n,i1,1\n2,,1\n2,i2,\n2,i2,0\n,,\n1,i2,x\n1,i2,2\n1,i3,1\n")
    assert entries(events, "dropped") == {
        ("behaviour", "user", "missing value"): 2,
        ("behaviour", "item", "missing value"): 1,
        ("behaviour", "label", "missing or not a number"): 2,
        ("behaviour", "label", "label is neither 0 nor 1"): 1,
    }
    assert rows_of(events) == {"read": 9, "kept": 9 - 6}
    assert events.label_E.tolist() == [1.0, 0.0, 1.0]


def test_items_of_dropped_rows_say_nothing_about_the_others(load):
    """Bug: the item of a row without a user made all items texts."""
    events = load(behaviour="user,item,label\n1,1,1\n2,2,0\n,total,1\n")
    assert events.items["item"].tolist() == [1, 2]


@pytest.mark.parametrize(("cells", "shown"), [(("", ""), "none"), (("", "s9"), "'s9'")])
def test_no_row_has_a_known_scene(load, cells, shown):
    """Bugs: an IndexError where no row has a scene, and the last one as the example of a missing one."""
    rows = "".join(f"{user},i1,{cell},1\n" for user, cell in enumerate(cells))
    with pytest.raises(ValueError, match=f"has a scene that table `scenes` knows: behaviour has {shown}, scenes has"):
        load(behaviour=f"user,item,scene,label\n{rows}", scenes=SCENES)


def test_no_row_has_a_known_item(load):
    with pytest.raises(
        ValueError, match="has an item that table `items` knows: behaviour has 'j', items has 'i1', 'i2'"
    ):
        load(behaviour="user,item,label\n1,j,1\n", items=ITEMS)


def test_missing_users_can_be_filled(load):
    """Bug: `fill` of a key column was ignored."""
    columns = {"user": {"role": "user", "kind": "category", "fill": "guest"}}
    events = load(columns, behaviour="user,item,label\n1,i1,1\n,i1,1\n,i2,0\n")
    assert entries(events) == {("behaviour", "user", "missing value"): 2}
    assert entries(events, "filled") == entries(events)
    assert events.users["user"][events.user_E].tolist() == ["1", "guest", "guest"]


def test_labels_out_of_range(load):
    label = {"kind": "threshold", "column": "stars", "positive_from": 4, "range": [1, 5]}
    events = load(label=label, behaviour="user,item,stars\n1,a,1\n1,b,5\n1,c,0.9\n1,d,5.1\n1,e,3.9\n1,f,4\n")
    assert entries(events) == {("behaviour", "stars", "label outside [1, 5]"): 2}
    assert events.label_E.tolist() == [0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(("kind", "expected"), [("rating", [2.5, 4.0]), ("implicit", [1.0, 1.0])])
def test_labels_as_ratings_and_implicit_ones(load, kind, expected):
    label = {"kind": kind, "column": "stars"} if kind == "rating" else {"kind": kind}
    assert load(label=label, behaviour="user,item,stars\n1,a,2.5\n1,b,4\n").label_E.tolist() == expected


def test_labels_in_words(load):
    """Bug: "true" and "false" were not labels."""
    assert load(behaviour="user,item,label\n1,a,true\n1,b,False\n1,c,1.0\n").label_E.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("unknown", ["drop", "keep"])
def test_unknown_items_users_and_scenes(load, unknown):
    options = {"unknown": unknown}
    events = load(
        {
            "price": {"role": "item", "kind": "number", "fill": -1},
            "age": {"role": "user", "kind": "number"},
            "place": {"role": "scene", "kind": "category", "fill": "nowhere"},
        },
        behaviour="user,item,scene,label\n1,i1,s1,1\n1,i9,s1,0\n3,i1,s1,1\n2,i2,s9,0\n4,i2,s2,0\n2,i2,s2,1\n",
        items=(ITEMS, options),
        users=(USERS, options),
        scenes=(SCENES, options),
    )
    rules = {
        ("behaviour", "item", "item not in table `items`"): 1,
        ("behaviour", "user", "user not in table `users`"): 2,
        ("behaviour", "scene", "scene not in table `scenes`"): 1,
    }
    assert entries(events, "dropped" if unknown == "drop" else "kept as missing") == rules
    users, items = events.users["user"], events.items["item"]
    if unknown == "drop":
        assert rows_of(events) == {"read": 6, "kept": 2}
        assert events.scene["place"].tolist() == ["home", "shop"]
    else:
        assert rows_of(events) == {"read": 6, "kept": 6}
        assert users[events.user_E].tolist() == [1, 1, 3, 2, 4, 2]
        assert items[events.item_E].tolist() == ["i1", "i9", "i1", "i2", "i2", "i2"]
        # Bug: `fill` left the attributes of unknown items missing.
        assert events.items["price"][events.item_E].tolist() == [1, -1, 1, 2, 2, 2]
        assert events.users["age"].isna().tolist() == [False, False, True, True]
        assert events.scene["place"].tolist() == ["home", "home", "home", "nowhere", "shop", "shop"]


def test_duplicate_and_missing_keys_of_items(load):
    columns = {"price": {"role": "item", "kind": "number"}}
    events = load(columns, behaviour="user,item,label\n1,i1,1\n", items="item,price\ni1,1\ni2,2\n,3\n,4\ni1,5\n")
    assert entries(events, "dropped") == {
        ("items", "item", "missing value"): 2,
        ("items", "item", "duplicate key (last kept)"): 1,
    }
    assert rows_of(events, "items") == {"read": 5, "kept": 2}
    assert events.items["price"][events.item_E].tolist() == [5.0]


def test_keys_that_differ_only_in_type_are_duplicates():
    """Bug: 7 and "7" from two files of one table ended in a pandas traceback."""
    frame = pd.DataFrame({"item": pd.Series([7, "7", "x"], dtype=object)})
    report = CleaningReport()
    keys, _ = clean_entities(frame, "items", "item", [], report)
    assert keys.tolist() == ["7", "x"]
    assert report.entries[0]["rows"] == 1


def test_a_cell_is_counted_once():
    """Bug: a cell that is no number was counted again as a missing value."""
    report = CleaningReport()
    values = pd.Series(["1", "x", None, "y", "2", "3", "inf"])
    clean_column(values, Column(name="age", role="user", kind="number"), "users", report)
    assert [(e["rule"], e["rows"]) for e in report.entries] == [("not a number", 3), ("missing value", 1)]


NUMBERS = {"price": {"role": "item", "kind": "number"}, "wait": {"role": "scene", "kind": "number"}}


def test_numbers_may_have_a_decimal_comma(load):
    """Bug: "3,5" became a missing value."""
    decimal = {"sep": ";", "decimal": ","}
    rating = {"kind": "rating", "column": "label", "range": [0, 5]}
    events = load(
        NUMBERS,
        label=rating,
        behaviour=("user;item;label;wait\n1;i1;3,5;-0,25\n1;i2;4;7\n2;i1;1.5;1,5\n2;i2;,5;1.25\n", decimal),
        items=("item;price\ni1;19,99\ni2;2\n", decimal),
    )
    assert events.label_E.tolist() == [3.5, 4.0, 0.5]
    assert events.items["price"].tolist() == [19.99, 2.0]
    np.testing.assert_array_equal(events.scene["wait"], [-0.25, 7.0, np.nan])
    assert entries(events, "dropped") == {("behaviour", "label", "missing or not a number (is `decimal` '.'?)"): 1}
    assert entries(events, "kept as missing") == {("behaviour", "wait", "not a number (is `decimal` '.'?)"): 1}


def test_decimal_commas_that_were_not_declared_are_asked_for(load):
    rows = [f"{n};i{n % 3};1;{n},5" if n % 3 == 0 else f"{n};i{n % 3};1;{n}" for n in range(9)]
    content = "\n".join(["user;item;label;wait", *rows])
    items = "item;price\ni0;1\ni1;2\ni2;3,5\n"
    events = load(NUMBERS, behaviour=(content, {"sep": ";"}), items=(items, {"sep": ";"}))
    rule = "not a number (is `decimal` ','?)"
    assert entries(events, "kept as missing") == {("items", "price", rule): 1, ("behaviour", "wait", rule): 3}
    with pytest.raises(
        ValueError, match=r"2 of 2 values are not a number \(such as '1,5'\) \(is `decimal` ','\?\); check"
    ):
        load(NUMBERS, behaviour=(content, {"sep": ";"}), items=("item;price\ni0;1,5\ni1;2,5\n", {"sep": ";"}))


@pytest.mark.parametrize(("decimal", "sign"), [(".", ","), (",", ".")])
@pytest.mark.parametrize(("cells", "asked"), [(["1{}234", "-12{}345"], False), (["1{}234", "0{}345"], True)])
def test_thousands_are_not_asked_for_as_decimals(load, decimal, sign, cells, asked):
    """Bug: "1,234" gave (is `decimal` ','?), and who obeyed got 1.234."""
    items = "\n".join(["item;price", "i0;1", "i1;2", *(f"i{n};{cell.format(sign)}" for n, cell in enumerate(cells, 2))])
    rows = "\n".join(["user;item;label;wait", *(f"1;i{n};1;1" for n in range(4))])
    events = load(NUMBERS, behaviour=(rows, {"sep": ";"}), items=(items, {"sep": ";", "decimal": decimal}))
    rule = f"not a number (is `decimal` {sign!r}?)" if asked else "not a number"
    assert entries(events, "kept as missing") == {("items", "price", rule): 2}


def test_a_word_in_many_rows_does_not_hide_decimal_commas(load):
    """Bug: the question was asked of a text per unreadable row rather than of the distinct values."""
    rating = {"kind": "rating", "column": "label", "range": [0, 5]}
    cells = ["1"] * 20 + ["none"] * 6 + ["1,5", "2,5", "3,5"]
    rows = [f"{n};i1;{label};1" for n, label in enumerate(cells)] + [f"{n};i2;5;{wait}" for n, wait in enumerate(cells)]
    content = "\n".join(["user;item;label;wait", *rows])
    events = load({"wait": NUMBERS["wait"]}, label=rating, behaviour=(content, {"sep": ";"}))
    assert entries(events, "dropped") == {("behaviour", "label", "missing or not a number (is `decimal` ','?)"): 9}
    assert entries(events, "kept as missing") == {("behaviour", "wait", "not a number (is `decimal` ','?)"): 9}


CELLS = {
    "number": ["1", "2", "3", "4", "x", ""],
    "category": ["a", "b", "c", "d", "e", ""],
    "tags": ["a", "b", "", "|"],
}
MISSING = {"number": {4, 5}, "category": {5}, "tags": {2, 3}}
FILL = {"number": 9, "category": "z", "tags": "z"}
FULL = {"number": 9.0, "category": "z", "tags": ["z"]}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("role", ["item", "scene"])
@pytest.mark.parametrize("policy", ["keep", "drop", "fill"])
def test_missing_values_of_each_kind(load, kind, role, policy):
    """Bugs: tags ignored `fill` and counted nothing; tags of the behaviour table were never split."""
    cells, missing = CELLS[kind], MISSING[kind]
    column = {"role": role, "kind": kind, "fill" if policy == "fill" else "missing": policy}
    column |= {"fill": FILL[kind]} if policy == "fill" else {}
    attributes = [f",{cell}" if role == "scene" else "" for cell in cells]
    rows = "\n".join(f"1,i{n},1{more}" for n, more in enumerate(attributes))
    items = "item,x\n" + "\n".join(f"i{n},{cell}" for n, cell in enumerate(cells))
    header = "user,item,label" + (",x" if role == "scene" else "")
    events = load({"x": column}, behaviour=f"{header}\n{rows}\n", **({"items": items} if role == "item" else {}))

    values = (events.items["x"][events.item_E] if role == "item" else events.scene["x"]).reset_index(drop=True)
    touched = {"keep": "kept as missing", "drop": "dropped", "fill": "filled"}[policy]
    assert sum(entries(events, touched).values()) == sum(entries(events).values()) == len(missing)
    assert len(values) == len(cells) - len(missing) * (policy == "drop")
    assert rows_of(events) == {"read": len(cells), "kept": len(values)}
    if policy == "keep":
        assert set(values.index[values.isna()]) == missing
    else:
        assert not values.isna().any()
    if policy == "fill":
        found = values[sorted(missing)].map(list if kind == "tags" else lambda v: v).tolist()
        assert found == [FULL[kind]] * len(missing)


def test_friendships(load):
    social = "a,b,since\n1,2,x\n2,1,x\n1,1,x\n1,9,x\n,2,x\n3,1,x\n1,2,y\n"
    events = load(behaviour="user,item,label\n1,i1,1\n2,i1,1\n3,i2,0\n", social=(social, {}))
    assert entries(events) == {
        ("social", "(both)", "missing value"): 1,
        ("social", "(both)", "friend of oneself"): 1,
        ("social", "(both)", "user not in table `users`"): 1,
        ("social", "(both)", "duplicate friendship"): 2,
    }
    assert rows_of(events, "social") == {"read": 7, "kept": 2}


def test_friendships_need_two_columns(load):
    with pytest.raises(ValueError, match=r"table `social` needs two columns of users, got .'a;b'."):
        load(behaviour="user,item,label\n1,i1,1\n", social=("a;b\n1;2\n", {}))


@pytest.mark.parametrize(
    ("columns", "tables", "message"),
    [
        ({}, {"behaviour": "usr,item,label\n1,i1,1\n"}, "table `behaviour` has no column 'user': did you mean 'usr'"),
        ({}, {"behaviour": "user,item,label\n"}, "table `behaviour` is empty"),
        ({}, {"behaviour": "user,item,label\n1,i1,yes\n1,i2,no\n1,i3,1\n"}, "column 'label': 2 of 3.*such as 'yes'"),
        ({}, {"behaviour": "user,item,label\n1,i1,1\n", "items": "item\ni2\n"}, "behaviour has 'i1', items has 'i2'"),
        ({}, {"behaviour": "user,item,label\n1,1.0,1\n", "items": "item\n1\n"}, "behaviour has '1.0', items has '1'"),
        (
            {},
            {"behaviour": "user,item,label\n1,i1,3\n1,i2,\n1,i3,4\n"},
            "3 rows read; 2 rows: label is neither 0 nor 1",
        ),
        (
            {"age": {"role": "user", "kind": "number"}},
            {"behaviour": "user,item,label\n1,i1,1\n"},
            "'age' has role user, but there is no table `users`; declare `tables.users`",
        ),
        (
            {"usr": {"role": "user", "kind": "category"}},
            {"behaviour": "usr,item,label\n1,i1,1\n"},
            "table `behaviour` has no column 'user': did you mean 'usr'",
        ),
        (
            {"prise": {"role": "item", "kind": "number"}},
            {"behaviour": "user,item,label\n1,i1,1\n", "items": ITEMS},
            "table `items` has no column 'prise': did you mean 'price'",
        ),
        (
            {"item": {"role": "item", "kind": "category"}, "price": {"role": "item", "kind": "number"}},
            {"behaviour": "user,item,label\n1,i1,1\n", "items": "item,price\ni1,cheap\ni2,dear\n"},
            "table `items`, column 'price': 2 of 2 values are not a number .such as 'cheap'",
        ),
        (
            {},
            {"behaviour": "user,item,label\n1,i1,-1\n1,i2,1\n1,i3,1\n"},
            "labels of kind binary are 0 and 1.*threshold",
        ),
        (
            {"x": {"role": "scene", "kind": "number"}},
            {"behaviour": "user,item,label,x\n1,i1,1,inf\n1,i2,0,inf\n"},
            r"2 of 2 values are not a number .such as 'inf'",
        ),
        (
            {"stars": {"role": "scene", "kind": "number"}},
            {"behaviour": "user,item,stars\n1,i1,1\n", "label": {"kind": "binary", "column": "stars"}},
            "column 'stars' is the label's; it cannot be a feature",
        ),
        (
            {},
            {"behaviour": "user,item,label\n1,i1,1\n", "scenes": (SCENES, {"key": None})},
            "table `scenes` needs `key`",
        ),
        ({}, {"behaviour": "user,item,label\n1,i1,1\n", "history": "user,item\n1,i1\n"}, "a `history` table needs"),
    ],
)
def test_messages(load, columns, tables, message):
    tables = {name: (t, {}) if name == "history" else t for name, t in tables.items()}
    with pytest.raises(ValueError, match=message):
        load(columns, **tables)


cell = st.sampled_from(["", "1", "2", "x", "3.5"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(cell, cell, cell, cell), min_size=1, max_size=12))
def test_rows_read_less_rows_dropped_are_rows_kept(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("t")
    content = io.StringIO()
    pd.DataFrame(rows, columns=["user", "item", "label", "x"]).to_csv(content, index=False)
    (folder / "b.csv").write_text(content.getvalue())
    (folder / "i.csv").write_text("item,price\n1,2\nx,\n2,3\n1,4\n")
    tables = {"behaviour": {"path": str(folder / "b.csv")}, "items": {"path": str(folder / "i.csv")}}
    columns = {
        "x": {"role": "scene", "kind": "category", "missing": "drop"},
        "price": {"role": "item", "kind": "number", "missing": "drop"},
    }
    label = {"kind": "rating", "column": "label", "range": [1, 3]}
    schema = FeatureSchema.parse({"user": "user", "item": "item", "columns": columns, "label": label})

    known = {"1", "2"}  # item x has no price
    unique = dict.fromkeys(rows)
    survivors = [r for r in unique if r[0] and r[1] in known and r[2] in ("1", "2") and r[3]]
    try:
        events = load_events(declare(TableSet, tables, "tables"), schema)
    except ValueError:
        wrong = sum(r[2] == "x" for r in unique if r[0] and r[1]) * 2 > sum(bool(r[2]) for r in unique if r[0] and r[1])
        if survivors and not wrong:
            raise
        return
    dropped = sum(e["rows"] for e in events.report.entries if e["table"] == "behaviour" and e["action"] == "dropped")
    assert rows_of(events) == {"read": len(rows), "kept": len(rows) - dropped}
    assert events.label_E.tolist() == [float(r[2]) for r in survivors]


def test_the_earliest_row_of_a_pair_is_chosen_among_those_with_a_valid_label(load):
    """Bug: a first row with a wrong label cost the whole pair."""
    events = load(behaviour=("user,item,label\n1,i1,7\n1,i1,1\n1,i1,0\n2,i1,0\n", {"duplicates": "pairs"}))
    assert entries(events, "dropped") == {
        ("behaviour", "label", "label is neither 0 nor 1"): 1,
        ("behaviour", "user, item", "repeated pair (earliest kept)"): 1,
    }
    assert events.label_E.tolist() == [1.0, 0.0]


def test_of_repeated_pairs_the_earliest_is_kept(tiny, tmp_path):
    visits = pd.read_csv(tmp_path / "visits.csv").sample(frac=1, random_state=0)
    visits.to_csv(tmp_path / "visits.csv", index=False)
    tiny["tables"]["behaviour"]["duplicates"] = "pairs"
    spec = DataSpec.parse(tiny)
    events = load_events(spec.tables, spec.schema)
    first = visits.sort_values("when", kind="stable").drop_duplicates(["shopper", "sku"])
    found = zip(events.users["shopper"][events.user_E], events.items["sku"][events.item_E], events.time_E, strict=True)
    assert set(found) == set(zip(first["shopper"], first["sku"], first["when"], strict=True))
    dropped = {e["rule"]: e["rows"] for e in events.report.dropped("behaviour")}
    assert dropped["repeated pair (earliest kept)"] == len(visits) - len(first)
