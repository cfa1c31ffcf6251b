"""Classical models, searches and comparisons through the real commands."""

import json
import re
import shutil
from pathlib import Path

import optuna
import pytest
import yaml


@pytest.fixture
def run(call, bookshop):
    """A script on the bookshop; its exit code, output and errors."""

    def make(script: str, *arguments: str):
        return call(script, f"hydra.searchpath=[file://{bookshop}/configs]", "data=bookshop", *arguments)

    return make


def newest(bookshop: Path, model: str) -> Path:
    folders = (bookshop / "outputs" / "bookshop" / model).glob("2*")
    return max(folders, key=lambda folder: folder.stat().st_mtime)


def test_a_classical_model_is_trained_and_evaluated_by_the_same_commands(run, call, bookshop):
    done = run("train.py", "model=item_knn", "model.k=5")
    assert done.returncode == 0, done.stderr
    folder = newest(bookshop, "item_knn")
    assert "as confidential as those rows" in (folder / "bundle" / "README.md").read_text(encoding="utf-8")
    names = {"config.yaml", "run.log", "metrics.json", "evaluation.json", "report.html", "encoders.json", "plots"}
    assert names <= {path.name for path in folder.iterdir()}
    metrics = json.loads((folder / "metrics.json").read_text())
    checkpoint = folder / "checkpoints" / "best.ckpt"
    done = call("evaluate.py", f"checkpoint={checkpoint}", f"output={folder}/again.json")
    assert done.returncode == 0, done.stderr
    again = json.loads((folder / "again.json").read_text())
    assert again["test"] == metrics["test"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    (folder / "report.html").unlink()
    assert call("report.py", f"runs={folder}").returncode == 0
    assert (folder / "report.html").read_text(encoding="utf-8") == page
    done = call("verify.py", f"bundle={folder}/bundle", f"checkpoint={checkpoint}", f"rows={folder}/test_rows.parquet")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=svd", "resume=true"], "SVD is fitted in one go on the CPU and has no use for `resume=true`"),
        (["model=svd", "optimizer.lr=0.1"], "has no use for `optimizer.lr=0.1`"),
        (["model=svd", "optimizer=sgd"], "has no use for `optimizer=sgd`"),
        (["model=svd", "objective=logistic"], "has no use for `objective=logistic`"),
        (["model=svd", "trainer.max_epochs=3"], "has no use for `trainer.max_epochs=3`"),
        (["model=svd", "trainer=ddp"], "has no use for `trainer=ddp`"),
        (["model=svd", "pretrained=[x.ckpt]"], "has no use for `pretrained="),
        (["model=svd", "model.epochs=0"], "`model`: .*`epochs` must be at least 1"),
        (["model=svd", "data.label.kind=implicit"], "SVD cannot be fitted on implicit feedback; use model=ials"),
        (["model=ease", "data.label.kind=rating"], "EASE cannot be fitted on ratings feedback"),
    ],
)
def test_what_a_model_has_no_use_for_is_refused_by_name(run, arguments, message, bookshop):
    done = run("train.py", *arguments)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr


def test_defaults_and_a_cpu_are_no_reason_to_refuse(run):
    done = run("train.py", "model=popularity,svd", "trainer=cpu", "resume=false", "pretrained=null", "-m")
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.rindex("Test metrics") :]
    assert "model=popularity" in table
    assert "model=svd" in table


def test_a_multirun_goes_on_after_a_run_that_is_refused(run, bookshop):
    """Bug: where the first run of a multirun was refused, the others were never begun."""
    done = run("train.py", "model=ease,popularity,svd", "data.label.kind=rating", "-m")
    assert done.returncode == 1
    assert "EASE cannot be fitted on ratings" in done.stderr
    assert "No such file" not in done.stderr
    table = done.stdout[done.stdout.rindex("Test metrics") :]
    assert "model=popularity" in table
    assert "model=svd" in table
    assert "ease" not in table


def test_a_search_goes_on_and_its_experiment_trains(run, call, bookshop):
    folder = bookshop / "outputs" / "bookshop" / "svd" / "tune"
    assert run("tune.py", "model=svd", "trials=2", "search.model.embedding_dim.high=7").returncode == 0
    storage = f"sqlite:///{folder}/study.db"
    optuna.load_study(study_name="tune", storage=storage).ask()  # as of a process that was killed
    done = run("tune.py", "model=svd", "trials=4", "search.model.embedding_dim.high=7")
    assert done.returncode == 0, done.stderr
    assert "goes on after 2 trials" in done.stderr + done.stdout
    study = optuna.load_study(study_name="tune", storage=storage)
    assert [trial.state.name for trial in study.trials].count("COMPLETE") == 4
    assert [trial.state.name for trial in study.trials].count("FAIL") == len(study.trials) - 4 == 1
    first = study.trials[0].params
    assert (first["model.reg"], first["model.epochs"]) == (3.0, 8), "the first trial tries the settings as they are"
    assert (folder / "plots" / "study.png").stat().st_size > 0
    path = folder / "experiment" / "bookshop_svd_best.yaml"
    best = yaml.safe_load(path.read_text())["model"]
    assert {f"model.{name}": value for name, value in best.items()} == study.best_params
    done = call("train.py", f"experiment={path.stem}", f"hydra.searchpath=[file://{bookshop}/configs,file://{folder}]")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((newest(bookshop, "svd") / "metrics.json").read_text())
    assert metrics["valid"]["auc"] == pytest.approx(study.best_value)
    done = run("tune.py", "model=svd", "trials=5", "model.seed=3", "search.model.embedding_dim.high=7")
    assert done.returncode == 1
    assert "is of another configuration (`model.seed`: 0 there, 3 here)" in done.stderr


def test_a_search_of_a_deep_model_gives_hopeless_trials_up(run, bookshop):
    options = ["model=mf", "trainer=cpu", "trainer.max_epochs=3", "trials=9"]
    done = run("tune.py", *options)
    assert done.returncode == 0, done.stderr
    storage = f"sqlite:///{bookshop}/outputs/bookshop/mf/tune/study.db"
    study = optuna.load_study(study_name="tune", storage=storage)
    epochs = [len(trial.intermediate_values) for trial in study.trials]
    assert len(epochs) == 9
    assert max(epochs) == 3
    for trial in study.trials:
        if trial.state == optuna.trial.TrialState.COMPLETE:
            assert trial.value == max(trial.intermediate_values.values())
    assert not list((bookshop / "outputs" / "bookshop" / "mf" / "tune").glob("**/*.ckpt"))


def test_models_are_compared_on_equal_terms(run, bookshop):
    folder = bookshop / "outputs" / "bookshop" / "compare"
    options = ["trainer=cpu", "trainer.max_epochs=1", "trials=2", "refit=true"]
    done = run("compare.py", "models=[popularity,item_knn,mf]", *options)
    assert done.returncode == 0, done.stderr
    content = json.loads((folder / "comparison.json").read_text())
    assert content["verdict"] in done.stdout
    assert {entry["model"] for entry in content["models"]} == {"popularity", "item_knn", "mf"}
    for entry in content["models"]:
        run_metrics = json.loads((folder / entry["model"] / "run" / "metrics.json").read_text())
        assert run_metrics["refit"]
        assert entry["trials"] == 2
        assert entry["test"] == run_metrics["test"]
        study = optuna.load_study(study_name="tune", storage=f"sqlite:///{folder}/{entry['model']}/tune/study.db")
        assert entry["valid"] == pytest.approx(study.best_value)
    assert (folder / "plots" / "comparison.png").stat().st_size > 0
    assert (folder / "comparison.html").is_file()
    shutil.rmtree(folder)
    done = run("compare.py", "models=[popularity,svd]", *options)
    assert "No model is called best: item_knn, simple baselines, are not in the comparison" in done.stdout
    done = run("compare.py", "models=mf")
    assert done.returncode == 1
    assert "`models` must list two models or more" in done.stderr
