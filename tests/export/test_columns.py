"""Raw columns inside a graph against the training side's own encoders, on ordinary and on nasty values."""

import datetime
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.builder import GraphBuilder
from export.columns import RawColumns
from export.packed import PLACES, ROW
from export.vocabularies import MISSING_INT
from recsys.data.cells import fill_missing, time_part
from recsys.data.encoders import Encoders, fit_encoder
from recsys.data.store import encode_side
from recsys.schema import ROLES, Column, FeatureSchema, history_name

LENGTH = 3
COLUMNS: dict[str, dict[str, Any]] = {
    "user": {"role": "user", "kind": "category"},
    "code": {"role": "user", "kind": "category"},
    "plan": {"role": "user", "kind": "category", "fill": 7},
    "age": {"role": "user", "kind": "number", "buckets": 3, "clip": [10.0, 60.0]},
    "income": {"role": "user", "kind": "number", "log1p": True, "clip": [-5.0, 1e6]},
    "score": {"role": "user", "kind": "number", "fill": 2.5},
    "item": {"role": "item", "kind": "category"},
    "shelf": {"role": "item", "kind": "category", "fill": "other", "min_count": 2},
    "price": {"role": "item", "kind": "number", "buckets": 4, "fill": 0.7},
    "weight": {"role": "item", "kind": "number", "standardise": False},
    "words": {"role": "item", "kind": "tags", "length": 2},
    "marks": {"role": "item", "kind": "tags", "length": 3, "fill": 4},
    "hour": {"role": "scene", "kind": "category", "part": "hour"},
    "weekday": {"role": "scene", "kind": "category", "part": "weekday"},
    "weekend": {"role": "scene", "kind": "category", "part": "weekend"},
    "month": {"role": "scene", "kind": "category", "part": "month"},
}
del COLUMNS["score"]  # a reserved name
COLUMNS["rank"] = {"role": "user", "kind": "number", "fill": 2.5}
TEXT = {"item": ["a", "b", "c", "ü|ö", "日本"], "shelf": ["tea", "tea", "other", "other", "rare"]}
TRAINED: dict[str, list] = {
    "user": [3, 4, 5, 6, 7],  # contiguous
    "code": [10, 2**62, -(2**62), 0, 55],  # far apart
    "plan": [1, 3, 7, 8, 3],  # close, with gaps
    "age": [15.0, 22.0, 31.0, 47.0, 90.0],
    "income": [-1.0, 0.0, 1e3, 2e5, 1e7],
    "rank": [0.1, 0.2, 0.3, 0.7, 5.0],
    "price": [0.1, 0.3, 0.7, 0.7, 12.5],
    "weight": [1.0, 2.0, 3.0, 4.0, 5.0],
    "words": [["x", "y"], ["z"], None, ["x"], ["y", "z", "w"]],
    "marks": [[4, 5], [9], None, [4], [9, 9, 9]],
    "hour": [0, 5, 12, 23, 7],
    "weekday": [0, 1, 4, 5, 6],
    "weekend": [0, 1, 1, 0, 0],
    "month": [1, 2, 6, 11, 12],
    **TEXT,
}


def series(column: Column, values: list) -> pd.Series:
    """Cleaned values as training has them."""
    if column.kind == "number":
        return pd.Series([np.nan if v is None else v for v in values], dtype="float64")
    sample = next(v for v in TRAINED[column.name] if v is not None)
    if column.kind == "tags":
        kind = pa.list_(pa.int64() if isinstance(sample[0], int) else pa.string())
        return pd.Series(pd.array(pa.array(values, kind), dtype=pd.ArrowDtype(kind)))
    return pd.Series(values, dtype="Int64" if isinstance(sample, int) else "str")


def fit() -> tuple[FeatureSchema, Encoders]:
    declared = FeatureSchema.parse(
        {
            "user": "user",
            "item": "item",
            "time": {"column": "at", "unit": "ms", "utc_offset": 5.5},
            "label": {"kind": "binary", "column": "clicked"},
            "columns": COLUMNS,
            "history": {"columns": ["item", "shelf", "words"], "length": LENGTH},
        }
    )
    one = np.ones(5, dtype="int64")
    encoders = Encoders(columns={c.name: fit_encoder(c, series(c, TRAINED[c.name]), one) for c in declared.columns})
    return declared.fitted(sizes=encoders.sizes(), label_mean=0.5, encoders=""), encoders


SCHEMA, ENCODERS = fit()


def open_front(rows: str | int = "batch", *, packed: bool = False) -> onnxruntime.InferenceSession:
    graph = GraphBuilder()
    reads = frozenset((*COLUMNS, *(history_name(c.name) for c in SCHEMA.histories)))
    feeds = RawColumns(graph, SCHEMA, ENCODERS, reads, rows).feeds(packed=packed)
    model = graph.build({f"out/{name}": var for name, var in feeds.items()})
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


SESSION, PACKED = open_front(), open_front(packed=True)


PRINTABLE = st.characters(exclude_categories=("C", "Z"), include_characters=" ")  # what str.isprintable() accepts


def raw_strategy(column: Column) -> st.SearchStrategy:
    """Trained, unseen, missing and absurd raw values of a column, as the graph takes them."""
    trained = TRAINED[column.name]
    if column.kind == "number":
        extreme = [None, np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, 0.0, -0.0, 0.7, 0.69999999]
        return st.one_of(st.sampled_from([*trained, *extreme]), st.floats(width=32))
    if column.kind == "tags":
        single = [tag for tags in trained if tags for tag in tags]
        return st.lists(one_value(single), max_size=5)
    return one_value(trained)


def one_value(trained: list) -> st.SearchStrategy:
    if isinstance(trained[0], int):
        ends = [MISSING_INT, MISSING_INT + 1, 2**63 - 1, -1, 0]
        return st.one_of(st.sampled_from([*trained, *ends]), st.integers(-(2**63), 2**63 - 1))
    return st.one_of(st.sampled_from([*trained, "", "unseen", "x" * 5000]), st.text(PRINTABLE, max_size=8))


@st.composite
def raw_rows(draw: st.DrawFn) -> dict[str, list]:
    count = draw(st.integers(1, 4))
    many = {c.name: st.lists(raw_strategy(c), min_size=count, max_size=count) for c in SCHEMA.columns if not c.part}
    rows = {name: draw(strategy) for name, strategy in many.items()}
    time = st.one_of(st.integers(-(10**14), 10**14), st.sampled_from([MISSING_INT, 2**63 - 1, 2**53, 0]))
    rows["at"] = draw(st.lists(time, min_size=count, max_size=count))
    past = st.lists(st.tuples(*(raw_strategy(SCHEMA.column(n)) for n in ("item", "shelf", "words"))), max_size=6)
    rows["history"] = draw(st.lists(past, min_size=count, max_size=count))
    return rows


def feed_of(rows: dict[str, list]) -> dict[str, np.ndarray]:
    feed = {}
    for column in (c for c in SCHEMA.columns if not c.part):
        feed[column.name] = as_input(column, rows[column.name])
    feed["at"] = np.array(rows["at"], dtype="int64")
    width = max(1, *map(len, rows["history"]))
    for n, name in enumerate(("item", "shelf", "words")):
        column = SCHEMA.column(name)
        blank: Any = [] if column.kind == "tags" else ""
        cells = [[entry[n] for entry in past] + [blank] * (width - len(past)) for past in rows["history"]]
        flat = as_input(column, [cell for past in cells for cell in past])
        feed[history_name(name)] = flat.reshape(len(cells), width, *flat.shape[1:])
    return feed


def as_input(column: Column, values: list) -> np.ndarray:
    if column.kind == "number":
        with np.errstate(over="ignore"):
            return np.array([np.nan if v is None else v for v in values], dtype="float32")
    integers = ENCODERS.columns[column.name].integers
    missing: Any = MISSING_INT if integers else ""
    if column.kind == "tags":
        width = max(1, *map(len, values))
        values = [tags + [missing] * (width - len(tags)) for tags in values]
    return np.array(values, dtype="int64" if integers else object)


def cleaned(column: Column, values: list) -> pd.Series:
    """What the cleaning of training makes of raw values."""
    if column.kind == "number":
        as_read = as_input(column, values).astype("float64")
        values = [v if np.isfinite(v) else None for v in as_read]
    elif column.kind == "tags":
        values = [[t for t in tags if t not in ("", MISSING_INT)] or None for tags in values]
    else:
        values = [None if v in ("", MISSING_INT) else v for v in values]
    result = series(column, values)
    return result if column.fill is None else fill_missing(result, column.fill)


def expected(rows: dict[str, list]) -> dict[str, np.ndarray]:
    count = len(rows["at"])
    frame = {c.name: cleaned(c, rows[c.name]) for c in SCHEMA.columns if not c.part}
    known = np.array([abs(t) <= 2**53 for t in rows["at"]])
    seconds = np.array([t / 1000 if k else 0.0 for t, k in zip(rows["at"], known, strict=True)])
    for column in (c for c in SCHEMA.columns if c.part):
        part = pd.Series(time_part(seconds, column.part, 5.5), dtype="Int64")
        frame[column.name] = part.where(pd.Series(known), pd.NA)
    sides = [encode_side(SCHEMA, ENCODERS, pd.DataFrame(frame), role) for role in ROLES]
    out = {"ids": np.hstack([s.ids for s in sides]), "numbers": np.hstack([s.numbers for s in sides])}
    out |= {name: ids for side in sides for name, ids in side.tags.items()}
    for name in ("item", "shelf", "words"):
        out[history_name(name)] = np.zeros((count, LENGTH, *([2] if name == "words" else [])), dtype="int64")
    for row, past in enumerate(rows["history"]):
        real = [entry for entry in past if any(x not in ("", None) and x != [] and set(x) != {""} for x in entry)]
        for place, entry in enumerate(real[-LENGTH:]):
            items = pd.DataFrame({c.name: frame[c.name][:1] for c in SCHEMA.columns if c.role == "item"})
            for name, value in zip(("item", "shelf", "words"), entry, strict=True):
                items[name] = cleaned(SCHEMA.column(name), [value])
            side = encode_side(SCHEMA, ENCODERS, items, "item")
            fields = [c.name for c in SCHEMA.fields if c.role == "item"]
            out["history.item"][row, place] = side.ids[0, fields.index("item")]
            out["history.shelf"][row, place] = side.ids[0, fields.index("shelf")]
            out["history.words"][row, place] = side.tags["words"][0]
    return out


def packed(ids: np.ndarray, axis: int, width: int) -> np.ndarray:
    """Padding moved to the end of an axis, cut or padded to `width`: places of padding do not matter."""
    order = np.argsort(ids == 0, axis=axis, kind="stable")
    moved = np.moveaxis(np.take_along_axis(ids, order, axis), axis, -1)
    assert not moved[..., width:].any()
    blank = np.zeros((*moved.shape[:-1], width), dtype=moved.dtype)
    blank[..., : moved.shape[-1]] = moved[..., :width]
    return np.moveaxis(blank, -1, axis)


def run(session: onnxruntime.InferenceSession, rows: dict[str, list]) -> dict[str, np.ndarray]:
    names = [o.name.removeprefix("out/") for o in session.get_outputs()]
    return dict(zip(names, session.run(None, feed_of(rows)), strict=True))


def check(rows: dict[str, list]) -> None:
    found, right = run(SESSION, rows), expected(rows)
    np.testing.assert_array_equal(found["ids"], right["ids"])
    np.testing.assert_allclose(found["numbers"], right["numbers"], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(packed(found["words"], 1, 2), right["words"])
    np.testing.assert_array_equal(packed(found["marks"], 1, 3), packed(right["marks"], 1, 3))
    for name in ("item", "shelf"):
        np.testing.assert_array_equal(packed(found[f"history.{name}"], 1, LENGTH), right[f"history.{name}"])
    order = np.argsort(found["history.item"] == 0, axis=1, kind="stable")
    words = np.take_along_axis(found["history.words"], order[..., None], 1)
    words = np.pad(words, ((0, 0), (0, max(0, LENGTH - words.shape[1])), (0, 0)))
    assert not words[:, LENGTH:].any()
    np.testing.assert_array_equal(packed(words[:, :LENGTH], 2, 2), right["history.words"])
    check_packed(run(PACKED, rows), right)


def check_packed(found: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(found["ids"], right["ids"])
    real_N = found["history.item"] != 0
    assert len(real_N) % PLACES == 0
    assert not any(found[name][~real_N].any() for name in (ROW, "history.shelf", "history.words"))
    for row in range(len(right["ids"])):
        places = np.flatnonzero(real_N & (found[ROW] == row))
        for name in ("item", "shelf", "words"):
            ids = found[f"history.{name}"][places]
            ids = packed(ids, 1, 2) if name == "words" else ids
            np.testing.assert_array_equal(ids, right[f"history.{name}"][row, : len(places)])
        assert not right["history.item"][row, len(places) :].any()


@settings(max_examples=60, deadline=None)
@given(raw_rows())
def test_raw_values_reach_the_rows_that_training_gives_them(rows):
    check(rows)


def test_a_history_longer_than_the_schemas_keeps_its_last_items():
    past = [("a", "tea", []), ("", "", []), ("b", "other", ["x"]), ("c", "", []), ("日本", "tea", ["z", "", "y", "x"])]
    row = {c.name: [TRAINED[c.name][0]] for c in SCHEMA.columns if not c.part}
    check({**row, "words": [["x"]], "marks": [[]], "at": [0], "history": [past]})


@pytest.mark.parametrize("part", ["hour", "weekday", "weekend", "month"])
def test_parts_of_the_time_are_those_of_the_calendar(part):
    column = SCHEMA.column(part)
    ids_of = {value: n + 1 for n, value in enumerate(ENCODERS.columns[part].kept)}
    place = [c.name for c in SCHEMA.fields].index(part)
    moments = [datetime.datetime(1600, 2, 29, 23, 59), datetime.datetime(1969, 12, 31, 18, 29, 59)]
    moments += [datetime.datetime(2000, 2, 29), datetime.datetime(2024, 12, 31, 23, 30), datetime.datetime(2100, 3, 1)]
    for moment in moments:
        local = moment + datetime.timedelta(hours=5, minutes=30)
        value = {
            "hour": local.hour,
            "weekday": local.weekday(),
            "weekend": int(local.weekday() >= 5),
            "month": local.month,
        }[part]
        milliseconds = int((moment - datetime.datetime(1970, 1, 1)).total_seconds() * 1000)
        row = {c.name: [TRAINED[c.name][0]] for c in SCHEMA.columns if not c.part}
        feed = feed_of({**row, "words": [[]], "marks": [[]], "at": [milliseconds], "history": [[]]})
        (ids,) = SESSION.run(["out/ids"], feed)
        assert ids[0, place] == SCHEMA.offset(column.name) + ids_of.get(value, 0)
