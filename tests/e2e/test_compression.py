"""Smaller models from a trained run, through the real commands: the best variant, what encryption leaves in plain."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import KEY, checkpoint, everything, scores

from export import compress
from export.runtime import Bundle

COMPRESS = ["compress=default", "trainer=cpu", "compress.rows=2000"]
NOTHING_BETTER = [*COMPRESS, "compress.keep=[1.0]", "compress.min_count=[100000]", "compress.budget=0"]
NOTHING_BETTER += ["compress.target=size", "compress.tables=[float32]", "compress.dense=[float32]"]
PLAIN = "not encrypted, of an earlier export; delete what nobody should read: "

quickly_compressed = pytest.mark.parametrize("run", ["implicit"], indirect=True)


def variants_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "variants.json").read_text())


def test_the_best_variant_inside_the_budget_becomes_a_bundle(run, command):
    before = everything(run / "bundle")
    options = ["compress.keep=[0.5]", "compress.dense=[float32]", "compress.budget=1", "compress.target=size"]
    code, out, error = command("export.py", checkpoint(run), *COMPRESS, *options)
    assert code == 0, error
    assert everything(run / "bundle") == before
    content = variants_of(run)
    names = [v["variant"] for v in content["variants"]]
    assert names == ["float32", "int8 tables", "width x0.5", "width x0.5, int8 tables"]
    sizes = {v["variant"]: v["size_mb"] for v in content["variants"]}
    assert content["chosen"] == min(sizes, key=lambda name: sizes[name])
    assert f"bundle: {run}/compressed and compressed.tar.gz ({content['chosen']}" in out
    assert "processor: " in out
    assert f"{content['chosen']} ✓" in (run / "report.html").read_text(encoding="utf-8")
    manifest = Bundle.load(run / "compressed").manifest
    assert (manifest["variant"], manifest["test"]) == (content["chosen"], content["test"])
    assert manifest["variants"] == content["variants"]
    assert 0 < np.abs(scores(run / "compressed", run) - scores(run / "bundle", run)).max() < 0.5
    assert not list(run.glob("tmp*")), "nothing is left of the trials"
    code, out, _ = command("verify.py", f"bundle={run}/compressed", f"rows={run}/test_rows.parquet")
    assert (code, out.count("proved")) == (0, 3)
    code, _, error = command("verify.py", f"bundle={run}/compressed", checkpoint(run))
    assert code == 1
    assert "which scores otherwise; give rows=..." in error


@quickly_compressed
def test_nothing_better_keeps_the_float_bundle_and_ends_with_2(run, command):
    """Without any id the model loses for sure, and the budget allows no loss."""
    shutil.rmtree(run / "compressed", ignore_errors=True)
    before = everything(run / "bundle")
    code, out, error = command("export.py", checkpoint(run), *NOTHING_BETTER)
    assert code == 2, error
    assert error.startswith("error: no variant is better by size and loses at most 0 of the metric; the float bundle")
    assert error.count("\n") == 1
    assert everything(run / "bundle") == before
    assert not (run / "compressed").exists()
    content = variants_of(run)
    assert content["chosen"] is None
    assert content["variants"][1]["loss"] > 0
    assert "counts from 100000" in out


@pytest.mark.parametrize(
    ("name", "metric", "expected"),
    [
        ("implicit", "ndcg@10[99 sampled]", ["float32", "int8 tables"]),
        ("rating", "rmse", ["float32", "int8 tables"]),
    ],
)
def test_rankings_and_ratings_are_compressed_by_their_own_metric(trained, command, name, metric, expected):
    run = trained(name)
    options = ["compress.dense=[float32]", "compress.budget=1", "compress.target=size"]
    options += ["compress.keep=[1.0]"] if name == "rating" else []
    code, out, error = command("export.py", checkpoint(run), *COMPRESS, *options)
    assert code == 0, error
    content = variants_of(run)
    assert [v["variant"] for v in content["variants"]] == expected
    assert content["test"]["metric"] == metric
    assert all(metric in v for v in content["variants"])
    assert metric in out
    assert (run / "compressed" / "retriever.onnx").exists() == (name == "implicit")
    rows = f"rows={run}/test_rows.parquet"
    for bundle in ("bundle", "compressed"):
        code, out, _ = command("verify.py", f"bundle={run}/{bundle}", rows)
        assert (code, out.count("proved")) == (0, 3)


@quickly_compressed
def test_a_trial_that_fails_leaves_nothing_behind(run, command, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "scratch")

    monkeypatch.setattr(compress, "save_graph", full)
    before = everything(run)
    code, _, error = command("export.py", checkpoint(run), *COMPRESS)
    assert code == 1
    assert "No space left on device" in error
    assert everything(run) == before


def test_a_classical_model_has_nothing_to_compress(trained, command):
    run = trained("svd")
    before = everything(run)
    code, _, error = command("export.py", checkpoint(run), *COMPRESS)
    assert code == 1
    assert error.startswith("error: `compress`: ")
    assert "holds a model without layers or embedding tables to compress; leave it out." in error
    assert everything(run) == before


@quickly_compressed
def test_encrypting_leaves_nothing_in_plain_beside_the_bundle(run, command, tmp_path, monkeypatch):
    """Bug: the float bundle stayed in plain beside an encrypted compressed one, and so did the labelled rows."""
    monkeypatch.setenv("RECSYS_BUNDLE_KEY", KEY.hex())
    own = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("compressed*"))
    options = ["compress.keep=[1.0]", "compress.dense=[float32]", "compress.budget=1", "compress.target=size"]
    code, out, error = command("export.py", checkpoint(own), "encrypt=true", *COMPRESS, *options)
    assert code == 0, error
    for name in ("bundle", "bundle.tar.gz", "compressed", "compressed.tar.gz"):
        assert Bundle.load(own / name, KEY).manifest["encryption"]["algorithm"] == "AES-256-GCM"
    assert not (own / "test_rows.parquet").exists()
    assert "not encrypted" not in out + error


@pytest.mark.parametrize(
    ("run", "options", "ended", "left"),
    [
        ("item_knn", ["trainer=cpu"], 0, ["compressed", "compressed.tar.gz"]),
        (
            "item_knn",
            ["trainer=cpu", "output={run}/../else/bundle"],
            0,
            ["bundle", "bundle.tar.gz", "compressed", "compressed.tar.gz", "rows"],
        ),
        ("implicit", NOTHING_BETTER, 2, ["compressed", "compressed.tar.gz"]),
    ],
    indirect=["run"],
)
def test_encrypting_names_what_stays_in_plain(run, command, tmp_path, monkeypatch, options, ended, left):
    """Bug: of a bundle elsewhere, and of a compression without a better variant, no word was said."""
    monkeypatch.setenv("RECSYS_BUNDLE_KEY", KEY.hex())
    own = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("compressed*"))
    shutil.copytree(own / "bundle", own / "compressed")
    shutil.copyfile(own / "bundle.tar.gz", own / "compressed.tar.gz")
    code, out, error = command("export.py", checkpoint(own), "encrypt=true", *(o.format(run=own) for o in options))
    assert code == ended, error
    paths = [str(own / ("test_rows.parquet" if name == "rows" else name)) for name in left]
    assert f"{PLAIN}{', '.join(paths)}\n" in out + error
    written = tmp_path / "else" / "bundle" if "bundle" in left else own / "bundle"
    assert (written / "recommender.onnx.enc").exists()
    assert Bundle.load(written, KEY).manifest["variant"] == "float32"
