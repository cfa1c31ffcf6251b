"""From a trained run to what a shop serves, through the real commands: bundles, their proof, and what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from folders import KEY, checkpoint, everything, scores
from onnx import numpy_helper

from export.bundle import write_bundle
from export.runtime import Bundle

also_classical = pytest.mark.parametrize("run", ["deepfm", "item_knn", "svd", "nmf"], indirect=True)


def test_training_ends_with_a_bundle_its_archive_and_labelled_rows(run):
    names = {p.name for p in (run / "bundle").iterdir()}
    graphs = {"recommender.onnx", "ranker.onnx"}
    assert names == {"manifest.json", "README.md", "sample_request.json", "runtime.py", *graphs}
    manifest = json.loads((run / "bundle" / "manifest.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    assert manifest["metrics"]["test"] == metrics["test"]
    assert manifest["calibration"] == metrics["test"]["calibration_error"]
    assert manifest["data"] == metrics["data"]
    assert (manifest["model"], manifest["variant"], manifest["name"]) == ("DeepFM", "float32", "shop")
    assert manifest["parity"] <= 1e-5
    assert manifest["quality"]["auc"] == pytest.approx(metrics["test"]["auc"], abs=1e-6)
    np.testing.assert_array_equal(scores(run / "bundle", run), scores(run / "bundle.tar.gz", run))


def test_the_labelled_rows_are_those_of_the_tables(run, workplace):
    rows = pd.read_parquet(run / "test_rows.parquet")
    log = pd.read_csv(next(workplace.glob("cache/shop-3000-0/user_behavior_data.csv")), dtype=str)
    known = set(zip(log["user_id"], log["item_id"], log["clicked"].str[0], strict=True))
    found = set(zip(rows["user_id"].astype(str), rows["item_id"].astype(str), rows["label"].astype(int), strict=True))
    assert {(user, item, str(label)) for user, item, label in found} <= known
    assert len(rows) == json.loads((run / "bundle" / "manifest.json").read_text())["quality"]["rows"]


BARE = """
import importlib.util, json, sys
for module in ("torch", "pandas", "onnx", "recsys", "export", "hydra", "pytorch_lightning", "spox"):
    sys.modules[module] = None
import runtime
assert runtime.__file__.startswith(sys.argv[1]), runtime.__file__
bundle = runtime.Bundle.load(sys.argv[2])
columns = json.load(open(sys.argv[3]))
print(json.dumps(bundle.score(columns).tolist()))
"""


@also_classical
def test_the_archive_is_scored_by_its_own_runtime_in_a_process_without_this_package(run, tmp_path):
    shutil.copyfile(run / "bundle" / "runtime.py", tmp_path / "runtime.py")
    rows = pd.read_parquet(run / "test_rows.parquet").drop(columns="label")
    columns = {name: json.loads(rows[name].to_json(orient="values")) for name in rows}
    (tmp_path / "rows.json").write_text(json.dumps(columns))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", BARE, str(tmp_path), str(run / "bundle.tar.gz"), "rows.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.float32(json.loads(done.stdout)), scores(run / "bundle", run))


@pytest.mark.parametrize("run", ["item_knn", "svd", "nmf"], indirect=True)  # of DeepFM, those of encrypted bundles
def test_exporting_again_writes_a_bundle_of_equal_scores(run, command):
    before = scores(run / "bundle", run)
    shutil.rmtree(run / "bundle")
    code, out, error = command("export.py", checkpoint(run), "trainer=cpu")
    assert code == 0, error
    assert f"bundle: {run}/bundle and bundle.tar.gz (float32, " in out
    np.testing.assert_array_equal(scores(run / "bundle", run), before)


@also_classical
def test_a_bundle_is_proved(run, command):
    code, out, error = command("verify.py", f"bundle={run}/bundle", checkpoint(run), f"rows={run}/test_rows.parquet")
    assert code == 0, error + out
    assert out.count("proved") == 4  # files and sample, parity, auc, logloss
    assert "FAILED" not in out
    assert command("verify.py", f"bundle={run}/bundle.tar.gz", f"rows={run}/test_rows.parquet")[0] == 0


@pytest.fixture
def damaged(run, tmp_path) -> Path:
    """A bundle whose tables were shuffled, written as a good one is: checksums, seal and sample are in order."""
    good = Bundle.load(run / "bundle")
    graphs = {}
    for name in good.graphs:
        model = onnx.load(run / "bundle" / f"{name}.onnx")
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if tensor.name.startswith("model/") and values.dtype.kind == "f" and values.ndim:
                tensor.CopyFrom(numpy_helper.from_array(np.roll(values, 7, axis=0), tensor.name))
        graphs[name] = tmp_path / f"{name}.onnx"
        onnx.save(model, graphs[name])
    sample = json.loads((run / "bundle" / "sample_request.json").read_text())
    requests = {verb: case["request"] for verb, case in sample.items()}
    kept = {
        name: value for name, value in good.manifest.items() if name not in ("files", "seal", "graphs", "libraries")
    }
    return write_bundle(tmp_path / "damaged", graphs, manifest=kept, sample=requests)


@also_classical
def test_a_model_damaged_on_purpose_fails_by_parity_and_by_quality(run, damaged, command):
    code, out, _ = command("verify.py", f"bundle={damaged}")
    assert code == 0
    assert "Only a checkpoint=" in out
    code, out, error = command("verify.py", f"bundle={damaged}", checkpoint(run))
    assert code == 1
    assert f"{damaged} failed: parity; do not serve it" in error
    code, out, error = command("verify.py", f"bundle={damaged}", f"rows={run}/test_rows.parquet")
    assert code == 1
    assert re.search("failed: (auc, logloss|rmse, mae); do not serve it", error)


@also_classical
@pytest.mark.parametrize("name", ["recommender.onnx", "manifest.json", "sample_request.json", "README.md"])
def test_damaged_files_fail_by_name(run, command, tmp_path, name):
    folder = shutil.copytree(run / "bundle", tmp_path / "bundle")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    code, out, error = command("verify.py", f"bundle={folder}", f"rows={run}/test_rows.parquet")
    assert code == 1
    assert name in " ".join(out.split())
    assert "failed: files and sample; do not serve it" in error


@pytest.mark.parametrize("run", ["deepfm", "item_knn"], indirect=True)
def test_an_encrypted_bundle_opens_with_its_key_only(run, command, workplace, tmp_path, monkeypatch):
    (tmp_path / "key").write_text(KEY.hex())
    (tmp_path / "other").write_text("00" * 32)
    where = [f"output={tmp_path}/locked", "trainer=cpu"]
    code, _, error = command("export.py", checkpoint(run), "encrypt=true", f"key_file={tmp_path}/key", *where)
    assert code == 0, error
    secret = {p.name for p in (tmp_path / "locked").iterdir() if "onnx" in p.name or "sample" in p.name}
    graphs = {f"{p.name}.enc" for p in (run / "bundle").glob("*.onnx")}
    assert secret == {*graphs, "sample_request.json.enc"} >= {"recommender.onnx.enc", "ranker.onnx.enc"}
    np.testing.assert_array_equal(scores(tmp_path / "locked", run, KEY), scores(run / "bundle", run))
    rows = f"rows={run}/test_rows.parquet"
    assert command("verify.py", f"bundle={tmp_path}/locked", rows, f"key_file={tmp_path}/key")[0] == 0
    monkeypatch.setenv("RECSYS_BUNDLE_KEY", KEY.hex())
    assert command("verify.py", f"bundle={tmp_path}/locked.tar.gz", rows, checkpoint(run))[0] == 0
    code, out, _ = command("verify.py", f"bundle={tmp_path}/locked", rows, f"key_file={tmp_path}/other")
    assert code == 1
    assert "the bundle is encrypted with the key" in " ".join(out.split())
    monkeypatch.delenv("RECSYS_BUNDLE_KEY")
    code, out, _ = command("verify.py", f"bundle={tmp_path}/locked", rows)
    assert code == 1
    assert "set RECSYS_BUNDLE_KEY" in " ".join(out.split())


BAD: list[tuple[list[str], str]] = [
    (["compress=default", "compress.budget=-1"], "`compress.budget` must be a loss of the metric, at least 0, got -1"),
    (["compress=default", "compress.keep=[2]"], "`compress.keep` must be shares of the hidden units in (0, 1]"),
    (["compress=default", "compress.tables=[int4]"], "'int4'"),
    (["compress=defualt"], "there is no `compress=defualt`: did you mean 'default'?"),
    (["compress=default", "compress.epoch=1"], "did you mean 'epochs'?"),
    (["checkpoint=nowhere.ckpt"], "there is no checkpoint 'nowhere.ckpt'"),
    (["checkpoint=[a,b]"], "`checkpoint` must be a path, got ['a', 'b']"),
    (["output=3"], "`output` must be a path, got 3"),
    (["checkpoint={run}/metrics.json"], "is not a checkpoint, or is damaged"),
    (["encrypt=true"], "`encrypt` needs a key of 32 bytes as base64 or hex: set RECSYS_BUNDLE_KEY"),
    (["encrypt=true", "key_file={run}/config.yaml"], "must hold a key of 32 bytes"),
    (["encrypt=true", "key_file=nowhere"], "nowhere"),
    (["key_file={run}/key"], "`key_file` is given, but `encrypt` is false"),
    (["output={run}/checkpoints"], "checkpoints exists and is no bundle"),
    (["compress=default", "output={run}/checkpoints"], "checkpoints exists and is no bundle"),
    (["output=/proc/nowhere/bundle"], "/proc/nowhere"),
    (["output={run}/metrics.json/bundle"], "metrics.json"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=lambda value: str(value)[:50])
def test_a_mistake_is_one_message_and_leaves_everything_as_it_was(run, command, workplace, options, message):
    before = everything(workplace)
    code, _, error = command("export.py", checkpoint(run), "trainer=cpu", *(o.format(run=run) for o in options))
    assert code == 1
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert everything(workplace) == before


def test_tables_that_changed_are_refused(run, command, workplace):
    path = next(workplace.glob("cache/shop-3000-0/user_behavior_data.csv"))
    content, before = path.read_bytes(), everything(run)
    try:
        path.write_bytes(content[: len(content) // 2].rpartition(b"\n")[0] + b"\n")
        code, _, error = command("export.py", checkpoint(run), "trainer=cpu")
    finally:
        path.write_bytes(content)
    assert code == 1
    assert "was trained on other data than 'shop' holds" in error
    assert everything(run) == before


@pytest.mark.parametrize("run", ["item_knn"], indirect=True)  # which is exported quickly
def test_a_checkpoint_outside_of_a_run_gets_its_bundle_beside_it(run, command, tmp_path):
    shutil.copyfile(run / "checkpoints" / "best.ckpt", tmp_path / "mine.ckpt")
    code, _, error = command("export.py", f"checkpoint={tmp_path}/mine.ckpt", "trainer=cpu")
    assert code == 0, error
    assert {p.name for p in tmp_path.iterdir()} == {"mine.ckpt", "bundle", "bundle.tar.gz", "test_rows.parquet"}


FOREIGN: list[tuple[list[str], str]] = [
    (["bundle=nowhere"], "nowhere failed: files and sample"),
    (["bundle={run}/checkpoints"], "failed: files and sample"),
    (["bundle={run}/bundle", "rows={run}/metrics.json"], "metrics.json is no Parquet table, or is damaged"),
    (["bundle={run}/bundle", "rows=[a]"], "`rows` must be a path, got ['a']"),
    (["bundle={run}/bundle", "rows=nowhere.parquet"], "nowhere.parquet"),
    (["bundle={run}/bundle", "checkpoint=nowhere.ckpt"], "there is no checkpoint 'nowhere.ckpt'"),
    (["bundle={run}/bundle", "key_file={run}/config.yaml"], "must hold a key of 32 bytes"),
    (["bundel={run}/bundle"], "there is no option `bundel`: did you mean 'bundle'?"),
]


@pytest.mark.parametrize(("options", "message"), FOREIGN, ids=lambda value: str(value)[:50])
def test_what_cannot_be_verified_is_one_message(run, command, options, message):
    code, _, error = command("verify.py", *(o.format(run=run) for o in options))
    assert code == 1
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_a_checkpoint_of_other_data_is_told_apart(run, trained, command, workplace):
    """The implicit run reads the same columns, so its scores tell; a run on other columns is named."""
    code, _, error = command("verify.py", f"bundle={trained('implicit')}/bundle", checkpoint(run))
    assert code == 1
    assert "failed: parity; do not serve it" in error
