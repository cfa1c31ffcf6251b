"""Cells become identifiers, numbers, moments and tags without a collision or a loss."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.cells import as_category, as_number, as_seconds, as_tags, fill_missing, same_type, time_part
from recsys.schema import Column, Time

TAGS = Column(name="tags", role="item", kind="tags")
many = settings(deadline=None)

identifiers = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["007", "7", "-0", "0", "00", "1.0", "1", "NA", "+7", "1e3", "é"]),
    st.text("019-", min_size=1, max_size=20),
)


@many
@given(st.lists(st.one_of(identifiers, st.none()), min_size=1, max_size=8))
def test_identifiers_never_collide_and_never_change(values):
    typed = as_category(pd.Series(values, dtype="str"))
    assert [None if pd.isna(v) else str(v) for v in typed] == values  # "-0" once became 0


@many
@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.none()), min_size=1, max_size=8))
def test_integers_stay_exact_beside_missing_values(values):
    typed = as_category(pd.Series(values, dtype="Int64", index=range(5, 5 + len(values))))
    assert [None if pd.isna(v) else v for v in typed] == values
    texts = pd.Series([None if v is None else str(v) for v in values], dtype="str", index=typed.index)
    again = as_category(texts)
    assert [None if pd.isna(v) else int(v) for v in again] == values
    assert again.index.equals(texts.index)


def test_floats_are_integers_only_when_all_are_whole():
    assert as_category(pd.Series([1.0, np.nan, -2.0])).dtype == "Int64"
    assert as_category(pd.Series([1.0, 2.5, None])).tolist()[:2] == ["1.0", "2.5"]
    assert as_category(pd.Series([2.0**60])).tolist() == [repr(2.0**60)]
    assert as_category(pd.Series(["1.0", "1"])).tolist() == ["1.0", "1"]
    assert as_category(pd.Series([decimal.Decimal(12), None])).dtype == "Int64"


@pytest.mark.parametrize(
    ("left", "right", "equal"), [([7], ["7"], True), ([7], ["007"], False), ([2**60 + 1], [str(2**60 + 1)], True)]
)
def test_integers_and_texts_compare_as_texts(left, right, equal):
    a, b = same_type(pd.Series(left, dtype="Int64"), pd.Series([*right, "x"], dtype="str"))
    assert (a[0] == b[0]) == equal


def test_numbers():
    texts = pd.Series(["1.5", " 2", "1e3", "inf", "1e999", "abc", "TRUE", "false", None])
    expected = [1.5, 2.0, 1000.0, np.nan, np.nan, np.nan, 1.0, 0.0, np.nan]
    np.testing.assert_array_equal(as_number(texts), expected)
    np.testing.assert_array_equal(as_number(pd.Series([1, None], dtype="Int64")), [1.0, np.nan])
    np.testing.assert_array_equal(as_number(pd.Series([True, None], dtype="boolean")), [1.0, np.nan])
    np.testing.assert_array_equal(as_number(pd.Series([decimal.Decimal("1.5"), None])), [1.5, np.nan])


NOON = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([NOON.timestamp(), None]),
        pd.Series([str(int(NOON.timestamp())), None]),
        pd.Series(["2024-02-29T12:30:00", None]),
        pd.Series(["2024-02-29 13:30:00+01:00", None]),
        pd.Series([pd.Timestamp("2024-02-29 12:30"), None]),
        pd.Series([pd.Timestamp(NOON).tz_convert("Asia/Tokyo"), None]),
        pd.Series(np.array(["2024-02-29T12:30", "NaT"], dtype="datetime64[ms]")),
    ],
    ids=["float", "text", "ISO", "ISO with zone", "datetime64", "datetime64 with zone", "milliseconds"],
)
def test_every_way_to_write_a_moment(values):
    np.testing.assert_array_equal(as_seconds(values, Time(column="t")), [NOON.timestamp(), np.nan])


def test_milliseconds_and_dates():
    assert as_seconds(pd.Series(["1500"]), Time(column="t", unit="ms")).tolist() == [1.5]
    assert as_seconds(pd.Series(["1,5", "2"]), Time(column="t"), decimal=",").tolist() == [1.5, 2.0]
    assert as_seconds(pd.Series([datetime.date(1970, 1, 3)]), Time(column="t")).tolist() == [2 * 86400.0]


def test_one_bad_cell_does_not_turn_numbers_into_dates():
    """Bug: with one unreadable cell, all the others were read as ISO dates: "20240101" became a day, the rest NaT."""
    found = as_seconds(pd.Series(["20240101", "881250949", "oops"]), Time(column="t"))
    np.testing.assert_array_equal(found, [20240101.0, 881250949.0, np.nan])


@many
@given(st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)), st.integers(-12, 14))
def test_time_parts_are_those_of_datetime(moment, offset):
    seconds = np.array([moment.replace(tzinfo=datetime.UTC, microsecond=0).timestamp()])
    local = moment.replace(microsecond=0) + datetime.timedelta(hours=offset)
    expected = {
        "hour": local.hour,
        "weekday": local.weekday(),
        "weekend": int(local.weekday() >= 5),
        "month": local.month,
    }
    assert {part: time_part(seconds, part, offset).tolist() for part in expected} == {
        part: [value] for part, value in expected.items()
    }


def tags_by_loop(cell, sep):
    found = [tag.strip() for tag in cell.split(sep)] if cell is not None else []
    return [tag for tag in found if tag]


@many
@given(st.lists(st.one_of(st.none(), st.text("a1| \t", max_size=8)), min_size=1, max_size=6))
def test_tags_of_texts(cells):
    """Bug: "a||b" held an empty tag and "a | b" the tags "a " and " b"."""
    found = as_tags(pd.Series(cells, dtype="str"), TAGS)
    assert [[] if v is pd.NA else list(map(str, v)) for v in found] == [tags_by_loop(c, "|") for c in cells]
    assert found.isna().tolist() == [not tags_by_loop(cell, "|") for cell in cells]


def test_tags_of_lists():
    """Bug: a null among integers turned all tags into texts of floats."""
    cells = pd.Series([[10**17 + 1, None], [], None, [3]], dtype=pd.ArrowDtype(pa.list_(pa.int64())))
    found = as_tags(cells, TAGS)
    assert found.isna().tolist() == [False, True, True, False]
    assert [list(v) for v in found.dropna()] == [[10**17 + 1], [3]]
    names = pd.Series([["b", " "], ["", None, "a"]], dtype=pd.ArrowDtype(pa.list_(pa.string())))
    assert [list(v) for v in as_tags(names, TAGS)] == [["b"], ["a"]]


@pytest.mark.parametrize(
    ("values", "fill", "expected"),
    [
        (pd.Series([1, None], dtype="Int64"), 5, [1, 5]),
        (pd.Series([1, None], dtype="Int64"), "none", ["1", "none"]),
        (pd.Series([1, None], dtype="Int64"), 0.5, ["1", "0.5"]),
        (pd.Series(["a", None], dtype="str"), 5, ["a", "5"]),
        (pd.Series([1.5, None]), 2, [1.5, 2.0]),
    ],
)
def test_fill(values, fill, expected):
    assert fill_missing(values, fill).tolist() == expected


@pytest.mark.parametrize(("cells", "fill", "expected"), [(["1", ""], 2, [1, 2]), (["1", ""], "x", ["1", "x"])])
def test_fill_of_tags(cells, fill, expected):
    assert [tag for tags in fill_missing(as_tags(pd.Series(cells), TAGS), fill) for tag in tags] == expected
