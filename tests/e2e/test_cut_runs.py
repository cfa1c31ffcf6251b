"""Runs that are killed or interrupted, through the real command line, and how they go on."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from folders import metrics, place
from pytorch_lightning.utilities import rank_zero_only
from warm import ROOT, Started, bookshop_options, finish, start_training, wait_for

from export.runtime import Bundle
from recsys.checkpoints import Interrupted, LastCheckpoint
from recsys.report import read_curves

DEEPFM = ["model=deepfm", "model.hidden=[16]", "model.dropout=0.3", "schedule=cosine", "warmup=0.1", "batch_size=8"]
MF = ["model=mf", "data.label.kind=implicit", "objective=bpr", "workers=2", "batch_size=8"]
TRAINING = ["trainer=cpu", "trainer.max_epochs=4", "patience=null", "export=false", "save_every=3"]
DDP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]


def freeze_inside_an_epoch(process: Started, run: Path, epoch: int, name: str = "last") -> None:
    """Stop the process when its last.ckpt (or another) lies inside an epoch, not before `epoch`."""

    def frozen() -> bool:
        if place(run, name)[0] < epoch:
            return False
        process.send_signal(signal.SIGSTOP)
        if place(run, name)[1] > 0:
            return True
        process.send_signal(signal.SIGCONT)
        return False

    wait_for(frozen, process)


@pytest.mark.slow
@pytest.mark.parametrize("options", [DEEPFM, MF, [*DEEPFM, *DDP]], ids=["dropout", "negatives and workers", "ddp"])
def test_a_run_that_is_cut_twice_goes_on_to_the_metrics_of_a_whole_one(bookshop, tmp_path, call, options):
    """Killed inside an epoch, then ended by SIGTERM in the second training, then resumed: the same to the last bit.

    Two processes are ended by SIGTERM both times, and one that draws negatives is killed both times.
    """
    options, several, killed_twice = [*TRAINING, *options, "refit=true"], "trainer=ddp" in options, options is MF
    finish(start_training(bookshop, *options, f"hydra.run.dir={tmp_path}/whole/run"))
    run = tmp_path / "cut" / "run"

    process = start_training(bookshop, *options, f"hydra.run.dir={run}")
    if several:
        wait_for(lambda: place(run)[0] >= 1, process)
        process.terminate()
        finish(process, 143)
        assert metrics(run)["interrupted"] == "SIGTERM"
    else:
        freeze_inside_an_epoch(process, run, 1)
        process.kill()
        finish(process, -signal.SIGKILL)
    killed = place(run)

    process = start_training(bookshop, *options, f"hydra.run.dir={tmp_path}/cut/new", "resume=true")
    if killed_twice:
        freeze_inside_an_epoch(process, run, 0, "refit")
        process.kill()
        finish(process, -signal.SIGKILL)
    else:
        wait_for(lambda: place(run, "refit")[0] >= 0, process)
        process.terminate()
        _, error = finish(process, 143)
        if not several:
            assert error == f"error: interrupted by SIGTERM; go on with resume={run}/checkpoints/last.ckpt\n"
        content = metrics(run)
        assert (content["interrupted"], content["refit"], "test" in content) == ("SIGTERM", True, False)
    first = (run / "checkpoints" / "selected.ckpt").stat().st_mtime_ns
    assert not (run / "checkpoints" / "best.ckpt").exists()
    refused = resume(call, bookshop, f"resume={run}/checkpoints/refit.ckpt", f"hydra.run.dir={tmp_path}/cut/new")
    assert "`resume` needs the checkpoints/last.ckpt inside a run's folder" in refused.stderr

    out, _ = finish(start_training(bookshop, *options, f"hydra.run.dir={tmp_path}/cut/new", "resume=true"))
    assert f"resuming {run} in" in out
    assert metrics(run) == metrics(tmp_path / "whole" / "run")
    assert (run / "checkpoints" / "selected.ckpt").stat().st_mtime_ns == first
    assert [p.name for p in run.parent.iterdir()] == ["run"]
    log = (run / "run.log").read_text()
    assert f"in epoch {killed[0]} after {killed[1]} batches" in log
    assert log.count("resuming") == 2


@pytest.mark.parametrize(
    ("number", "code", "workers"), [(signal.SIGINT, 130, "left alone"), (signal.SIGTERM, 143, "ended too")]
)
def test_a_signal_ends_training_cleanly(bookshop, tmp_path, number, code, workers):
    """Sent to the process group, as a terminal does, or to every process, as a machine does that shuts down."""
    options = [*DEEPFM, *TRAINING, "workers=2", "trainer.max_epochs=100000", f"hydra.run.dir={tmp_path}/run"]
    process = start_training(bookshop, *options)
    run = tmp_path / "run"
    wait_for(lambda: place(run)[0] >= 1, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.killpg(process.pid, number)
    for child in children if workers == "ended too" else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), number)
    _, error = finish(process, code)
    assert error == f"error: interrupted by {number.name}; go on with resume={run}/checkpoints/last.ckpt\n"
    content = metrics(run)
    assert content["interrupted"] == number.name
    assert {"auc", "logloss", "precision", "recall", "f1"} <= set(content["valid"])
    assert "test" not in content
    assert (content["monitor"], content["model"], content["data"]["name"]) == ("valid/auc", "DeepFM", "bookshop")
    assert content["best"] == max(value for _, value in read_curves(run / "log" / "metrics.csv")["valid/auc"])
    assert "DeepFM on bookshop" in (run / "report.html").read_text()
    assert (run / "plots" / "curves.png").exists()
    assert not list(run.rglob("*.tmp"))


def test_a_signal_before_the_first_validation(bookshop, tmp_path):
    options = [*DEEPFM, *TRAINING, "batch_size=1", f"hydra.run.dir={tmp_path}/run"]
    process = start_training(bookshop, *options)
    freeze_inside_an_epoch(process, tmp_path / "run", 0)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    finish(process, 130)
    assert place(tmp_path / "run")[0] == 0
    assert metrics(tmp_path / "run")["valid"] == {}


def test_a_second_signal_ends_the_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, pathlib; from recsys.checkpoints import LastCheckpoint; import types\n"
        "trainer = types.SimpleNamespace(global_step=0)\n"
        "LastCheckpoint(pathlib.Path('last.ckpt'), 1).on_train_start(trainer, None)\n"
        "os.kill(os.getpid(), signal.SIGINT); print('first', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT); print('second', flush=True)\n"
    )
    out, _ = finish(Started(script, [], tmp_path, os.environ), -signal.SIGINT)
    assert out == "first\n"


def test_an_ignored_signal_stays_ignored(monkeypatch, tmp_path):
    """A run started by nohup, or in the background of a shell script, does not answer Ctrl-C."""
    taken_over: list[tuple] = []
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
    monkeypatch.setattr(signal, "signal", lambda *arguments: taken_over.append(arguments))
    LastCheckpoint(tmp_path / "last.ckpt", 1)._listen()
    monkeypatch.undo()
    assert taken_over == []


def test_a_signal_while_data_is_prepared_leaves_nothing_half_written(bookshop, tmp_path):
    arguments = ["model=mf", "data.generate.events=2000000", f"cache={tmp_path}/cache", f"hydra.run.dir={tmp_path}/run"]
    process = Started(ROOT / "scripts" / "train.py", arguments, tmp_path, os.environ)
    wait_for((tmp_path / "cache").exists, process)
    process.terminate()
    _, error = finish(process, 143)
    assert error == "error: interrupted.\n"
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_an_interrupted_process_of_several_leaves_no_folder_of_its_own(call, tmp_path, monkeypatch):
    """Bug: torchrun's processes name their folders by their own clocks, and only the first one's is used."""

    def interrupted(*_: object) -> None:
        raise Interrupted(signal.SIGTERM, tmp_path / "last.ckpt")

    monkeypatch.setattr("recsys.training.train", interrupted)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    done = call("train.py", "model=mf", f"hydra.run.dir={tmp_path}/outputs/second")
    assert (done.returncode, done.stderr) == (143, "")
    assert not (tmp_path / "outputs").exists()


def test_the_same_seed_gives_the_same_metrics_to_the_last_bit(bookshop, tmp_path):
    """In fresh interpreters, whose sets have orders of their own, on two threads."""
    options = [*DEEPFM, *TRAINING, "trainer.max_epochs=2", f"hydra.searchpath=[file://{bookshop}/configs]"]
    environment = {**os.environ, "RECSYS_CACHE": str(bookshop / "cache"), "OMP_NUM_THREADS": "2"}
    for name in ("first", "second"):
        command = [sys.executable, ROOT / "scripts" / "train.py", *options, "data=bookshop"]
        command.append(f"hydra.run.dir={tmp_path}/{name}")
        subprocess.run(command, cwd=bookshop, env=environment, check=True, capture_output=True)
    assert metrics(tmp_path / "first") == metrics(tmp_path / "second")


@pytest.fixture(scope="module")
def finished(bookshop: Path) -> Path:
    """A finished run."""
    run = bookshop / "outputs" / "finished"
    finish(start_training(bookshop, *DEEPFM, *TRAINING, "batch_size=64", f"hydra.run.dir={run}"))
    return run


@pytest.fixture
def unfinished(finished: Path) -> Iterator[Path]:
    """The same run as if killed before its evaluation."""
    content = (finished / "metrics.json").read_text()
    (finished / "metrics.json").unlink()
    yield finished
    (finished / "metrics.json").write_text(content)


def resume(call: Callable[..., Any], bookshop: Path, *options: str) -> Any:
    return call("train.py", *bookshop_options(bookshop), *DEEPFM, *TRAINING, "batch_size=64", *options)


def test_an_unevaluated_run_is_only_evaluated(unfinished, bookshop, call):
    best = (unfinished / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    done = resume(call, bookshop, f"hydra.run.dir={bookshop}/outputs/new", "resume=true", "workers=1", "save_every=7")
    assert done.returncode == 0, done.stderr
    assert metrics(unfinished)["test"]["auc"] > 0
    assert (unfinished / "checkpoints" / "best.ckpt").stat().st_mtime_ns == best


def test_a_run_killed_before_its_page_is_exported_and_reported_again(finished, bookshop, call):
    """Bug: metrics.json, written first, marked a run as finished that had neither exported its model nor its page."""
    (finished / "report.html").unlink()
    done = resume(call, bookshop, f"hydra.run.dir={bookshop}/outputs/new", "resume=true", "export=true")
    assert done.returncode == 0, done.stderr
    assert Bundle.load(finished / "bundle").manifest["model"] == "DeepFM"
    assert (finished / "report.html").exists()


@pytest.mark.parametrize(
    ("model", "resume"), [("mf", "go on with resume={run}/checkpoints/last.ckpt, or "), ("item_knn", "")]
)
def test_a_signal_after_the_training_says_what_is_saved_and_how_to_go_on(
    bookshop, call, tmp_path, monkeypatch, model, resume
):
    """Bug: "interrupted." was all, as if the training were lost."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recsys.run_files.best_possible", interrupted)
    place = [*bookshop_options(bookshop), f"hydra.run.dir={tmp_path}/run"]
    done = call("train.py", *place, f"model={model}", *(["trainer.max_epochs=1"] if model == "mf" else []))
    assert done.returncode == 130
    run = tmp_path / "run"
    assert done.stderr == (
        f"error: interrupted. What was done so far and run.log are in {run}. The trained model is saved; "
        f"{resume.format(run=run)}give checkpoint={run}/checkpoints/best.ckpt to scripts/evaluate.py or "
        "scripts/export.py.\n"
    )
    assert (run / "checkpoints" / "best.ckpt").is_file()


REFUSED = {
    "resume=true": "there is nothing to resume in {outputs}: the newest run, {run}, is finished.",
    "resume={last}": "there is nothing to resume: the run {run} is finished.",
    "resume=true hydra.run.dir=elsewhere/new": "no run there has a checkpoints/last.ckpt.",
    "resume={best}": "`resume` needs the checkpoints/last.ckpt inside a run's folder, got '{best}'.",
}
DIFFERENT = {
    "resume=true optimizer.lr=0.5": "(`optimizer.lr`: 0.001 there, 0.5 here)",
    "resume={last} optimizer.lr=0.5": "(`optimizer.lr`: 0.001 there, 0.5 here)",
    "resume={last} model=ncf": "`model._target_`: recsys.models.deepfm.DeepFM there, recsys.models.ncf.NCF here",
    "resume={last} data.columns.pages.log1p=false": "`data.columns.pages.log1p`: True there, False here",
    "resume={last} +trainer.max_steps=9": "a run with `trainer.max_steps` cannot be resumed",
}


def assert_refused(call: Callable[..., Any], bookshop: Path, run: Path, options: str, message: str) -> None:
    """The command ends in one line with the message and leaves everything as it was."""
    names = {"outputs": run.parent, "run": run, "last": run / "checkpoints/last.ckpt"}
    names |= {"best": run / "checkpoints/best.ckpt"}
    before = {p: p.stat().st_mtime_ns for p in bookshop.rglob("*") if p.is_file()}
    given = options.format(**names).split()
    if "model=ncf" in given:
        given += ["~model.hidden"]
    done = resume(call, bookshop, f"hydra.run.dir={bookshop}/outputs/new", *given)
    assert done.returncode == 1
    assert message.format(**names) in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert {p: p.stat().st_mtime_ns for p in bookshop.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("options", REFUSED)
def test_nothing_to_resume_is_said(finished, bookshop, call, options):
    assert_refused(call, bookshop, finished, options, REFUSED[options])


@pytest.mark.parametrize("options", DIFFERENT)
def test_a_different_run_is_refused_by_name(unfinished, bookshop, call, options):
    assert_refused(call, bookshop, unfinished, options, DIFFERENT[options])


CHANGES = {
    "a new reader": ("Käthe-1;", "Zoë;", "size of 'reader': 41 there, 42 here"),
    "a renamed reader": ("Käthe-1;", "Zoë-1;", "their values are numbered differently"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_is_refused_by_name(unfinished, bookshop, call, change):
    before, after, message = CHANGES[change]
    loans = bookshop / "loans.txt"
    content = loans.read_text(encoding="utf-8")
    count = 1 if change == "a new reader" else -1
    try:
        loans.write_text(content.replace(before, after, count), encoding="utf-8")
        done = resume(call, bookshop, f"hydra.run.dir={bookshop}/outputs/new", "resume=true")
    finally:
        loans.write_text(content, encoding="utf-8")
    assert done.returncode == 1
    assert f"{unfinished}/checkpoints/last.ckpt was trained on other data" in done.stderr
    assert message in done.stderr


def test_changed_events_are_refused(unfinished, bookshop, call):
    """Two labels of training rows are swapped: the schema is the same to the last digit."""
    loans = bookshop / "loans.txt"
    content = loans.read_text(encoding="utf-8")
    lines = content.splitlines(keepends=True)
    good, bad = (next(n for n, line in enumerate(lines) if re.search(f";0;.*;{mark};unread", line)) for mark in (5, 1))
    lines[good] = lines[good].replace(";5;unread", ";1;unread")
    lines[bad] = lines[bad].replace(";1;unread", ";5;unread")
    try:
        loans.write_text("".join(lines), encoding="utf-8")
        done = resume(call, bookshop, f"hydra.run.dir={bookshop}/outputs/new", "resume=true")
    finally:
        loans.write_text(content, encoding="utf-8")
    assert done.returncode == 1
    assert "trained on other data (as many events, but not the same)" in done.stderr
