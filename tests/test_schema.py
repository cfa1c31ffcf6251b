import json
from dataclasses import FrozenInstanceError

import pytest

from recsys.schema import RESERVED, Column, FeatureSchema, History, Label, history_name, schema_difference

BASE = {
    "user": "user",
    "item": "item",
    "time": {"column": "at"},
    "label": {"kind": "threshold", "column": "stars", "positive_from": 4, "range": [1, 5]},
    "columns": {
        "genres": {"role": "item", "kind": "tags", "sep": " "},
        "hour": {"role": "scene", "kind": "category", "part": "hour"},
        "item": {"role": "item", "kind": "category"},
        "price": {"role": "item", "kind": "number", "log1p": True, "clip": [0, 9]},
        "age": {"role": "user", "kind": "number", "buckets": 4, "fill": 30},
        "user": {"role": "user", "kind": "category", "min_count": 2},
    },
    "history": {"columns": ["item", "genres"], "length": 5},
    "sizes": {"user": 3, "age": 5, "item": 7, "hour": 25, "genres": 11},
}


def changed(column=None, **options):
    columns = BASE["columns"] | ({column: BASE["columns"].get(column, {}) | options.pop("of", {})} if column else {})
    return {**BASE, "columns": columns, **options}


def test_fields_numbers_and_tags_come_in_the_order_of_roles():
    schema = FeatureSchema.parse(BASE)
    names = {part: [c.name for c in getattr(schema, part)] for part in ("fields", "numbers", "tags", "histories")}
    assert names == {
        "fields": ["age", "user", "item", "hour"],
        "numbers": ["price"],
        "tags": ["genres"],
        "histories": ["item", "genres"],
    }
    assert history_name("genres") == "history.genres"


def test_places_in_the_table_are_disjoint_and_complete():
    schema = FeatureSchema.parse(BASE)
    rows = [0]  # padding
    for column in (*schema.fields, *schema.tags):
        rows += range(schema.offset(column.name), schema.offset(column.name) + schema.size(column.name))
    assert rows == list(range(schema.rows)) == list(range(1 + 5 + 3 + 7 + 25 + 11))
    with pytest.raises(ValueError, match="'price' has no rows in the embedding table"):
        schema.offset("price")


def test_json_round_trip_and_fingerprint():
    schema = FeatureSchema.parse(BASE)
    again = FeatureSchema.parse(json.loads(json.dumps(schema.to_dict())))
    assert again == schema
    assert again.fingerprint == schema.fingerprint
    for other in (changed("age", of={"buckets": 5}), changed(label_mean=0.4), changed(sizes={})):
        assert FeatureSchema.parse(other).fingerprint != schema.fingerprint


def test_fitted_changes_nothing_else():
    declared = FeatureSchema.parse(changed(sizes={}))
    assert declared.rows == 1 + 5  # padding, and the unseen row of five columns
    fitted = declared.fitted(sizes=BASE["sizes"], label_mean=0.5, encoders="")
    assert fitted == FeatureSchema.parse(BASE)
    with pytest.raises(FrozenInstanceError):
        fitted.user = "x"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (changed(usr="x"), "`schema` has no option 'usr': did you mean 'user'"),
        (changed("age", of={"bucket": 3}), "`schema.columns.age` has no option 'bucket': did you mean 'buckets'"),
        (changed("age", of={"role": "users"}), "`schema.columns.age.role` .* 'users': did you mean 'user'"),
        (changed("age", of={"buckets": 1}), "column 'age': `buckets` must be at least 2, got 1"),
        (changed("age", of={"fill": "old"}), "column 'age': `fill` must be a number, got 'old'"),
        (changed("age", of={"missing": "drop"}), "column 'age': choose `fill` or `missing=drop`"),
        (changed("price", of={"clip": [9, 0]}), "`clip` must be .low, high. with low < high"),
        (changed("user", of={"min_count": 0}), "`min_count` must be at least 1"),
        (changed("user", of={"log1p": True}), "are for numbers, not category"),
        (changed("user", of={"role": "item"}), "column 'user' is the user key: its role is user"),
        (changed("genres", of={"length": 0}), "`length` must be at least 1"),
        (changed("hour", of={"role": "item"}), "a time `part` has role scene"),
        (changed(columns={"age": 3}), "`schema.columns.age` must be a mapping of options, got 3"),
        (changed(columns={}), "`columns` must declare at least one column"),
        (changed(user="item"), "`user` and `item` must be different"),
        (changed(time=None), "a time `part` need `time"),
        (changed(history={"columns": ["price"]}), "history column 'price' must be a category or tags column"),
        (changed(history={"columns": ["age"]}), "history column 'age' must be .* with role item"),
        (changed(history={"columns": ["genre"]}), "no column 'genre': did you mean 'genres'"),
        (changed(history={"columns": []}), "must name at least one item column"),
        (changed(history={"columns": ["item"], "length": 0}), "`length` must be at least 1"),
        (changed(label={"kind": "binary"}), "a label of kind 'binary' needs `column`"),
        (changed(label={"kind": "threshold", "column": "x"}), "needs `positive_from`"),
        (changed(label={"kind": "implicit", "negatives": 0}), "`negatives` must be at least 1"),
    ],
)
def test_mistakes_are_named(mapping, message):
    with pytest.raises(ValueError, match=message):
        FeatureSchema.parse(mapping)


@pytest.mark.parametrize(
    ("label", "ranks"),
    [
        (Label(kind="binary", column="x"), True),
        (Label(kind="implicit"), True),
        (Label(kind="rating", column="x"), False),
        (Label(kind="rating", column="x", positive_from=4), True),
    ],
)
def test_which_labels_say_what_a_user_liked(label, ranks):
    assert label.ranks == ranks


def test_a_number_in_buckets_is_a_field():
    assert Column(name="age", role="user", kind="number", buckets=2).is_field
    assert not Column(name="age", role="user", kind="number").is_field
    assert History(columns=("item",)).length == 50


@pytest.mark.parametrize("name", ["ids", "numbers", "score", "a/b", "history.item"])
def test_names_that_would_clash_later_are_refused_at_once(name):
    with pytest.raises(ValueError, match="give it another name by the table's `rename`"):
        Column(name=name, role="item", kind="tags")


def test_a_schema_without_any_field_is_refused():
    columns = {"price": {"role": "item", "kind": "number"}}
    with pytest.raises(ValueError, match="at least one category column"):
        FeatureSchema.parse({"user": "u", "item": "i", "label": {"kind": "binary", "column": "y"}, "columns": columns})


def test_a_column_set_to_null_is_left_out():
    columns = {"u": {"role": "user", "kind": "category"}, "i": {"role": "item", "kind": "category"}, "age": None}
    schema = FeatureSchema.parse({"user": "u", "item": "i", "label": {"kind": "implicit"}, "columns": columns})
    assert [c.name for c in schema.columns] == ["u", "i"]


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (BASE, ""),
        (changed("age", of={"buckets": 8}), "column 'age'.buckets: 4 there, 8 here"),
        (changed("brand", of={"role": "item", "kind": "category"}), "column 'brand' is missing there"),
        (changed(sizes={**BASE["sizes"], "item": 9}), "size of 'item': 7 there, 9 here"),
        (changed(label={**BASE["label"], "positive_from": 3}), "label.positive_from: 4.0 there, 3.0 here"),
        (
            changed(history=None),
            "history: {'columns': ['item', 'genres'], 'length': 5, 'order': None} there, None here",
        ),
        (changed(encoders="abc"), "the columns stand in another order, or their values are numbered differently"),
        (changed(sizes={"age": 6, "hour": 26, "genres": 12}), "size of 'item': 7 there, missing here; 2 more"),
    ],
)
def test_a_difference_is_named(here, words):
    difference = schema_difference(FeatureSchema.parse(BASE), FeatureSchema.parse(here))
    assert difference.endswith(words)
    assert bool(difference) == bool(words)


@pytest.mark.parametrize("name", [*RESERVED, "history.x", "a/b"])
def test_names_that_a_graph_needs_itself_are_refused_for_whatever_becomes_its_input(name):
    refused = "names must not hold.*give it another name by the table's `rename`"
    with pytest.raises(ValueError, match=refused):
        Column(name=name, role="scene", kind="number")
    for key in ("user", "item"):
        with pytest.raises(ValueError, match=refused):
            FeatureSchema.parse(changed(**{key: name}))
    with pytest.raises(ValueError, match=refused):
        FeatureSchema.parse(changed(time={"column": name}))
