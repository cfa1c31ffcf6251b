"""What scripts/verify.py proves, and that a model changed on purpose, with new checksums and sample, still fails."""

import json
import logging
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error, roc_auc_score

from export.runtime import Bundle
from export.verify import check_parity, check_quality, measure, read_label
from recsys.schema import Label

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def table(toys) -> pd.DataFrame:
    """5,000 raw rows, clicked with the chance that the oracle says."""
    rng = np.random.default_rng(0)
    users, items, tags = [*toys.USERS, "new"], [*toys.ITEMS, None], [*toys.TAGS]
    rows = pd.DataFrame(
        {
            "user": rng.choice(users, 5000),
            "item": rng.choice(items, 5000),
            "shelf": rng.choice([*toys.SHELVES, 99], 5000),
            "price": rng.choice([0.0, 10.0, np.nan], 5000),
            "tags": [rng.choice(tags, rng.integers(0, 3)).tolist() for _ in range(5000)],
            "history.item": [rng.choice(items[:-1], rng.integers(0, 4)).tolist() for _ in range(5000)],
        }
    )
    rows["clicked"] = (rng.random(5000) < oracle(toys, rows)).astype(int)
    return rows


def oracle(toys, table: pd.DataFrame) -> np.ndarray:
    named = table.rename(columns={"history.item": "history"}).drop(columns="clicked", errors="ignore")
    named["price"] = named["price"].fillna(0)
    return np.array([toys.expected_score(**row) for row in named.to_dict("records")])


@pytest.fixture
def recorded(toys, table) -> dict:
    """The manifest with the quality that scikit-learn finds."""
    score = oracle(toys, table).astype(float)
    quality = {"auc": roc_auc_score(table["clicked"], score), "logloss": log_loss(table["clicked"], score)}
    return {**toys.MANIFEST, "quality": {"rows": len(table), "tolerance": 1e-4, **quality}}


@pytest.fixture
def verify(tmp_path, monkeypatch) -> Callable[..., int]:
    """Run the script in this process; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    handlers = list(logging.getLogger().handlers)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / "verify.py"), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(sys.argv[0], run_name="__main__")
        logging.getLogger().handlers[:] = handlers
        return ended.value.code

    return run


def damaged(graphs: dict[str, Path], toys) -> dict[str, Path]:
    """The graphs with the items' weights turned around."""
    path = graphs["recommender"].with_name("damaged.onnx")
    onnx.save(toys.recommender(scale=-1.0), path)
    return {**graphs, "recommender": path}


def test_a_good_bundle_passes_with_and_without_labelled_rows(write, table, recorded, verify, capsys, tmp_path):
    write(manifest=recorded)
    table.to_parquet(tmp_path / "rows.parquet")
    assert verify("bundle=toys", "rows=rows.parquet") == 0
    text = capsys.readouterr().out
    assert "FAILED" not in text
    assert text.count("proved") == 3
    assert verify("bundle=toys.tar.gz") == 0
    assert "Only a checkpoint=" in capsys.readouterr().out
    assert verify("bundle=toys", "rows=nowhere.parquet") == 1
    assert "`rows`: there is no file 'nowhere.parquet'" in capsys.readouterr().err


def test_a_model_that_was_changed_on_purpose_fails_by_quality_and_parity(
    write, graphs, toys, table, recorded, verify, capsys, tmp_path
):
    folder = write("toys", manifest=recorded, graphs=damaged(graphs, toys))
    table.to_parquet(tmp_path / "rows.parquet")
    bundle = Bundle.load(folder)  # checksums and sample are in order
    assert verify("bundle=toys", "rows=rows.parquet") == 1
    seen = capsys.readouterr()
    assert "toys failed: auc, logloss; do not serve it" in " ".join(seen.err.split())
    columns = {name: table[name] for name in bundle.graphs["recommender"].columns}
    assert check_parity(bundle, columns, oracle(toys, table)).passed is False


def test_parity_is_that_of_every_row(folder, toys, table):
    bundle = Bundle.load(folder)
    columns = {name: table[name] for name in bundle.graphs["recommender"].columns}
    expected = oracle(toys, table)
    assert check_parity(bundle, columns, expected).passed is True
    expected[-1] += 3e-5
    assert check_parity(bundle, columns, expected).passed is False
    expected[-1] = np.nan
    assert check_parity(bundle, columns, expected).passed is False


def test_a_damaged_file_and_a_missing_key_fail(folder, locked, toys, verify, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("RECSYS_BUNDLE_KEY", raising=False)
    assert verify("bundle=locked") == 1
    assert "set RECSYS_BUNDLE_KEY" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "key").write_text(toys.KEY.hex())
    assert verify("bundle=locked", "key_file=key") == 0
    assert verify("bundle=locked", "key_file=nowhere") == 1
    (folder / "runtime.py").write_text("print(1)")
    capsys.readouterr()
    assert verify("bundle=toys") == 1
    assert "files and sample" in capsys.readouterr().err


def test_quality_without_a_record_is_only_measured(folder, table):
    checks = check_quality(Bundle.load(folder), table)
    assert [(check.name, check.passed) for check in checks] == [("auc", None), ("logloss", None)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="shelf").assign(shelv=1), "`rows` has no column 'shelf', .* did you mean 'shelv'"),
        (lambda t: t.drop(columns="clicked"), "`rows` has no label column 'clicked'"),
        (lambda t: t.assign(clicked=["yes", *t["clicked"][1:]]), "the label 'clicked' of row 0 is no number, 'yes'"),
        (lambda t: t.assign(clicked=7), "must hold 0 and 1"),
        (lambda t: t.iloc[:0], "at least one row"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused(folder, table, change, message):
    with pytest.raises(ValueError, match=message):
        check_quality(Bundle.load(folder), change(table))


def test_labels_are_read_as_the_schema_says():
    raw, ready = pd.DataFrame({"stars": [1, 4, 5]}), pd.DataFrame({"stars": [1, 4, 5], "label": [1, 0, 1]})
    threshold = Label(kind="threshold", column="stars", positive_from=4)
    assert read_label(threshold, raw).tolist() == [0, 1, 1]
    assert read_label(Label(kind="rating", column="stars"), raw).tolist() == [1, 4, 5]
    for label in (threshold, Label(kind="rating", column="stars"), Label(kind="implicit")):
        assert read_label(label, ready).tolist() == [1, 0, 1]


def test_ratings_are_judged_by_their_errors():
    score, label = np.array([3.5, 4.0], "float32"), np.array([3.0, 5.0])
    measured = measure(Label(kind="rating", column="stars"), score, label)
    assert measured == {"rmse": mean_squared_error(label, score) ** 0.5, "mae": mean_absolute_error(label, score)}


def test_the_record_is_part_of_what_is_sealed(write, recorded):
    folder = write(manifest=recorded)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["quality"]["auc"] = 0.5
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest.json was changed"):
        Bundle.load(folder)
