"""The benchmark of GPUs, as far as it can be seen without one."""

import runpy
import sys
import threading
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def test_without_a_gpu_the_benchmark_says_so_and_fails(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / "benchmark.py"), "gpu"])
    with pytest.raises(SystemExit, match=r"error: `gpu` needs a CUDA device, and torch .* sees none"):
        runpy.run_path(sys.argv[0], run_name="__main__")


def test_rows_per_second_count_every_row_of_whole_epochs_after_a_warm_up(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import gpu

    clock, steps = [0.0], []

    def step(batch: list[int]) -> None:
        clock[0] += 100.0 if len(steps) < 2 else 2.0  # the first epoch compiles
        steps.append(batch)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert gpu.rows_per_second(step, [[0] * 30, [0] * 10], torch.device("cpu")) == (30 + 10) / (2 * 2.0)
    assert len(steps) == 2 * (gpu.EPOCHS + 1)


def test_the_peak_of_work_that_fails_is_not_waited_for(monkeypatch):
    """Bug: the process that measures went on for ever."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.memory import Peak

    with pytest.raises(ZeroDivisionError):
        Peak().of(lambda: 1 / 0)
    assert not [thread for thread in threading.enumerate() if "_watch" in thread.name]
