"""An encoder that saw other rows than those of training is named; each test starts from a store that passes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recsys.data.store
from recsys.data.encoders import Encoders
from recsys.data.module import DataModule, DataSpec
from recsys.data.recount import encoder_leaks
from recsys.data.split import TEST, TRAIN
from recsys.data.store import Store


def opened(mapping: dict, cache: Path) -> Store:
    data = DataModule(DataSpec.parse(mapping), cache=cache)
    data.prepare_data()
    data.setup()
    return data.store


def findings(store: Store) -> list[str]:
    return list(encoder_leaks(store))


def rewrite(tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = tmp_path / "visits.csv"
    change(pd.read_csv(path, keep_default_na=False)).to_csv(path, index=False)


def everything(part_E: np.ndarray) -> np.ndarray:
    return np.zeros_like(part_E)


def four_test_rows_more(part_E: np.ndarray) -> np.ndarray:
    seen = part_E.copy()
    seen[np.flatnonzero(part_E == TEST)[:4]] = TRAIN
    return seen


def four_test_rows_instead(part_E: np.ndarray) -> np.ndarray:
    seen = four_test_rows_more(part_E)
    seen[np.flatnonzero(part_E == TRAIN)[:4]] = TEST
    return seen


def let_encoder_see(monkeypatch: pytest.MonkeyPatch, column: str, rows: Callable[[np.ndarray], np.ndarray]) -> None:
    """From now on stores are built with an encoder of `column` that takes other rows for training rows."""
    fit = recsys.data.store.fit_encoders

    def leaky(schema, events, part_E, *workers):
        spoilt = fit(schema, events, rows(part_E)).columns[column]
        return Encoders(columns=fit(schema, events, part_E).columns | {column: spoilt})

    monkeypatch.setattr("recsys.data.store.fit_encoders", leaky)


@pytest.mark.parametrize("rows", [everything, four_test_rows_more])
@pytest.mark.parametrize("column", ["shopper", "years", "sku", "shelf", "labels", "device"])
def test_one_encoder_that_saw_test_rows_is_named(tiny, tmp_path, monkeypatch, column, rows):
    tiny["columns"]["labels"]["length"] = 4  # one more than any good has, so that all are in the store
    store = opened(tiny, tmp_path / "honest")
    assert findings(store) == []
    part_E = np.asarray(store.part_E)
    leaked = pd.read_csv(tmp_path / "visits.csv")[(rows(part_E) == TRAIN) & (part_E != TRAIN)]
    labels = pd.read_csv(tmp_path / "goods.csv", keep_default_na=False).set_index("sku")["labels"]
    tags = sum(len([t for t in cell.split("|") if t]) for cell in labels[leaked["sku"]])
    let_encoder_see(monkeypatch, column, rows)
    (line,) = findings(opened(tiny, tmp_path / "leaky"))
    kind = "buckets" if column == "years" else "counts"
    off = tags if column == "labels" else len(leaked)
    assert line.startswith(f"encoders: the {kind} of column {column!r} are off by {off} (such as ")


def test_tags_counted_less_often_than_training_shows_them_are_named(tiny, tmp_path, monkeypatch):
    tiny["columns"]["labels"]["length"] = 1
    assert findings(opened(tiny, tmp_path / "honest")) == []
    let_encoder_see(monkeypatch, "labels", lambda part_E: np.where(np.arange(len(part_E)) < 20, TRAIN, TEST))
    (line,) = findings(opened(tiny, tmp_path / "leaky"))
    assert line.startswith("encoders: the counts of column 'labels' are off by ")


def test_rare_and_missing_values_share_an_id(tiny, tmp_path, monkeypatch):
    """A value of min_count=2 that only one test row holds takes no id, but it was seen."""
    tiny["columns"]["device"]["min_count"] = 2
    rewrite(tmp_path, lambda v: v.assign(device=[*v["device"][:-1], "watch"]))
    assert findings(opened(tiny, tmp_path / "honest")) == []
    let_encoder_see(monkeypatch, "device", lambda part_E: np.append(part_E[:-1], TRAIN))
    (line,) = findings(opened(tiny, tmp_path / "leaky"))
    assert "column 'device' are off by 1 (such as rare values: 1 counted, 0 in the training rows)" in line
    monkeypatch.undo()
    rewrite(tmp_path, lambda v: v.assign(device=["", "tv", *v["device"][2:]]))
    assert findings(opened(tiny, tmp_path / "missing")) == []


@pytest.mark.parametrize("rows", [four_test_rows_more, four_test_rows_instead])
@pytest.mark.parametrize(
    ("options", "mean"),
    [
        ({}, 0),
        ({}, 1e4),
        ({"standardise": False}, 100),
        ({"log1p": True}, 0),
        ({"log1p": True}, 1e4),
        ({"clip": [-1, 1]}, 0),
    ],
)
def test_a_standardiser_that_saw_one_percent_of_another_distribution_is_named(
    tiny, tmp_path, monkeypatch, options, mean, rows
):
    """The values of test rows lie three deviations higher; every seventh is missing."""
    rng = np.random.default_rng(1)
    visits = pd.read_csv(tmp_path / "visits.csv")
    paid = mean + rng.normal(size=len(visits)) + 3 * (visits["when"] > 400)
    rewrite(tmp_path, lambda v: v.assign(paid=paid.where(np.arange(len(v)) % 7 > 0)))
    tiny["columns"]["paid"] = {"role": "scene", "kind": "number", **options}
    store = opened(tiny, tmp_path / "honest")
    assert findings(store) == []
    part_E = np.asarray(store.part_E)
    seen = int(pd.read_csv(tmp_path / "visits.csv")["paid"][rows(part_E) == TRAIN].notna().sum())
    let_encoder_see(monkeypatch, "paid", rows)
    (line,) = findings(opened(tiny, tmp_path / "leaky"))
    train = int((part_E == TRAIN).sum())
    assert line.startswith(f"encoders: the standardiser of column 'paid' saw {seen} values; the {train} training rows")


def test_a_column_that_is_mostly_missing_passes_unstandardised(tiny, tmp_path):
    """Bug: each missing value is the mean as float32, whose rounding summed over all rows was taken for a leak."""
    rewrite(tmp_path, lambda v: v.assign(paid=[1000.1, 1001.2, *[""] * (len(v) - 2)]))
    tiny["columns"]["paid"] = {"role": "scene", "kind": "number", "standardise": False}
    assert findings(opened(tiny, tmp_path / "cache")) == []


@pytest.mark.parametrize("options", [{"kind": "number"}, {"kind": "number", "buckets": 3}])
def test_a_constant_column_and_one_without_values_pass(tiny, tmp_path, options):
    rewrite(tmp_path, lambda v: v.assign(same=7.3, absent=np.where(v["when"] > 400, "5", "")))
    tiny["columns"] |= {name: {"role": "scene", **options} for name in ("same", "absent")}
    assert findings(opened(tiny, tmp_path / "cache")) == []


def test_buckets_of_values_with_many_digits(tiny, tmp_path, monkeypatch):
    """Counts are of values rounded to five digits, ids of the values themselves: here most values round to a bound."""
    rng = np.random.default_rng(1)
    near = lambda n: rng.choice([123_456, 234_567, 345_678], n) + rng.normal(size=n)  # noqa: E731
    rewrite(tmp_path, lambda v: v.assign(paid=near(len(v))))
    tiny["columns"]["paid"] = {"role": "scene", "kind": "number", "buckets": 3}
    assert findings(opened(tiny, tmp_path / "honest")) == []
    let_encoder_see(monkeypatch, "paid", four_test_rows_more)
    (line,) = findings(opened(tiny, tmp_path / "leaky"))
    assert "encoders: the buckets of column 'paid' are off by 4 (such as values below inf" in line


def test_a_label_mean_of_all_rows_is_named(tiny, tmp_path):
    store = opened(tiny, tmp_path / "cache")
    assert findings(store) == []
    mean, train = float(store.label_E.mean()), int((store.part_E == TRAIN).sum())
    schema = dataclasses.replace(store.schema, label_mean=mean)
    (line,) = findings(dataclasses.replace(store, schema=schema))
    assert line.startswith(f"encoders: `label_mean` is {mean:.6g}, but the mean of the {train} training labels")
