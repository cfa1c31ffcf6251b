import json
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.data.cells import as_category, as_tags
from recsys.data.encoders import Buckets, Encoders, Standardiser, Vocabulary, fit_encoder
from recsys.schema import Column

values_of_categories = st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "7", "07", "12"])), max_size=12)
number = st.integers(-(10**6), 10**6).map(lambda n: n / 1000)
numbers = st.lists(st.one_of(number, st.just(np.nan)), min_size=1, max_size=12).map(np.array)
weights = st.integers(0, 3)
brute_force = settings(deadline=None, max_examples=60)


def column(kind, **options):
    return Column(name="x", role="item", kind=kind, **options)


def tags(cells):
    return as_tags(pd.Series(cells, dtype="str"), column("tags"))


@brute_force
@given(values_of_categories, st.integers(1, 3), st.data())
def test_vocabulary_by_loop(values, min_count, data):
    weight = data.draw(arrays("int64", len(values), elements=weights))
    vocabulary = Vocabulary.fit(pd.Series(values, dtype="str"), weight, min_count=min_count)
    counts = Counter()
    for value, w in zip(values, weight.tolist(), strict=True):
        counts[value] += w
    kept = sorted(v for v, count in counts.items() if v is not None and count >= max(1, min_count))
    probe = [*values, "new", None]
    expected = [kept.index(v) + 1 if v in kept else 0 for v in probe]
    assert vocabulary.encode(pd.Series(probe, dtype="str")).tolist() == expected
    assert vocabulary.size == len(kept) + 1


@brute_force
@given(values_of_categories, values_of_categories, st.integers(1, 3))
def test_vocabularies_merge_into_the_fit_on_all_rows(a, b, min_count):
    fits = [Vocabulary.fit(as_category(pd.Series(part, dtype="str")), min_count=min_count) for part in (a, b, [*a, *b])]
    assert fits[0].merge(fits[1]) == fits[2]


def test_integers_and_texts_find_each_other():
    integers = Vocabulary.fit(pd.Series([5, 30, 10**18], dtype="Int64"))
    assert integers.encode(pd.Series(["30", "030", "5.0", str(10**18), None])).tolist() == [2, 0, 0, 3, 0]
    assert integers.encode(pd.Series([30, 31, None], dtype="Int64")).tolist() == [2, 0, 0]
    texts = Vocabulary.fit(pd.Series(["5", "x"]))
    assert texts.encode(pd.Series([5, 6, None], dtype="Int64")).tolist() == [1, 0, 0]


def test_nothing_seen_makes_everything_unseen():
    empty = Vocabulary.fit(pd.Series([None, None], dtype="str"))
    assert (empty.size, empty.encode(pd.Series(["a", None])).tolist()) == (1, [0, 0])
    assert empty.encode(pd.Series([1, None], dtype="Int64")).tolist() == [0, 0]


@brute_force
@given(numbers, st.booleans(), st.sampled_from([None, (-10.0, 100.0)]), st.data())
def test_standardiser_by_loop(values, log1p, clip, data):
    weight = data.draw(arrays("int64", len(values), elements=weights))
    encoder = Standardiser.fit(values, weight, log1p=log1p, clip=clip)

    def shape(value):
        value = min(max(value, clip[0]), clip[1]) if clip else value
        return np.log1p(max(value, 0.0)) if log1p else value

    seen = [shape(v) for v, w in zip(values, weight, strict=True) for _ in range(w) if not np.isnan(v)]
    mean = np.mean(seen) if seen else 0.0
    std = np.std(seen) if seen else 0.0
    std = std if std > 1e-9 * max(1.0, abs(mean)) else 1.0
    expected = [0.0 if np.isnan(v) else (shape(v) - mean) / std for v in values]
    np.testing.assert_allclose(encoder.encode(values), expected, rtol=1e-4, atol=1e-4)


@brute_force
@given(numbers, numbers, st.booleans())
def test_standardisers_merge_into_the_fit_on_all_rows(a, b, log1p):
    halves = [Standardiser.moments(part, None, log1p, None) for part in (a, b)]
    whole = Standardiser.fit(np.concatenate([a, b]), log1p=log1p)
    assert Standardiser.of(halves[0] + halves[1], log1p=log1p) == whole


def test_constant_missing_and_plain_numbers():
    constant = Standardiser.fit(np.full(7, 0.1))
    assert constant.encode(np.array([0.1, np.nan])).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    nothing = Standardiser.fit(np.array([np.nan]))
    assert nothing.encode(np.array([2.0, np.nan])).tolist() == [2.0, 0.0]
    plain = Standardiser.fit(np.array([1.0, 3.0]), standardise=False)
    assert plain.encode(np.array([7.0, np.nan])).tolist() == [7.0, 2.0]


@brute_force
@given(numbers, numbers, st.integers(2, 5), st.sampled_from([None, (-0.12345, 1234.5)]))
def test_buckets_merge_into_the_fit_on_all_rows(a, b, count, clip):
    fits = [Buckets.fit(part, buckets=count, clip=clip) for part in (a, b, np.concatenate([a, b]))]
    merged = fits[0].merge(fits[1])
    assert merged == fits[2]
    assert merged.boundaries.tolist() == fits[2].boundaries.tolist()


@brute_force
@given(st.lists(st.integers(-99, 99), min_size=1, max_size=30), st.integers(2, 6))
def test_buckets_by_loop(values, count):
    """The k-th boundary is the smallest value that more than k/n of all values do not exceed."""
    encoder = Buckets.fit(np.array(values, dtype="float64"), buckets=count)
    share = {v: sum(other <= v for other in values) for v in values}
    cuts = {min(v for v in values if share[v] * count > k * len(values)) for k in range(1, count)} - {min(values)}
    expected = [1 + sum(cut <= v for cut in cuts) for v in values]
    assert encoder.encode(np.array(values, dtype="float64")).tolist() == expected
    assert encoder.size == len(cuts) + 2


def test_buckets_of_missing_extreme_and_tiny_values():
    encoder = Buckets.fit(np.array([1.0, 2.0, 3.0, 4.0, np.nan]), buckets=4)
    assert encoder.encode(np.array([np.nan, -1e30, 1e30, np.inf, 1e300])).tolist() == [0, 1, 4, 0, 0]
    # Bug: values below 1e-12 were all rounded to 0, one bucket.
    assert Buckets.fit(np.array([1e-15, 2e-15, 3e-15, 4e-15]), buckets=2).boundaries.tolist() == [
        float(np.float32(3e-15))
    ]


@brute_force
@given(st.one_of(st.floats(1e-30, 1e30), st.floats(-1e30, -1e-30)))
def test_summaries_hold_five_digits(value):
    [rounded] = Buckets.fit(np.array([value]), buckets=2).values
    assert rounded == pytest.approx(value, rel=0.5 / 10_000 * 1.0001)
    assert rounded == pytest.approx(float(f"{rounded:.5g}"), rel=1e-14)
    assert Buckets.fit(np.array([rounded]), buckets=2).values == [rounded]


def test_only_training_rows_count():
    """A weight says how many training rows show an entry; entries without one leave no trace."""
    weight = np.array([2, 0, 1])
    vocabulary = fit_encoder(column("category", min_count=2), pd.Series(["a", "b", "c"]), weight)
    assert (vocabulary.values, vocabulary.counts, vocabulary.size) == (["a", "c"], [2, 1], 2)
    standardiser = fit_encoder(column("number"), pd.Series([1.0, 100.0, 4.0]), weight)
    assert (standardiser.count, standardiser.mean) == (3, (1 + 1 + 4) / 3)
    buckets = fit_encoder(column("number", buckets=2), pd.Series([1.0, 100.0, 4.0]), weight)
    assert (buckets.values, buckets.counts) == ([1.0, 4.0], [2, 1])
    labels = fit_encoder(column("tags"), tags(["x|y", "z", "y"]), weight)
    assert (labels.values, labels.counts) == (["x", "y"], [2, 2 + 1])


tag_cells = st.lists(st.one_of(st.none(), st.lists(st.sampled_from(["1", "2", "x", "new"]), max_size=4).map("|".join)))


@brute_force
@given(tag_cells.filter(len), st.integers(1, 3), st.booleans())
def test_tags_by_loop(cells, length, integers):
    known = [1, 2] if integers else ["1", "2", "x"]
    encoders = Encoders(columns={"x": Vocabulary(values=known, counts=[1] * len(known))})
    expected = []
    for cell in cells:
        found = [t for t in (cell or "").split("|") if t][:length]
        ids = [list(map(str, known)).index(t) + 1 if t in map(str, known) else 0 for t in found]
        expected.append(ids + [-1] * (length - len(ids)))
    assert encoders.encode_tags("x", tags(cells), length).tolist() == expected


def test_tags_of_integer_lists():
    cells = pd.Series([[7, 8], None, [9]], dtype=pd.ArrowDtype(pa.list_(pa.int64())))
    typed = as_tags(cells, column("tags"))
    encoder = fit_encoder(column("tags"), typed, np.array([1, 1, 0]))
    assert encoder.values == [7, 8]
    assert Encoders(columns={"x": encoder}).encode_tags("x", typed, 2).tolist() == [[1, 2], [-1, -1], [0, -1]]


def test_json_round_trip(tmp_path):
    encoders = Encoders(
        columns={
            "text": Vocabulary.fit(pd.Series(["é", '"', "b"]), min_count=2),
            "integer": Vocabulary.fit(pd.Series([2**62, -1], dtype="Int64")),
            "number": Standardiser.fit(np.array([0.1, 0.2, 0.7]), log1p=True, clip=(0.0, 0.5)),
            "bucket": Buckets.fit(np.array([0.1, 0.2, 0.7]), buckets=3, clip=(0.0, 0.5)),
            "empty": Vocabulary.fit(pd.Series([], dtype="str")),
        }
    )
    encoders.save(tmp_path / "encoders.json")
    again = Encoders.load(tmp_path / "encoders.json")
    assert again == encoders
    assert again.sizes() == {"text": 1, "integer": 3, "bucket": encoders.columns["bucket"].size, "empty": 1}
    text = (tmp_path / "encoders.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == list(encoders.columns)
    assert len(text.splitlines()) == len(encoders.columns) + 2  # one column per line, for people


def test_ids_and_numbers_by_name():
    encoders = Encoders(
        columns={"c": Vocabulary.fit(pd.Series(["a"])), "b": Buckets.fit(np.array([1.0, 2.0]), buckets=2)}
    )
    assert encoders.encode_ids("c", pd.Series(["a", "b"])).tolist() == [1, 0]
    assert encoders.encode_ids("b", pd.Series([0.0, 5.0, None])).tolist() == [1, 2, 0]


def test_years_fall_into_true_quantiles():
    """Bug: values were counted at three digits, so buckets of years could only be decades."""
    years = np.arange(1990.0, 2000.0)
    encoder = Buckets.fit(years, buckets=5)
    assert encoder.boundaries.tolist() == [1992, 1994, 1996, 1998]
