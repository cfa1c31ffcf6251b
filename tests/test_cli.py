"""What a run's folder and its log promise."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.cli import RunLog, TakenFolder

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
