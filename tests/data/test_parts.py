"""A table read in small parts gives the store of one read whole, byte for byte; what must be known of all rows is.

That reading whole is right is tested by the tests of cleaning, events and encoders.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data import events, tables
from recsys.data.coded import encode_cells, unify
from recsys.data.duplicates import row_hashes
from recsys.data.module import DataModule, DataSpec
from recsys.data.parts import Need, Part, Reading, read_parts

WORDS = ["a", "b", "7", "07", "-3", "12", "", "zürich"]
KINDS = {
    "word": {"role": "scene", "kind": "category"},
    "code": {"role": "scene", "kind": "category", "fill": 0},
    "name": {"role": "scene", "kind": "category", "fill": "none", "min_count": 2},
    "size": {"role": "scene", "kind": "number", "log1p": True, "fill": 1.5},
    "cost": {"role": "scene", "kind": "number"},
    "step": {"role": "scene", "kind": "number", "buckets": 3},
    "tags": {"role": "scene", "kind": "tags", "length": 2},
    "marks": {"role": "scene", "kind": "tags", "fill": 9},
    "must": {"role": "scene", "kind": "category", "missing": "drop"},
    "hour": {"role": "scene", "kind": "category", "part": "hour"},
}


def draw(seed: int, rows: int = 90) -> pd.DataFrame:
    """Rows of every kind of column, all as texts; integers alone in the first third of `word`."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user": rng.choice(["u1", "u2", "3", ""], rows, p=[0.4, 0.3, 0.25, 0.05]),
            "item": rng.integers(0, 40, rows).astype(str),
            "at": rng.integers(0, 10**6, rows).astype(str),
            "bought": rng.choice(["0", "1", "2", "x"], rows, p=[0.5, 0.44, 0.03, 0.03]),
            "word": np.where(np.arange(rows) < rows // 3, "5", rng.choice(WORDS, rows)),
            "code": np.where(np.arange(rows) < rows // 3, "", rng.integers(0, 4, rows).astype(str)),
            "name": rng.choice(WORDS, rows),
            "size": rng.choice(["1.5", "2", "", "many", "-1"], rows, p=[0.4, 0.3, 0.1, 0.1, 0.1]),
            "cost": rng.random(rows).astype(str),
            "step": rng.integers(0, 50, rows).astype(str),
            "tags": rng.choice(["x", "x|y", "", "z|x|y", " | "], rows),
            "marks": rng.choice(["1", "1|2", "", "3"], rows),
            "must": rng.choice(["p", "q", ""], rows, p=[0.5, 0.4, 0.1]),
        }
    )
    return pd.concat([frame, frame.sample(9, random_state=seed)], ignore_index=True)


def declare(path: Path, **options) -> dict:
    keys = {"user": {"role": "user", "kind": "category"}, "item": {"role": "item", "kind": "category"}}
    return {
        "name": "parts",
        "tables": {"behaviour": {"path": str(path)}},
        "user": "user",
        "item": "item",
        "time": {"column": "at"},
        "label": {"kind": "binary", "column": "bought"},
        "columns": keys | KINDS,
        "history": {"columns": ["item"], "length": 3},
        "split": {"by": "time", "valid": 0.2, "test": 0.2},
        **options,
    }


def store_of(mapping: dict, cache: Path, monkeypatch, rows: int) -> dict[str, bytes]:
    """Every file of the store that is written when `rows` rows are read at a time."""
    monkeypatch.setattr(events, "ROWS", rows)
    monkeypatch.setattr(tables, "_BLOCK", 40 * rows + 200)
    data = DataModule(DataSpec.parse(mapping), cache=cache / str(rows))
    data.prepare_data()
    return {path.name: path.read_bytes() for path in data.folder.iterdir()}


@pytest.mark.parametrize("duplicates", ["drop", "keep", "pairs"])
@pytest.mark.parametrize("parquet", [False, True])
def test_parts_make_the_store_of_the_whole(tmp_path, monkeypatch, parquet, duplicates):
    path = tmp_path / ("table.parquet" if parquet else "table.csv")
    frame = draw(1).replace("", None)
    frame.to_parquet(path) if parquet else frame.to_csv(path, index=False)
    mapping = declare(path)
    mapping["tables"]["behaviour"]["duplicates"] = duplicates
    whole = store_of(mapping, tmp_path, monkeypatch, 10**6)
    assert store_of(mapping, tmp_path, monkeypatch, 7) == whole
    assert store_of(mapping, tmp_path, monkeypatch, 30) == whole


def test_typed_columns_of_parquet(tmp_path, monkeypatch):
    """Floats that are whole at first, integers, truths, days, moments and lists.

    Bug: a missing truth ended in a pandas traceback.
    """
    rng = np.random.default_rng(0)
    frame = draw(2)
    count = len(frame)
    table = pa.table(
        {
            "user": frame["user"].astype("category"),
            "item": rng.integers(0, 5, count),
            "at": pd.to_datetime(rng.integers(0, 10**6, count), unit="s"),
            "bought": pa.array(rng.random(count) < 0.4, mask=np.arange(count) % 9 == 1),
            "word": np.append(np.arange(60.0), rng.random(count - 60)),
            "code": pa.array(rng.integers(0, 3, count), mask=np.arange(count) < 40),
            "name": pa.array(rng.integers(10**4, 10**4 + 5, count).astype("int32"), pa.int32()).cast(pa.date32()),
            "size": pa.array(rng.integers(0, 9, count).astype("uint64")),
            "cost": rng.random(count).astype("float32"),
            "step": pa.array(rng.random(count) < 0.5, mask=np.arange(count) % 7 == 1),
            "tags": [list(map(str, range(n))) for n in rng.integers(0, 4, count)],
            "marks": [list(range(n)) for n in rng.integers(0, 4, count)],
            "must": pa.array(frame["must"].where(frame["must"] != "", None)).cast(pa.large_binary()),
        }
    )
    pq.write_table(table, tmp_path / "table.parquet")
    mapping = declare(tmp_path / "table.parquet")
    whole = store_of(mapping, tmp_path, monkeypatch, 10**6)
    assert store_of(mapping, tmp_path, monkeypatch, 8) == whole


def test_files_of_different_types(tmp_path, monkeypatch):
    """Integers in one file and texts in the other are texts in all parts."""
    frame = draw(3).replace("", None)
    one, other = frame[:50], frame[50:]
    one.assign(item=one["item"].astype(int), word=5, cost=one["cost"].astype(float)).to_parquet(tmp_path / "1.parquet")
    other.to_parquet(tmp_path / "2.parquet")
    mapping = declare(tmp_path / "1.parquet")
    mapping["tables"]["behaviour"]["path"] = [str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet")]
    assert store_of(mapping, tmp_path, monkeypatch, 9) == store_of(mapping, tmp_path, monkeypatch, 10**6)


@pytest.mark.parametrize(("duplicates", "kept"), [("keep", [5, 5, 6]), ("pairs", [5, 6])])
def test_keys_that_two_files_write_differently_are_one(tmp_path, duplicates, kept):
    """Bug: 5 of one file and "5" of the other kept two codes, and both rows of the pair."""
    paths = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    pq.write_table(pa.table({"user": [5], "item": [1], "bought": [1]}), paths[0])
    pq.write_table(pa.table({"user": ["5", "6"], "item": [1, 1], "bought": [0, 1]}), paths[1])
    mapping = declare(tmp_path, columns={"item": {"role": "item", "kind": "category"}}, time=None, history=None)
    mapping["tables"]["behaviour"] = {"path": paths, "duplicates": duplicates}
    spec = DataSpec.parse(mapping)
    found = events.load_events(spec.tables, spec.schema)
    assert found.users["user"][found.user_E].tolist() == kept


def test_other_tables_are_joined_to_parts(tiny, tmp_path, monkeypatch):
    pd.DataFrame({"device": ["desk"], "place": ["home"]}).to_csv(tmp_path / "scenes.csv", index=False)
    tiny["tables"]["scenes"] = {"path": str(tmp_path / "scenes.csv"), "key": "device", "unknown": "keep"}
    tiny["tables"]["items"]["unknown"] = "keep"
    tiny["columns"]["place"] = {"role": "scene", "kind": "category", "fill": "out"}
    goods = pd.read_csv(tmp_path / "goods.csv")
    goods[3:].to_csv(tmp_path / "goods.csv", index=False)
    whole = store_of(tiny, tmp_path, monkeypatch, 10**6)
    assert store_of(tiny, tmp_path, monkeypatch, 11) == whole


def test_a_column_is_refused_by_all_its_rows(tmp_path, monkeypatch):
    """Nothing but bad values in the first parts is no mistake when there are few in all."""
    frame = draw(4).assign(cost=lambda f: np.where(np.arange(len(f)) < 20, "dear", "1.5"))
    frame.to_csv(tmp_path / "table.csv", index=False)
    mapping = declare(tmp_path / "table.csv")
    assert store_of(mapping, tmp_path, monkeypatch, 10) == store_of(mapping, tmp_path, monkeypatch, 10**6)
    frame.assign(cost="dear").to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(ValueError, match=r"column 'cost': \d+ of \d+ values are not a number \(such as 'dear'\)"):
        store_of(declare(tmp_path / "table.csv"), tmp_path, monkeypatch, 10)


@pytest.mark.parametrize("tagged", [None, 0])
def test_no_row_in_use_has_a_tag(tmp_path, tagged):
    """Bugs: tracebacks where no row has a tag, and where only rows have some that cleaning drops."""
    tags = pa.array([["x"] if row == tagged else [] for row in range(4)], pa.list_(pa.string()))
    table = pa.table({"user": [None, 1, 2, 3], "item": [1, 2, 3, 4], "bought": [1, 0, 1, 0], "tags": tags})
    pq.write_table(table, tmp_path / "t.parquet")
    columns = {"tags": {"role": "scene", "kind": "tags"}, "item": {"role": "item", "kind": "category"}}
    mapping = declare(tmp_path / "t.parquet", columns=columns, time=None, history=None)
    spec = DataSpec.parse(mapping)
    found = events.load_events(spec.tables, spec.schema)
    assert found.scene["tags"].isna().tolist() == [True] * 3
    assert [e["rows"] for e in found.report.entries if e["column"] == "tags"] == [3]


def test_nothing_is_left_beside_the_store(tiny, tmp_path):
    data = DataModule(DataSpec.parse(tiny), cache=tmp_path / "cache")
    data.prepare_data()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [data.folder.name]


def test_a_part_is_written_over_that_of_a_worker_that_died(tmp_path):
    """Bug: the work that Ray gives out again ended in a FileExistsError."""
    needs = [Need("word", "code")]
    list(read_parts([pa.table({"word": ["lost"]})], needs, tmp_path / "00000", True, 1))
    parts = list(read_parts([pa.table({"word": ["b", "a", "b"]})], needs, tmp_path / "00000", True, 1))
    assert Reading(tuple(needs), parts).column("word", "code").code_R.tolist() == [0, 1, 0]


def test_threads_open_arrays_one_at_a_time(tmp_path, monkeypatch):
    """Bug: "AST constructor recursion depth mismatch", now and then, of Python 3.11.7 in two threads."""
    part, load, opening, most = Part(folder=tmp_path, rows=3), np.load, [], []
    part.save("0", np.arange(3))

    def watched(file, mmap_mode):
        opening.append(file)
        time.sleep(0.01)
        most.append(len(opening))
        opening.pop()
        return load(file, mmap_mode)

    monkeypatch.setattr(np, "load", watched)
    with ThreadPoolExecutor(4) as pool:
        assert [array.tolist() for array in pool.map(part.array, ["0"] * 8)] == [[0, 1, 2]] * 8
    assert most == [1] * 8


cell = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(cell, max_size=6), min_size=1, max_size=4))
def test_codes_of_pieces_stand_for_their_cells(pieces):
    encoded = [encode_cells(pa.chunked_array([pa.array(piece, pa.string())])) for piece in pieces]
    values, places = unify([distinct for distinct, _ in encoded])
    assert len(set(values)) == len(values)
    for piece, (_, code), place in zip(pieces, encoded, places, strict=True):
        found = [None if c < 0 else values[place[c]] for c in code]
        assert found == piece


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(cell, st.sampled_from([0.0, -0.0, None, 1.5]), st.sampled_from([1, 2, None])), min_size=1))
def test_rows_are_equal_where_their_hashes_are(rows):
    text, number, integer = zip(*rows, strict=True)
    frame = pd.DataFrame({"t": text, "n": pd.Series(number, dtype="float64"), "i": pd.array(integer, dtype="Int64")})
    table = pa.table({"t": pa.array(text, pa.string()), "n": frame["n"].to_numpy(), "i": pa.array(integer, pa.int64())})
    hashes = pd.DataFrame(row_hashes(table))
    assert hashes.duplicated().tolist() == frame.duplicated().tolist()
    halves = hashes.drop_duplicates()
    assert halves[0].is_unique, "the first half alone tells rows apart"
    assert halves[1].is_unique, "the second half alone tells rows apart"


tags = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b", "ab"])), max_size=3))


@settings(deadline=None, max_examples=50)
@given(st.lists(tags, min_size=1, max_size=12), st.sampled_from([pa.list_(pa.string()), pa.large_list(pa.string())]))
def test_lists_are_equal_where_their_hashes_are(lists, kind):
    """Bug: all lists with a missing element were taken for equal, and [] for [""]."""
    hashes = pd.DataFrame(row_hashes(pa.table({"tags": pa.array(lists, kind)})))
    assert hashes.duplicated().tolist() == [cell in lists[:at] for at, cell in enumerate(lists)]


@pytest.mark.filterwarnings("error")
def test_the_greatest_integers_have_hashes_of_their_own():
    """Bug: integers from 2^63 on went through a cast that numpy warns of and a platform may answer as it likes."""
    high = np.array([0, 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1], dtype="uint64")
    low = np.array([0, 1, 2**63 - 1, 2**63 - 2, -(2**63), -1], dtype="int64")
    hashes = [row_hashes(pa.table({"id": pa.array(values)})) for values in (high, low)]
    assert all(len(np.unique(found, axis=0)) == len(found) for found in hashes)
    assert (hashes[0][:3] == hashes[1][:3]).all()


def test_moments_of_two_units_have_one_hash():
    """Bug: the same moment in milliseconds and in microseconds was not a duplicate."""
    moments = pa.array([None, 0, 1, -5, 10**9, 253_402_300_799], pa.timestamp("s"))
    hashes = [row_hashes(pa.table({"at": moments.cast(pa.timestamp(unit))})) for unit in ("s", "ms", "us")]
    hashes += [row_hashes(pa.table({"at": moments[:5].cast(pa.timestamp("ns", "UTC"))}))]
    assert len(np.unique(hashes[0][:, 0])) == len(moments)
    for other in hashes[1:]:
        np.testing.assert_array_equal(other, hashes[0][: len(other)])
