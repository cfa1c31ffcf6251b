"""A checkpoint whose tables and cache lie elsewhere by now, as on another machine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

TABLES = {"behaviour": "loans.txt", "items": "books.tsv", "scenes": "branches.csv.gz"}
MODELS = {"mf": ["model=mf", "trainer=cpu", "trainer.max_epochs=1", "refit=true"], "svd": ["model=svd"]}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture
def moved(bookshop, elsewhere, call) -> Callable[[str], tuple[Path, list[str]]]:
    """Train a model on the bookshop, then move its tables; the run's folder and the options that say where to."""

    def make(model: str) -> tuple[Path, list[str]]:
        run = bookshop / "outputs" / model
        if not run.exists():
            back(bookshop, elsewhere)
            where = [f"hydra.searchpath=[file://{bookshop}/configs]", "data=bookshop", f"hydra.run.dir={run}"]
            done = call("train.py", *where, *MODELS[model])
            assert done.returncode == 0, done.stderr
        shutil.rmtree(bookshop / "cache", ignore_errors=True)
        for name in TABLES.values():
            if (bookshop / name).exists():
                shutil.move(bookshop / name, elsewhere / name)
        options = [f"data.tables.{table}.path={elsewhere}/{name}" for table, name in TABLES.items()]
        return run, [f"checkpoint={run}/checkpoints/best.ckpt", f"cache={elsewhere}/cache", *options]

    return make


def back(bookshop: Path, elsewhere: Path) -> None:
    """Move the tables where they were."""
    for name in TABLES.values():
        if (elsewhere / name).exists():
            shutil.move(elsewhere / name, bookshop / name)


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_is_evaluated_exported_and_verified_elsewhere(moved, bookshop, elsewhere, call, model):
    """Bug: a checkpoint held the paths of its training, and nothing could say others."""
    run, options = moved(model)
    done = call("evaluate.py", *options, f"output={elsewhere}/{model}.json")
    assert done.returncode == 0, done.stderr
    again, first = (json.loads(p.read_text()) for p in (elsewhere / f"{model}.json", run / "metrics.json"))
    assert again["test"] == first["test"]
    assert again["config"]["data"]["tables"]["items"]["path"] == f"{elsewhere}/books.tsv"
    done = call("export.py", *options, f"output={elsewhere}/{model}")
    assert done.returncode == 0, done.stderr
    done = call("verify.py", *options, f"bundle={elsewhere}/{model}")
    assert done.returncode == 0, done.stderr
    assert "parity" in done.stdout
    assert not (bookshop / "cache").exists()


REFUSED = {
    "data.tables.behavior.path=a.csv": "there is no option `data.tables.behavior`: did you mean 'behaviour'? Valid:",
    "data.tables.users.path=a.csv": "was trained without `data.tables.users`: Valid: behaviour, items, scenes.",
    "data=shop": "there is no option `data`: Valid: batch_size, cache, checkpoint, ",
    "data.root=/data": "was trained without `data.root`: Valid: ",
    "+data.tables.items.sap=x": "was trained without `data.tables.items.sap`: did you mean 'sep'?",
    "cache=3": "`cache` must be a path, got 3",
    "data.tables.items.path=a.tsv": "no file 'a.tsv'. If tables have moved since the training, give data.root=... or ",
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_have_moved_is_refused_by_name(moved, call, wrong):
    _, options = moved("svd")
    name = wrong.lstrip("+").partition("=")[0]
    done = call("evaluate.py", *(option for option in options if not option.startswith(f"{name}=")), wrong)
    assert done.returncode == 1
    assert REFUSED[wrong] in done.stderr
    assert "write +data" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_other_tables_elsewhere_are_refused(moved, elsewhere, call):
    _, options = moved("svd")
    loans = elsewhere / "loans.txt"
    (elsewhere / "other.txt").write_bytes(loans.read_bytes()[:-2000].rpartition(b"\n")[0] + b"\n")
    options = [option.replace("loans.txt", "other.txt") for option in options]
    done = call("export.py", *options, f"output={elsewhere}/other")
    assert done.returncode == 1
    assert "train again, or restore the tables" in done.stderr
    assert not (elsewhere / "other").exists()
