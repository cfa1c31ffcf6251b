"""What a run's folder and its log promise, and what is said of mistakes."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import OverrideParseException

from recsys.cli import RunLog, TakenFolder, describe, explain, leave_folder

HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
)


@pytest.fixture
def other(tmp_path):
    """Another process that runs in the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run.log"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        yield process
        process.kill()


def say(folder: Path) -> None:
    """A run that says something in the folder."""
    handler = RunLog(folder / "run.log", delay=True)
    try:
        handler.handle(logging.makeLogRecord({"msg": "at work"}))
    finally:
        handler.close()


def test_a_folder_is_one_process_s_until_that_is_gone(tmp_path, other):
    with pytest.raises(TakenFolder, match=rf"another process is at work in {tmp_path}.*hydra\.run\.dir"):
        say(tmp_path)
    assert (tmp_path / "run.log").read_text() == ""
    other.kill()
    other.wait()
    say(tmp_path)
    assert (tmp_path / "run.log").read_text() == "at work\n"


@pytest.mark.parametrize("typed", ["resume=runs/a=b/last.ckpt", "+data.tables.behaviour.sep=;"])
def test_a_value_that_hydra_cannot_read_is_to_be_quoted(composed, typed):
    """Bug: the message was that of Hydra's parser, about tokens."""
    with pytest.raises(OverrideParseException) as raised:
        composed(typed)
    name, value = typed.split("=", 1)
    quoted = f'{name}="{value}"'
    assert explain(raised.value, "train").endswith(f"in quotes inside those of the shell: '{quoted}'.")
    composed(quoted)


def test_a_message_ends_in_one_stop():
    """Bug: a question was given a stop too."""
    ends = {"too small?": "too small?", "is wrong.": "is wrong.", "is wrong": "is wrong."}
    for said, shown in ends.items():
        assert describe(ValueError(said)) == shown


@pytest.mark.parametrize("name", ["config.yaml", "study.db", "svd/tune/study.db"])
def test_what_has_begun_keeps_its_log(tmp_path, name):
    """Bug: a search that went on with another configuration was refused, and with it went the log of the first."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    for path in (tmp_path / name, tmp_path / "run.log"):
        path.write_text("begun", encoding="utf-8")
    assert "What was done so far" in leave_folder(tmp_path)
    assert (tmp_path / "run.log").exists()


def test_a_mistake_leaves_the_log_of_another_process(tmp_path, other):
    """Bug: that of a run which still read its tables was removed, and its lock along with it."""
    handler = RunLog(tmp_path / "run.log", delay=True)
    logging.getLogger().addHandler(handler)
    assert leave_folder(tmp_path) == ""
    assert handler not in logging.getLogger().handlers
    assert (tmp_path / "run.log").exists()
