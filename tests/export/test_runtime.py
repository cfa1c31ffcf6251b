"""Raw columns through a bundle's runtime against an oracle of a few lines, and in a process that has almost nothing."""

import datetime
import decimal
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.runtime import INTEGER, MISSING, NUMBER, SMALLEST, STRING, Column, main

ROOT = Path(__file__).resolve().parents[2]
NASTY = st.one_of(
    st.none(), st.text(), st.integers(), st.floats(), st.booleans(), st.binary(), st.decimals(), st.dates(), st.uuids()
)


def random_rows(toys, rows: int = 200) -> list[dict]:
    """Known, unseen and missing values, lists of 0 to 4."""
    rng = np.random.default_rng(0)

    def draw(values: dict, other: object) -> object:
        return rng.choice([*values, other, None])

    def several(values: dict) -> list:
        return [rng.choice([*values, "other"]).item() for _ in range(rng.integers(0, 5))]

    return [
        {
            "user": draw(toys.USERS, "nobody"),
            "item": draw(toys.ITEMS, "no item"),
            "shelf": draw(toys.SHELVES, 2**62),
            "price": rng.choice([None, 0.0, 2.5, -1e3]),
            "tags": several(toys.TAGS),
            "history.item": several(toys.ITEMS),
        }
        for _ in range(rows)
    ]


def oracle(toys, rows: list[dict]) -> list[np.float32]:
    return [toys.expected_score(**{name.removesuffix(".item"): v for name, v in row.items()}) for row in rows]


def test_columns_as_lists_arrays_and_pandas_score_as_the_oracle_says(toys, bundle):
    rows = random_rows(toys)
    lists = {name: [row[name] for row in rows] for name in rows[0]}
    frame = pd.DataFrame(lists)
    typed = frame.astype({"user": "string", "item": "str", "shelf": "Int64", "price": "Float32"})
    arrays = {name: column.to_numpy() for name, column in frame.items()}
    for columns in (lists, frame, typed, arrays, typed.convert_dtypes(dtype_backend="pyarrow")):
        scores = bundle.score(columns)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, oracle(toys, rows), atol=1e-6)


def test_a_row_scores_alike_alone_and_among_others(toys, bundle):
    rows = random_rows(toys, 20)
    together = bundle.score({name: [row[name] for row in rows] for name in rows[0]})
    alone = [bundle.score({name: [value] for name, value in row.items()})[0] for row in rows]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_columns_left_out_are_missing(toys, bundle):
    np.testing.assert_allclose(bundle.score({"user": ["ann", "nobody"]}), [toys.sigmoid(0.5), toys.sigmoid(0)])


def test_no_rows_give_no_scores(bundle):
    assert bundle.score({"user": []}).shape == (0,)
    assert bundle.rank(user={}, candidates=[], k=3)[0].shape == (0,)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["12", "-3", " 7 "], [12, -3, 7]),
        ([True, np.int8(4), 5.0, decimal.Decimal(6)], [1, 4, 5, 6]),
        (["007", "1_000", "+1", "1.0", "١", "", "x", b"8"], [SMALLEST] * 7 + [8]),
        ([2**63, -(2**63) - 1, 1e300, 2.5, float("inf"), "9" * 5000], [SMALLEST] * 6),
        ([decimal.Decimal("1E+1000000000"), 1j, object(), "9" * 19], [SMALLEST] * 4),
        ([decimal.Decimal("sNaN"), 2**63 - 1, "-9223372036854775807"], [SMALLEST, 2**63 - 1, SMALLEST + 1]),
        ([None, float("nan"), pd.NA, np.nan, pd.NaT, np.float32("nan")], [SMALLEST] * 6),
        (np.array([1, 2], "uint8"), [1, 2]),
        (np.array([2**63, 5], "uint64"), [SMALLEST, 5]),
        (np.array([1.0, np.nan, 2.5]), [1, SMALLEST, SMALLEST]),
        (pd.array([1, None], "Int64"), [1, SMALLEST]),
    ],
)
def test_whole_numbers_of_any_kind_reach_an_integer_column_and_the_rest_is_unseen(values, expected):
    assert Column("shelf", INTEGER, (None,)).array(values).tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 41.5, 42.0, True, b"\xff"], ["1", "41.5", "42.0", "True", "�"]),
        ([None, np.nan, pd.NA, "", "\0", "x\0y"], ["", "", "", "", "\0", "x\0y"]),
        (["\ud800x", 10**5000], ["?x", ""]),
        (np.array([3, 4]), ["3", "4"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (pd.Series(["a", None], dtype="category"), ["a", ""]),
    ],
)
def test_any_value_of_a_string_column_becomes_its_text(values, expected):
    assert Column("user", STRING, (None,)).array(values).tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5, True, decimal.Decimal("0.5")], [1, 2.5, 1, 0.5]),
        ([10**400, -(10**400), 1e300], [np.inf, -np.inf, np.inf]),
        ([None, pd.NA, np.nan], [np.nan] * 3),
        (np.array([1, 2]), [1, 2]),
        (pd.array([1.5, None], "Float64"), [1.5, np.nan]),
    ],
)
def test_numbers_of_any_kind_reach_a_number_column(values, expected):
    np.testing.assert_array_equal(Column("price", NUMBER, (None,)).array(values), np.array(expected, "float32"))


@given(st.lists(NASTY, min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_no_value_of_a_string_column_is_refused(values):
    array = Column("user", STRING, (None,)).array(values)
    assert [type(text) for text in array] == [str] * len(values)
    "".join(array).encode()  # what ONNX Runtime does with it


@given(st.lists(NASTY.filter(lambda v: not isinstance(v, datetime.date)), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_an_integer_column_holds_a_value_exactly_or_not_at_all(values):
    for value, number in zip(values, Column("shelf", INTEGER, (None,)).array(values), strict=True):
        if number == SMALLEST:
            continue
        text = value.decode() if isinstance(value, bytes) else value
        assert (text.strip() == str(number)) if isinstance(text, str) else number == text


@given(st.lists(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=4), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_lists_of_lists_are_padded_as_two_loops_would(values):
    array = Column("history.tags", INTEGER, (None, None, None)).array(values)
    length = max(1, max(len(row) for row in values))
    width = max(1, max((len(tags) for row in values for tags in row), default=0))
    expected = np.full((len(values), length, width), SMALLEST)
    for b, row in enumerate(values):
        for n, tags in enumerate(row):
            expected[b, n, : len(tags)] = tags
    assert array.tolist() == expected.tolist()


def test_a_fixed_length_keeps_the_first_tags_and_the_latest_of_a_history():
    values = [["a", "b", "c"], ["d"], None]
    assert Column("tags", STRING, (None, 2)).array(values).tolist() == [["a", "b"], ["d", ""], ["", ""]]
    assert Column("history.item", STRING, (None, 2)).array(values).tolist() == [["b", "c"], ["d", ""], ["", ""]]
    assert Column("tags", STRING, (None, 2)).array(np.array([["a", "b", "c"]])).tolist() == [["a", "b"]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"price": [1.0, "12.5"]}, "column 'price', row 1: must be a number, got '12.5'"),
        ({"price": [[1.0]]}, r"column 'price', row 0: must be a single value, got \[1.0\]"),
        ({"user": ["ann", {"id": 3}]}, "column 'user', row 1: must be a single value, got {'id': 3}"),
        ({"tags": [["red"], "red|blue"]}, r"column 'tags', row 1: must be a list of values, got 'red\|blue'"),
        ({"tags": [[], ["red", ["blue"]]]}, r"column 'tags', row 1: must be a single value, got \['blue'\]"),
        (
            {"shelf": [datetime.date(2024, 1, 1)]},
            "column 'shelf', row 0: must be an integer, got the moment 2024-01-01",
        ),
        ({"shelf": np.array(["2024-01-01"], "M8[ns]")}, "column 'shelf', row 0: must be an integer, got the moment"),
        ({"usr": ["ann"]}, "recommender takes no column 'usr': did you mean 'user'?"),
        ({"user": "ann"}, "column 'user' must be a list with one value per row, got 'ann'"),
        ({"user": ["ann"], "item": []}, r"all with as many rows, got {'user': 1, 'item': 0}"),
        ({}, "at least one column"),
    ],
)
def test_wrong_columns_are_refused_by_name_row_and_value(bundle, columns, message):
    with pytest.raises(ValueError, match=message):
        bundle.score(columns)


def test_candidates_are_ranked_for_one_user(toys, bundle):
    candidates = ["i2", "i3", "nothing", None, "i1"]
    scores, best = bundle.rank(user={"user": "ann", "history.item": ["i4", "i3"]}, candidates=candidates, k=3)
    expected = [toys.expected_score("ann", c, history=["i4", "i3"]) for c in candidates]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert best.tolist() == np.argsort(-np.array(expected), kind="stable")[:3].tolist()
    assert len(bundle.rank(user={"user": "ann"}, candidates=np.array(["i1", "i2"]), k=50)[1]) == 2


def test_unseen_items_are_retrieved_best_first(toys, bundle):
    items, scores = bundle.retrieve(user={"user": "böb"}, seen=["i3", "nothing"], k=3)
    assert items.tolist() == ["i4", "i1", "i2"]
    np.testing.assert_allclose(scores, [toys.expected_score("böb", i) for i in items], atol=1e-6)
    assert bundle.retrieve(user={}, seen=[], k=1)[0].tolist() == ["i3"]
    assert bundle.retrieve(user={}, seen=list(toys.ITEMS), k=2)[0].tolist() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: b.rank(user={"user": "ann"}, candidates="i1", k=1), "`candidates` must be a list of item keys"),
        (lambda b: b.rank(user={"user": "ann"}, candidates=["i1"], k=0), "`k` must be an integer of at least 1, got 0"),
        (lambda b: b.rank(user={"user": "ann"}, candidates=["i1"], k=True), "`k` must be an integer"),
        (lambda b: b.rank(user={"user": ["ann"]}, candidates=["i1"], k=1), "column 'user', row 0: must be a single"),
        (lambda b: b.rank(user={"users": "ann"}, candidates=["i1"], k=1), "no column 'users': did you mean 'user'"),
        (lambda b: b.rank(user={"k": 3}, candidates=["i1"], k=1), "ranker takes no column 'k'"),
        (lambda b: b.retrieve(user={"item": "i1"}, seen=[], k=1), "retriever takes no column 'item'"),
    ],
)
def test_wrong_requests_are_refused(bundle, call, message):
    with pytest.raises(ValueError, match=message):
        call(bundle)


def test_a_graph_that_is_not_there_is_named(toys):
    with pytest.raises(ValueError, match=r"no ranker.onnx; it has: recommender"):
        toys.open_here(recommender=toys.recommender()).rank(user={}, candidates=["i1"], k=1)


def test_the_missing_values_are_those_of_the_graphs():
    assert MISSING[STRING] == ""
    assert MISSING[INTEGER] == np.iinfo("int64").min
    assert np.isnan(MISSING[NUMBER])


def test_the_command_line_prints_scores(toys, folder, tmp_path, capsys):
    (tmp_path / "rows.json").write_text(json.dumps({"user": ["ann", None]}))
    assert main([str(folder), str(tmp_path / "rows.json")]) == 0
    np.testing.assert_allclose(json.loads(capsys.readouterr().out)["score"], [toys.sigmoid(0.5), 0.5])
    (tmp_path / "rows.json").write_text("[1]")
    assert main([str(folder), str(tmp_path / "rows.json")]) == 1
    assert main([str(tmp_path / "nothing"), str(tmp_path / "rows.json")]) == 1
    assert main([]) == 2


BARE = """
import json, sys
sys.path.insert(0, sys.argv[1])  # a folder with numpy, onnxruntime and what these need

class Refuse:
    def find_spec(self, name, path=None, target=None):
        allowed = {*sys.stdlib_module_names, *json.loads(sys.argv[4])}
        if name.partition(".")[0] not in allowed:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
for absent in ("torch", "pandas", "pytorch_lightning", "recsys", "export", "onnx"):
    try:
        __import__(absent)
    except ImportError:
        continue
    sys.exit(f"{absent} can be imported here")

sys.path.insert(0, sys.argv[2])
from runtime import Bundle

columns, rank, retrieve = json.loads(sys.argv[3])
bundle = Bundle.load(sys.argv[2])
print(json.dumps([bundle.answer("score", columns), bundle.answer("rank", rank), bundle.answer("retrieve", retrieve)]))
"""
NEEDED = ["numpy", "numpy.libs", "onnxruntime", "flatbuffers", "google", "packaging"]


@pytest.mark.parametrize("kind", ["plain", "encrypted"])
def test_a_process_without_torch_pandas_or_this_package_scores_alike(
    toys, bundle, request, tmp_path, kind, monkeypatch
):
    folder = request.getfixturevalue("folder" if kind == "plain" else "locked")
    needed = NEEDED + (["cryptography", "cffi", "_cffi_backend"] if kind == "encrypted" else [])
    site = tmp_path / "site"
    site.mkdir()
    for installed in Path(np.__file__).parents[1].iterdir():
        if installed.name in needed or installed.name.split(".")[0] == "_cffi_backend":
            (site / installed.name).symlink_to(installed)
    rows = random_rows(toys, 50)
    columns = {name: [None if v is None else v for v in (row[name] for row in rows)] for name in rows[0]}
    columns = json.loads(json.dumps(columns, default=lambda value: value.item()))
    requests = [columns, toys.SAMPLE["rank"], toys.SAMPLE["retrieve"]]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BARE, site, folder, json.dumps(requests), json.dumps([*needed, "runtime"])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"RECSYS_BUNDLE_KEY": toys.KEY.hex()},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    verbs = ("score", "rank", "retrieve")
    assert json.loads(done.stdout) == [bundle.answer(v, r) for v, r in zip(verbs, requests, strict=True)]
