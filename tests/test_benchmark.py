"""The benchmark of GPUs, as far as it can be seen without one."""

import runpy
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.models.deepfm import DeepFM

ROOT = Path(__file__).resolve().parents[1]


def test_without_a_gpu_the_benchmark_says_so_and_fails(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / "benchmark.py"), "gpu"])
    with pytest.raises(SystemExit, match=r"error: `gpu` needs a CUDA device, and torch .* sees none"):
        runpy.run_path(sys.argv[0], run_name="__main__")


def test_an_epochs_seconds_are_those_after_a_warm_up(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import kernels

    clock, steps = [0.0], []

    def step(batch: str) -> None:
        clock[0] += 100.0 if len(steps) < 2 else 2.0  # the first epoch compiles
        steps.append(batch)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert kernels.epoch_seconds(step, ["one", "two"], torch.device("cpu")) == 2 * 2.0
    assert len(steps) == 2 * (kernels.EPOCHS + 1)


def test_a_profile_names_the_longest_operation_first_and_counts_per_step(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.kernels import milliseconds_by_operation

    x = torch.ones(400, 400)
    started = time.perf_counter()
    times = milliseconds_by_operation(lambda y: x @ y + 1, [x] * 50, torch.device("cpu"))
    whole = 1e3 * (time.perf_counter() - started)
    assert next(iter(times)) == "aten::mm"
    assert list(times.values()) == sorted(times.values(), reverse=True)
    assert sum(times.values()) <= whole / 50


@pytest.fixture
def few_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement of GPUs at a size for tests; nothing is compiled."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import clicks, gpu, kernels

    monkeypatch.setattr(clicks, "EVENTS", {"train": 900, "valid": 100, "test": 100})
    monkeypatch.setattr(clicks, "LARGEST", 200)
    monkeypatch.setattr(gpu, "BATCH", 256)
    monkeypatch.setattr(kernels, "EPOCHS", 1)
    monkeypatch.setattr(DeepFM, "compile_layers", lambda _: None)


def test_rates_stand_beside_their_profile_and_the_peers(few_clicks, monkeypatch, tmp_path):
    from benchmarks import gpu

    asked = []

    def run_peer(python: Path, data: object, folder: Path, **options: object) -> dict[str, np.ndarray]:
        asked.append((options["verb"], options["batch"], options["device"]))
        found = {"seconds": 0.5, "operations": ["aten::mm", "aten::add"], "milliseconds": [50.0, 25.0]}
        return {name: np.array(value) for name, value in found.items()}

    monkeypatch.setattr(gpu, "run_peer", run_peer)
    device = torch.device("cpu")
    rows = gpu.measure_gpu(tmp_path, device, Path("python"))
    assert asked == [("fit", 256, device), ("steps", 256, device)]
    assert [row[1].rpartition(", ")[2] for row in rows[:4:2]] == ["as written", "compiled"]
    assert [row[0] for row in rows[1:4:2]] == ["  through `trainer.fit`"] * 2
    own, theirs = rows[4 : 5 + gpu.SHOWN], rows[5 + gpu.SHOWN :]
    assert own[0][0] == "  a step"
    assert {"aten::addmm", "aten::mm"} & {name for _, name, _ in own[1:]}
    assert ("DeepCTR-Torch's DeepFM on the GPU", "batch 256 made in advance, float32", "1,800 rows/s") in theirs
    assert ("  a step", "at work 60% of it", "125.000 ms") in theirs  # 900 rows are 4 steps in 0.5 s
    assert ("    in", "aten::mm", "50.000 ms, 40%") in theirs
    assert [row[0] for row in theirs[-2:]] == ["  its `fit`", "  our rate to that of its steps"]


def test_the_peak_of_work_that_fails_is_not_waited_for(monkeypatch):
    """Bug: the process that measures went on for ever."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.memory import Peak

    with pytest.raises(ZeroDivisionError):
        Peak().of(lambda: 1 / 0)
    assert not [thread for thread in threading.enumerate() if "_watch" in thread.name]


def test_folds_are_timed_beside_surprise(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import folds

    rng = np.random.default_rng(0)
    columns = {"user": rng.integers(0, 9, 200), "item": rng.integers(0, 7, 200), "rating": rng.integers(1, 6, 200)}
    pd.DataFrame(columns | {"fold": np.arange(200) % 5}).to_parquet(tmp_path / "folds.parquet")
    monkeypatch.setattr(folds, "figures", lambda model, _: (2.0 if model is folds.MODELS["svd"] else 1.0, 0.9))
    theirs = {name: np.array([9.0, 0.95]) for name in folds.MODELS}
    monkeypatch.setattr(folds, "run_surprise", lambda *_: theirs)
    rows = folds.measure_folds(tmp_path / "folds.parquet", tmp_path, 3, Path("python"))
    assert rows[4:6] == [
        ("svd, MovieLens-100k", "5 folds, RMSE 0.9000", "2.00 s"),
        ("  Surprise's, to ours", "RMSE 0.9500, 9.00 s", "4.5x"),
    ]
    monkeypatch.undo()
    seconds, error = folds.figures(folds.MODELS["item_knn"], {**columns, "fold": np.arange(200) % 5})
    assert seconds > 0
    assert 1 < error < 2  # the ratings are drawn at random


def test_folds_that_are_not_there_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import folds

    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="set RECSYS_DATA to the folder of datasets"):
        folds.folds_file()


def test_neighbours_are_found_of_what_was_drawn(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import neighbours

    found = neighbours.fit(events=5000, users=100, items=50)
    assert 2000 < found["pairs"] <= 100 * 50
    assert found["seconds"] > 0
    assert found["peak"] > 2**27
