"""Models that learn the validation rows once these have chosen their length, through the real command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.runtime import Bundle
from recsys.config import load
from recsys.report import read_curves

DEEPFM = ["data=bookshop", "model=deepfm", "model.hidden=[64]", "optimizer.lr=0.01"]
TRAINING = ["trainer=cpu", "trainer.max_epochs=3", "patience=1"]
CASES = {"labels": [*DEEPFM, *TRAINING], "classical": ["data=bookshop", "model=item_knn"]}


@pytest.fixture
def run(call, bookshop):
    """A script on the bookshop, which must succeed; its output."""

    def make(script: str, *arguments: str) -> str:
        done = call(script, f"hydra.searchpath=[file://{bookshop}/configs]", *arguments)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    return make


@pytest.fixture
def refitted(run, bookshop) -> Callable[[str], Path]:
    """The folder of a case with its bundle, trained by the first test that asks for it."""

    def make(case: str) -> Path:
        folder = bookshop / "refitted" / case
        if not folder.exists():
            run("train.py", *CASES[case], "refit=true", f"hydra.run.dir={folder}")
        return folder

    return make


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_the_model_that_is_tested_is_the_one_that_is_handed_over(run, refitted, tmp_path, case):
    folder = refitted(case)
    run("train.py", *CASES[case], "export=false", f"hydra.run.dir={tmp_path}/plain")
    found, plain = metrics(folder), metrics(tmp_path / "plain")
    assert found["valid"] == plain["valid"]
    assert found["test"] != plain["test"]
    best = folder / "checkpoints" / "best.ckpt"
    out = run("evaluate.py", "trainer=cpu", f"checkpoint={best}", f"output={tmp_path}/again.json")
    assert "The validation part is left out: the model has learned its rows too" in out
    again = json.loads((tmp_path / "again.json").read_text())
    assert (again["valid"], again["test"]) == ({}, found["test"])
    assert "has learned the validation rows too" in (folder / "report.html").read_text(encoding="utf-8")
    bundle = Bundle.load(folder / "bundle")
    assert bundle.manifest["saw_valid"]
    assert bundle.manifest["metrics"]["test"] == found["test"]
    assert "The model has learned the validation rows too" in (folder / "bundle" / "README.md").read_text("utf-8")
    run("verify.py", f"bundle={folder}/bundle", f"checkpoint={best}", f"rows={folder}/test_rows.parquet")
    if case == "classical":
        return
    curves = [read_curves(run / "log" / "metrics.csv") for run in (folder, tmp_path / "plain")]
    assert curves[0] == curves[1]
    selected = best.with_name("selected.ckpt")
    run("evaluate.py", "trainer=cpu", f"checkpoint={selected}", f"output={tmp_path}/selected.json")
    assert json.loads((tmp_path / "selected.json").read_text())["test"] == plain["test"]


def test_compression_says_that_it_judges_by_rows_that_were_learned(run, refitted, monkeypatch):
    monkeypatch.setattr("export.measure.SECONDS", 0.0)
    folder = refitted("labels")
    compress = ["compress=default", "compress.keep=[0.25]", "compress.epochs=0", "compress.tables=[float32]"]
    compress += ["compress.dense=[float32]", "compress.target=size", "compress.budget=1", "trainer=cpu"]
    out = run("export.py", f"checkpoint={folder}/checkpoints/best.ckpt", *compress)
    assert "validation rows, learned by the model" in out
    assert Bundle.load(folder / "compressed").manifest["saw_valid"]
    assert "which it has learned" in (folder / "report.html").read_text(encoding="utf-8")


def test_every_seed_is_trained_twice(run, tmp_path):
    options = [*DEEPFM, *TRAINING, "refit=true", "seeds=2", "export=false", f"hydra.run.dir={tmp_path}/run"]
    run("train.py", *options)
    folders = [tmp_path / "run" / f"seed_{seed}" for seed in range(2)]
    values = [metrics(folder)["test"]["auc"] for folder in folders]
    assert metrics(tmp_path / "run")["mean"]["test"]["auc"] == pytest.approx(np.mean(values))
    assert all(load(folder / "checkpoints" / "best.ckpt").saw_valid for folder in folders)
