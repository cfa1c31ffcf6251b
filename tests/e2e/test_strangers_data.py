"""A stranger's tables and one yaml, no Python, through the real command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import everything
from warm import ROOT, Started, bookshop_options

from export.runtime import Bundle


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command line in a process and a working folder of its own."""
    environment = {**os.environ, "RECSYS_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    process = Started(ROOT / "scripts" / script, list(arguments), folder, environment)
    out, error = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode or 0, out, error)


def run_folders(folder: Path) -> list[Path]:
    return sorted(p.parent for p in folder.glob("outputs/*/*/*/config.yaml"))


@pytest.fixture(scope="module")
def din_run(bookshop: Path) -> Path:
    """One DIN run on the stranger's tables."""
    options = ["model=din", "model.hidden=[16]", "trainer.max_epochs=2", "trainer=cpu", "batch_size=64"]
    done = run(bookshop, "train.py", *bookshop_options(bookshop), *options)
    assert done.returncode == 0, done.stderr
    for text in ("scene not in table `scenes`", "not a number", "ndcg@10", "bundle.tar.gz"):
        assert text in done.stdout
    (folder,) = [f for f in run_folders(bookshop) if f.parent.name == "din"]
    return folder


def test_the_run_folder_holds_everything(din_run):
    names = {str(p.relative_to(din_run)) for p in din_run.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "run.log",
        "metrics.json",
        "encoders.json",
        "bundle/manifest.json",
        "bundle/recommender.onnx",
        "bundle/ranker.onnx",
        "bundle.tar.gz",
        "test_rows.parquet",
        "plots/curves.png",
        "plots/roc.png",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "log/metrics.csv",
    } <= names
    assert "oc.env" not in (din_run / "config.yaml").read_text()


def test_the_log_holds_what_the_terminal_showed(din_run):
    """Bug: the tables of cleaning and of the results were on the terminal alone."""
    content = (din_run / "run.log").read_text(encoding="utf-8")
    for text in (
        "scene not in table `scenes`",
        "DIN on bookshop",
        "ndcg@10",
        "bundle.tar.gz",
        f"run folder: {din_run}",
    ):
        assert content.count(text) == 1
    assert "\x1b" not in content


def test_cleaning_is_counted_in_metrics_json(din_run, bookshop):
    content = json.loads((din_run / "metrics.json").read_text())
    loans = pd.read_csv(bookshop / "loans.txt", sep=";")
    dropped = {e["rule"]: e["rows"] for e in content["cleaning"]["entries"] if e["action"] == "dropped"}
    duplicates = int(loans.drop(columns="Bemerkung").duplicated().sum())
    assert dropped["scene not in table `scenes`"] == int((loans.drop_duplicates()["branch"] == 3).sum())
    assert content["cleaning"]["rows"]["behaviour"]["kept"] == int((loans["branch"] < 3).sum()) - duplicates


def test_metrics_are_complete(din_run):
    content = json.loads((din_run / "metrics.json").read_text())
    test = content["test"]
    assert {"auc", "gauc", "logloss", "calibration_error", "precision", "recall", "f1", "mrr"} <= set(test)
    at_k = ("precision", "recall", "f1", "hit_rate", "ndcg", "map")
    assert {f"{m}@{k}" for m in at_k for k in (5, 10, 20)} <= set(test)
    assert {"coverage@10", "novelty@10", "diversity@10", "popularity_lift@10"} <= set(test)
    assert all(0 <= value <= 8 for name, value in test.items() if name != "popularity_lift@10")
    for name, (low, high) in content["intervals"]["test"].items():
        assert low <= high, name
    assert {"warm", "hot"} <= set(content["groups"]["users"])
    assert "auc" in content["groups"]["items"]["hot"]


@pytest.mark.parametrize("batch_size", ["null", "7", "1000"])
def test_evaluate_repeats_the_metrics_at_any_batch_size(din_run, bookshop, call, batch_size):
    output = bookshop / f"again-{batch_size}.json"
    checkpoint = f"checkpoint={din_run}/checkpoints/best.ckpt"
    done = call("evaluate.py", checkpoint, f"batch_size={batch_size}", f"output={output}")
    assert done.returncode == 0, done.stderr
    first, again = (json.loads(p.read_text())["test"] for p in (din_run / "metrics.json", output))
    assert again == pytest.approx(first, abs=1e-6)


def test_export_writes_the_same_bundle_where_it_is_told(din_run, bookshop, call):
    output, before = bookshop / "elsewhere" / "again", everything(din_run)
    done = call("export.py", f"checkpoint={din_run}/checkpoints/best.ckpt", "output=elsewhere/again")
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(din_run / "test_rows.parquet").drop(columns="label")
    first, again = (Bundle.load(folder) for folder in (din_run / "bundle", output))
    np.testing.assert_array_equal(first.score(rows), again.score(rows))
    assert {p.name for p in output.parent.iterdir()} == {"again", "again.tar.gz", "test_rows.parquet"}
    assert everything(din_run) == before


def test_the_bundle_takes_the_words_of_the_strangers_tables(din_run, bookshop):
    """Books are known by a number that no float holds, here a text and there an integer."""
    bundle = Bundle.load(din_run / "bundle")
    rows = pd.read_parquet(din_run / "test_rows.parquet")
    loans = pd.read_csv(bookshop / "loans.txt", sep=";")
    assert set(rows["reader"]) <= set(loans["Leser"])
    assert set(rows["book"]) <= set(loans["Buch"].astype(str))
    user = {"reader": rows["reader"][0], "town": "Ulm", "lent_at": int(rows["lent_at"][0])}
    past = list(map(int, rows["history.book"][0]))
    books = sorted(map(int, set(loans["Buch"])))
    score, top = bundle.rank({**user, "history.book": past}, books, 3)
    assert (score[top] >= np.sort(score)[-3]).all()
    assert len(set(score.tolist())) > 20
    assert not np.allclose(bundle.rank({**user, "history.book": []}, books, 3)[0], score)
    assert not np.allclose(bundle.rank({**user, "reader": "nobody", "history.book": past}, books, 3)[0], score)


@pytest.mark.slow
def test_two_processes_reach_the_metrics_of_one(bookshop, call, tmp_path):
    """Trained and evaluated by two CPU processes; one process evaluates the same checkpoint to the same figures."""
    options = ["model=din", "model.hidden=[8]", "batch_size=32", "trainer.max_epochs=2", "trainer.precision=32-true"]
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", f"hydra.run.dir={tmp_path}/run"]
    done = run(bookshop, "train.py", *bookshop_options(bookshop), *options, *ddp)
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stdout
    again = tmp_path / "again.json"
    checkpoint = f"checkpoint={tmp_path}/run/checkpoints/best.ckpt"
    assert call("evaluate.py", checkpoint, f"output={again}").returncode == 0
    first, second = (json.loads(p.read_text())["test"] for p in (tmp_path / "run" / "metrics.json", again))
    assert second == first


@pytest.mark.slow
def test_torchrun_trains_with_tables_shared_out(bookshop, call, tmp_path):
    """Two processes with a block of each table; one process evaluates the same checkpoint to the same figures."""
    pytest.importorskip("torchrec")
    options = ["model=din", "model.hidden=[8]", "batch_size=32", "trainer.max_epochs=1", "optimizer=rowwise"]
    sharded = ["trainer=sharded", "trainer.accelerator=cpu", "trainer.precision=32-true"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, str(ROOT / "scripts" / "train.py"), *bookshop_options(bookshop), *options, *sharded]
    environment = {**os.environ, "RECSYS_CACHE": str(bookshop / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/bookshop/din/*")
    assert (folder / "bundle" / "manifest.json").exists()
    again = tmp_path / "again.json"
    assert call("evaluate.py", f"checkpoint={folder}/checkpoints/best.ckpt", f"output={again}").returncode == 0
    first, second = (json.loads(p.read_text())["test"] for p in (folder / "metrics.json", again))
    assert second == first


def test_help_helps(tmp_path):
    done = run(tmp_path, "train.py", "--help")
    assert done.returncode == 0
    for text in (
        "group=choice",
        "model: deepfm, din, ease, full_nmf, ials, item_knn, mf, ncf",
        "max_epochs",
        "-m model=",
    ):
        assert text in done.stdout


def test_evaluate_refuses_renumbered_ids(din_run, bookshop, call):
    """Bug: only the sizes of the vocabularies were compared, so a renamed reader shifted every id in silence."""
    loans = bookshop / "loans.txt"
    content = loans.read_bytes()
    try:
        loans.write_bytes(content.replace("Käthe-1;".encode(), "Zoë-1;".encode()))
        done = call("evaluate.py", f"checkpoint={din_run}/checkpoints/best.ckpt")
    finally:
        loans.write_bytes(content)
    assert done.returncode == 1
    assert "was trained on other data" in done.stderr


@pytest.mark.parametrize("damage", ["user_E.npy", "meta.json"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_damaged_store_is_built_again(din_run, bookshop, call, tmp_path, damage, how):
    assert call("evaluate.py", f"checkpoint={din_run}/checkpoints/best.ckpt").returncode == 0
    store = max(bookshop.glob("cache/bookshop-*/encoders.json"), key=lambda p: p.stat().st_mtime).parent
    whole = (store / damage).read_bytes()
    (store / damage).unlink()
    if how == "cut":
        (store / damage).write_bytes(whole[: len(whole) // 2])
    done = call("evaluate.py", f"checkpoint={din_run}/checkpoints/best.ckpt", f"output={tmp_path}/new/again.json")
    assert done.returncode == 0, done.stderr
    assert "is damaged and is built again" in done.stdout
    first, again = (json.loads(p.read_text())["test"] for p in (din_run / "metrics.json", tmp_path / "new/again.json"))
    assert again == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize("model", ["mf", "deepfm"])
def test_sparse_gradients_train_with_clipping(bookshop, call, tmp_path, model):
    options = [
        "model.sparse=true",
        "trainer.max_epochs=1",
        "trainer=cpu",
        "export=false",
        f"hydra.run.dir={tmp_path}/run",
    ]
    done = call("train.py", *bookshop_options(bookshop), f"model={model}", "optimizer=adagrad", *options)
    assert done.returncode == 0, done.stderr
    done = call("train.py", *bookshop_options(bookshop), f"model={model}", *options)
    assert done.returncode == 1
    assert "model.sparse=true needs one that takes sparse gradients" in done.stderr


def test_a_last_batch_of_one_row_does_not_break_batch_norm(din_run, bookshop, call):
    train = json.loads((din_run / "metrics.json").read_text())["data"]["events"]["train"]
    options = [
        "model.batch_norm=true",
        f"batch_size={train - 1}",
        "trainer.max_epochs=1",
        "trainer=cpu",
        "export=false",
    ]
    done = call("train.py", *bookshop_options(bookshop), *options)
    assert done.returncode == 0, done.stderr


def test_evaluate_refuses_data_that_changed(din_run, bookshop, call):
    loans = bookshop / "loans.txt"
    content = loans.read_bytes()
    try:
        loans.write_bytes(content[: len(content) // 2].rpartition(b"\n")[0] + b"\n")
        done = call("evaluate.py", f"checkpoint={din_run}/checkpoints/best.ckpt")
    finally:
        loans.write_bytes(content)
    assert done.returncode == 1
    assert "was trained on other data" in done.stderr


def test_seeds_are_repeated_and_averaged(bookshop, call, tmp_path):
    quick = [
        "model=mf",
        "trainer.max_epochs=2",
        "trainer=cpu",
        "export=false",
        "seed=3",
        f"hydra.run.dir={tmp_path}/runs",
    ]
    done = call("train.py", *bookshop_options(bookshop), *quick, "seeds=3")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "runs" / "metrics.json").read_text())
    assert content["seeds"] == [3, 4, 5]
    runs = [json.loads((tmp_path / f"runs/seed_{seed}/metrics.json").read_text())["test"] for seed in (3, 4, 5)]
    for name in ("auc", "ndcg@10"):
        values = [run[name] for run in runs]
        assert len(set(values)) > 1
        assert content["mean"]["test"][name] == pytest.approx(np.mean(values))
        assert content["std"]["test"][name] == pytest.approx(np.std(values, ddof=1))
    assert "3 seeds" in done.stdout
    assert (tmp_path / "runs" / "report.html").exists()
    alone = [*quick[:-2], "seed=4", f"hydra.run.dir={tmp_path}/alone"]
    assert call("train.py", *bookshop_options(bookshop), *alone).returncode == 0
    assert json.loads((tmp_path / "alone" / "metrics.json").read_text())["test"] == runs[1]


def test_neumf_starts_from_checkpoints_through_the_command_line(bookshop, call, tmp_path):
    quick = ["model=ncf", "trainer.max_epochs=1", "trainer=cpu", "export=false"]
    for branch in ("gmf", "mlp"):
        place = f"hydra.run.dir={tmp_path}/{branch}"
        done = call("train.py", *bookshop_options(bookshop), *quick, f"model.branch={branch}", place)
        assert done.returncode == 0, done.stderr
    both = ",".join(f"{tmp_path}/{branch}/checkpoints/best.ckpt" for branch in ("gmf", "mlp"))
    start = [f"pretrained=[{both}]", f"hydra.run.dir={tmp_path}/neumf"]
    done = call("train.py", *bookshop_options(bookshop), *quick, *start)
    assert done.returncode == 0, done.stderr
    done = call("train.py", *bookshop_options(bookshop), *quick, *start[:1], "model=mf")
    assert done.returncode == 1
    assert "`pretrained` is for model=ncf" in done.stderr
