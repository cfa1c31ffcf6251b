"""Mistakes in options and tables, through the real command line: one message each, before anything is trained."""

from typing import Any

import pytest
from warm import bookshop_options

from recsys.layers.embedding import Table

BAD = {
    "model=defm": "did you mean 'deepfm'",
    "modle=din": "did you mean 'model'",
    "model.hiden=[8]": "did you mean 'hidden'",
    "model.dropout=1.5": "`dropout` must be in [0, 1), got 1.5",
    "trainer.max_epochs=many": "`trainer.max_epochs` must be an integer",
    "data.split.by=tyme": "did you mean 'time'",
    "evaluation.monitor=acu": "did you mean 'auc'",
    "optimizer.lr=-1": "learning rate",
    "seeds=0": "`seeds` must be at least 1",
    "trainer.max_epochs=0": "`trainer.max_epochs` must be at least 1",
    "evaluation.candidates=0": "`candidates` must be an integer of at least 1",
    "embedding_weight_decay=-1": "`embedding_weight_decay` must not be negative",
    "model.embedding_std=-1": "`embedding_std` must not be negative",
    "pretrained=[nowhere.ckpt]": "there is no checkpoint 'nowhere.ckpt'",
    "+data.tables.items.extract={writer: x}": "`extract.writer` needs a named group",
    "data.columns.writer.kind=number": "values are not a number",
    "data.tables.items.path=nowhere.csv": "table `items`: there is no file 'nowhere.csv'",
    "+data.columns.title={role: item, kind: category}": "table `items` has no column 'title'",
    "data.label.positive_from=1": "train labels are 1",
    "data.label.range=[8,9]": "no row of table `behaviour` survived cleaning",
    "+data.split={by: column, column: branch}": "must hold train, valid or test",
    "data.time.column=lent": "table `behaviour` has no column 'lent': did you mean 'lent_at'",
    "+data.columns.reader.bucket=3": "did you mean 'buckets'",
    "data.split.colum=branch": "write +data.split.colum=",
    "save_every=0": "`save_every` must be an integer of at least 1 (steps), got 0",
    "save_every=null": "`save_every` must be an integer of at least 1 (steps), got None",
    "resume=3": "`resume` must be true, a checkpoint's path or null, got 3",
    "resume=nowhere/last.ckpt": "there is no checkpoint 'nowhere/last.ckpt'",
    "resume=loans.txt": "'loans.txt' is not a checkpoint",
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_ends_in_one_message_and_leaves_nothing(bookshop, call, mistake):
    (bookshop / "cache").mkdir(exist_ok=True)
    before = sorted(bookshop.rglob("*"))
    done = call("train.py", *bookshop_options(bookshop), mistake)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.startswith("error: ")
    assert BAD[mistake] in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(bookshop.rglob("*")) == before


def test_test_pairs_in_training_stop_the_run_before_it_begins(bookshop, call):
    """Readers lend books again, so a random split of implicit data asks what training has told."""
    before = sorted(bookshop.rglob("outputs/**"))
    options = ["data.label.kind=implicit", "data.split.by=random", "model=mf", "objective=bpr"]
    done = call("train.py", *bookshop_options(bookshop), *options)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the leak check failed:\n- test pairs: a user and item of training in ")
    assert sorted(bookshop.rglob("outputs/**")) == before


def test_an_empty_table_is_named(bookshop, call, tmp_path):
    (tmp_path / "empty.txt").write_text("Leser;Buch;branch;Zeit;Note\n")
    done = call("train.py", *bookshop_options(bookshop), f"data.tables.behaviour.path={tmp_path}/empty.txt")
    assert done.returncode == 1
    assert "table `behaviour` is empty" in done.stderr


@pytest.mark.parametrize("script", ["evaluate.py", "export.py"])
def test_a_wrong_checkpoint_is_named(bookshop, call, script):
    for path in (bookshop / "no.ckpt", bookshop / "loans.txt"):
        done = call(script, f"checkpoint={path}")
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert path.name in done.stderr
        assert "Traceback" not in done.stderr


def test_an_unwritable_run_folder_is_one_message(bookshop, call):
    done = call("train.py", *bookshop_options(bookshop), "hydra.run.dir=/proc/nowhere/run")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "/proc/nowhere" in done.stderr


def test_tables_that_do_not_fit_are_refused_before_they_are_made(bookshop, call, monkeypatch):
    """Bug: they were allocated first, so that the machine swapped, or ended the run without a word."""
    devices: list[str] = []
    make = Table.__init__

    def noted(self: Table, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        devices.append(self.weight.device.type)

    monkeypatch.setattr(Table, "__init__", noted)
    monkeypatch.setattr("recsys.memory.device_memory", lambda _: 1000)
    done = call("train.py", *bookshop_options(bookshop), "trainer=cpu")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the embedding tables with what Adam keeps of them take ")
    assert done.stderr.count("\n") == 1
    assert set(devices) == {"meta"}


def test_a_broken_yaml_is_one_message_with_file_and_line(bookshop, call):
    broken = bookshop / "configs" / "data" / "broken.yaml"
    broken.write_text("name: broken\ntables: {behaviour: {path: x.csv}\nuser: u\n")
    try:
        done = call("train.py", f"hydra.searchpath=[file://{bookshop}/configs]", "data=broken")
    finally:
        broken.unlink()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "broken.yaml" in done.stderr
    assert "line 3" in done.stderr
