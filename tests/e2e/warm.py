"""Scripts in processes that are forked from one that has imported what they import, which takes many seconds.

Such a process has its own working folder, environment, output and process group, as one that a shell starts. It shares
the order of sets with the others, and the number of threads: a test for which these matter starts a fresh interpreter.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 900  # seconds that a slow and loaded machine may take
IMPORTS = ["recsys.training", "recsys.report", "export.artifact", "export.bundle"]
FORKS = multiprocessing.get_context("forkserver")


def run(script: Path, arguments: list[str], folder: Path, environment: Mapping[str, str], output: list[Path]) -> None:
    """Become the script: `output` are the files of its stdout and stderr."""
    os.setpgid(0, 0)
    multiprocessing.set_start_method(None, force=True)  # what it starts itself is started as ever
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in ((sys.stdout, output[0]), (sys.stderr, output[1])):
        stream.flush()
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a forked process ends without


class Started:
    """A started script, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, script: Path, arguments: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        FORKS.set_forkserver_preload(IMPORTS)
        self._folder = tempfile.TemporaryDirectory()
        self._output = [Path(self._folder.name) / name for name in ("out", "err")]
        for path in self._output:
            path.touch()
        asked = (script, arguments, folder, dict(environment), self._output)
        self._process: ForkServerProcess = FORKS.Process(target=run, args=asked)
        self._process.start()
        atexit.register(self.kill)  # else the tests would wait for what a failed one leaves behind
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal, once it has ended."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it printed on stdout and stderr. Raises TimeoutError."""
        self._process.join(timeout)
        if self.poll() is None:
            raise TimeoutError(f"{self._process} did not end within {timeout} s")
        out, error = (path.read_text(encoding="utf-8") for path in self._output)
        return out, error


def bookshop_options(folder: Path) -> list[str]:
    """What makes the bookshop in a folder the dataset of a script."""
    return [f"hydra.searchpath=[file://{folder}/configs]", "data=bookshop"]


def start_training(folder: Path, *arguments: str) -> Started:
    """Training on the bookshop in a process group of its own that answers Ctrl-C, whoever started the tests."""
    environment = {**os.environ, "RECSYS_CACHE": str(folder / "cache")}
    return Started(ROOT / "scripts" / "train.py", [*arguments, *bookshop_options(folder)], folder, environment)


def finish(process: Started, expected: int = 0) -> tuple[str, str]:
    """What the command printed, on stdout and stderr; it must end with the `expected` exit code."""
    try:
        out, error = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == expected, error
    if expected != -signal.SIGKILL:  # the workers of a killed process may complain of its absence
        assert "Traceback" not in error
    return out, error


def wait_for(condition: Callable[[], Any], process: Started) -> None:
    """Wait until the condition holds, while the process runs."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.01)
