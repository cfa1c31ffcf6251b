"""What a bundle is written with: rows that keep their values on the disk, requests that the graphs answer."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from export.artifact import (
    TOLERANCE,
    Served,
    labelled_rows,
    model_scores,
    quantize_layers,
    sample_requests,
    write_artifact,
)
from export.graph import open_graph
from export.runtime import Bundle
from export.tables import quantize_tables
from export.verify import check_quality
from recsys.data.split import TEST


@pytest.mark.parametrize(("name", "kind"), [("din", "binary"), ("mf", "implicit"), ("mf", "rating")])
def test_labelled_rows_are_scored_from_the_disk_as_the_events_they_are(exported, tmp_path, name, kind):
    """Bug: histories of several columns lost places, so that other items' attributes were scored, or none at all."""
    made = exported(name, kind)
    session = made.open("recommender")
    table, quality = labelled_rows(made.raw, session, probable=made.model.probable)
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = pd.read_parquet(tmp_path / "rows.parquet", dtype_backend="pyarrow")
    bundle = Bundle({"recommender": session}, {})
    score_B = bundle.score(rows.drop(columns="label"))
    label_B = rows["label"].to_numpy()
    assert len(rows) == quality.pop("rows")
    if kind == "rating":
        assert quality["rmse"] == pytest.approx(np.sqrt(np.mean((score_B - label_B) ** 2)))
    else:
        assert quality["auc"] == pytest.approx(roc_auc_score(label_B, score_B))
        assert quality["logloss"] == pytest.approx(log_loss(label_B, score_B.astype("float64")))
    if kind == "binary":
        test = np.flatnonzero(made.raw.store.part_E == TEST)
        (expected,) = session.run(["score"], made.raw.feed(session, test))
        np.testing.assert_allclose(score_B, expected, atol=1e-6)


def test_whole_numbers_stay_whole_beside_missing_ones(exported):
    table, _ = labelled_rows(exported("din").raw, exported("din").open("recommender"), probable=True)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["sku"] == kinds["when"] == "int64"
    assert kinds["history.sku"] == "list<item: int64>"
    assert kinds["history.labels"] == "list<item: list<item: string>>"


def test_sample_requests_are_answered_by_every_graph(exported):
    made = exported("mf")
    sessions = {name: made.open(name) for name in made.paths}
    sample = sample_requests(made.raw, sessions)
    assert list(sample) == ["score", "rank", "retrieve"]
    bundle = Bundle(sessions, {})
    score = bundle.rank(**sample["rank"])[0]
    assert len(score) == len(sample["rank"]["candidates"]) == 20
    items, _ = bundle.retrieve(**sample["retrieve"])
    assert not set(items.tolist()) & set(sample["retrieve"]["seen"])
    assert len(bundle.score(sample["score"])) == 3


def test_rows_and_requests_of_a_sample_agree(exported):
    """The first row and the request are of one event, told in the same words."""
    made = exported("din")
    bundle = Bundle({name: made.open(name) for name in made.paths}, {})
    sample = sample_requests(made.raw, {name: made.open(name) for name in made.paths})
    row = {name: values[:1] for name, values in sample["score"].items()}
    score_N, _ = bundle.rank(sample["rank"]["user"], row["sku"], 1)
    np.testing.assert_allclose(bundle.score(row), score_N, atol=TOLERANCE)


def test_a_graph_without_dense_layers_stays_as_it_is(exported, tmp_path):
    path = tmp_path / "mf.onnx"
    path.write_bytes(exported("mf").paths["recommender"].read_bytes())
    assert quantize_layers(path, exported("mf").raw) is False
    assert path.read_bytes() == exported("mf").paths["recommender"].read_bytes()
    assert open_graph(path)


def test_scores_of_liking_are_no_probabilities_and_the_bundle_says_so(exported, tmp_path):
    made = exported("ease", "implicit")
    served = Served(model=made.model, encoders=made.raw.store.encoders)
    content = write_artifact(served, made.raw, tmp_path / "ease", manifest={"name": "tiny"})
    assert (content["model"], content["probabilities"], content["remembers"]) == ("EASE", False, "events")
    assert content["quality"].keys() == {"rows", "auc"}
    rows, bundle = pd.read_parquet(tmp_path / "test_rows.parquet"), Bundle.load(tmp_path / "ease")
    checks = check_quality(bundle, rows)
    assert [(check.name, check.passed) for check in checks] == [("auc", True)]
    assert content["quality"]["auc"] == pytest.approx(
        roc_auc_score(rows["label"], bundle.score(rows[["shopper", "sku"]]))
    )
    readme = (tmp_path / "ease" / "README.md").read_text(encoding="utf-8")
    assert "how well they fit: more is better, one per row or candidate" in readme
    assert "chance" not in readme
    assert "keep the bundle as confidential as those rows" in readme
    assert (
        write_artifact(
            Served(model=exported("svd").model, encoders=made.raw.store.encoders),
            exported("svd").raw,
            tmp_path / "svd",
            manifest={"name": "tiny"},
        )["remembers"]
        == "keys"
    )


def test_a_deepfm_of_int8_tables_is_written_and_scores_as_it_should(exported, tmp_path):
    """Bug: it was compared with the model before its products were multiplied out and rounded, and refused."""
    made = exported("deepfm")
    small = quantize_tables(made.model)
    served = Served(model=small, encoders=made.raw.store.encoders, name="int8 tables")
    content = write_artifact(served, made.raw, tmp_path / "small", manifest={"name": "tiny"})
    assert content["parity"] <= TOLERANCE
    rows = pd.read_parquet(tmp_path / "test_rows.parquet", dtype_backend="pyarrow").drop(columns="label")
    test = np.flatnonzero(made.raw.store.part_E == TEST)
    expected = model_scores(small, made.raw, test, made.raw.store.item_E[test])
    np.testing.assert_allclose(Bundle.load(tmp_path / "small").score(rows), expected, atol=1e-3)


def test_histories_of_unequal_length_are_padded_to_one(exported):
    """Bug: a history whose last items have no tags is shorter than that of their keys, and the graph refused both."""
    bundle = Bundle({"recommender": exported("din").open("recommender")}, {})
    row = {"shopper": ["p1"], "sku": [101], "history.sku": [[103, 105, 107]]}
    tagged = bundle.score({**row, "history.labels": [[["x"], ["y"], []]]})
    np.testing.assert_array_equal(bundle.score({**row, "history.labels": [[["x"], ["y"]]]}), tagged)
    two = {name: values * 2 for name, values in row.items()}
    both = bundle.score({**two, "history.labels": [[["x"], ["y"]], []], "history.shelf": [[], ["a", "b", "c"]]})
    np.testing.assert_allclose(both[0], tagged[0], atol=1e-6)
    assert np.isfinite(both).all()
