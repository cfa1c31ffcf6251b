"""Disks that are full and folders that are read-only, through the real command line."""

import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from folders import metrics, place
from warm import finish, start_training

from recsys.callbacks import MetricsLog
from recsys.cli import RunLog
from recsys.models.base import read_checkpoint
from recsys.report import read_curves

MODEL = ["model=deepfm", "model.hidden=[16]"]
TRAINING = [*MODEL, "trainer=cpu", "trainer.max_epochs=4", "patience=null", "export=false"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not permitted")
        return folder

    if not shutil.which("mount"):
        pytest.skip("there is no mount command")
    yield mount
    subprocess.run(["umount", "--lazy", folder], capture_output=True, check=False)


def test_a_full_disk_leaves_the_earlier_checkpoints(bookshop, disk):
    """Two checkpoints fit and a third does not; with more room the run goes on."""
    run = disk("size=7m") / "run"
    options = [*TRAINING, "model.embedding_dim=1024", "batch_size=64", "save_every=1000"]
    _, error = finish(start_training(bookshop, *options, f"hydra.run.dir={run}"), 1)
    assert error.startswith(f"error: [Errno 28] cannot write the file: No space left on device: '{run}/checkpoints/")
    assert error.count("\n") == 1
    assert place(run)[0] == 0
    read_checkpoint(run / "checkpoints" / "best.ckpt")
    assert not list(run.rglob(".*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=64m", run.parent], check=True)
    finish(start_training(bookshop, *options, f"hydra.run.dir={run}", "resume=true"))
    assert metrics(run)["epochs"] == 4


def test_a_disk_that_is_full_from_the_start_is_named(bookshop, disk):
    run = disk("size=8k") / "run"
    _, error = finish(start_training(bookshop, *TRAINING, f"hydra.run.dir={run}"), 1)
    assert error == "error: [Errno 28] No space left on device in the run's folder, `hydra.run.dir`.\n"


def test_a_full_disk_leaves_the_earlier_metrics(disk):
    path = disk("size=64k") / "metrics.csv"
    log = MetricsLog(path)
    log.log_metrics({"epoch": 0, "train/loss": 0.5}, 0)
    log.rows *= 10**4
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.csv'"):
        log.log_metrics({"epoch": 1, "train/loss": 0.25}, 1)
    assert read_curves(path) == {"train/loss": [(0, 0.5)]}
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_ends_the_run_log(disk):
    handler = RunLog(disk("size=4k") / "run.log", delay=True)
    record = logging.LogRecord("run", logging.INFO, "", 0, "x" * 5000, None, None)
    with pytest.raises(OSError, match=r"No space left on device: '.*run\.log'"):
        handler.emit(record)


def test_a_read_only_folder_is_one_message(bookshop, disk):
    run = disk("ro") / "run"
    _, error = finish(start_training(bookshop, *MODEL, f"hydra.run.dir={run}"), 1)
    assert error.startswith("error: [Errno 30] Read-only file system")
    assert str(run) in error
    assert error.count("\n") == 1
