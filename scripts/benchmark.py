"""Measure speed and memory on this machine:

python scripts/benchmark.py [prepare] [train] [vocabulary] [rank] [export] [serve] [memory] [neighbours] [folds] [peers]
                            [gpu]

`train` also trains on a million clicks, beside a bare loop and, where it is asked for (`peers`), beside DeepCTR-Torch
on the same rows. `folds` fits the classical models to MovieLens-100k, with `peers` beside Surprise. `gpu` trains on a
CUDA device, with a profile, and beside DeepCTR-Torch where `make bench-peers` made .venv-peers or it is installed here.
`prepare` also prepares a million clicks, half of them texts; `memory` (minutes and 10 GiB of disk) reads, encodes and
trains on 20 million. `neighbours` (minutes) finds those of 100 thousand items.
"""

import importlib.util
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from benchmarks.folds import check_surprise, folds_file, measure_folds
from benchmarks.gpu import cuda_device, measure_gpu
from benchmarks.memory import measure_memory, measure_training_peak
from benchmarks.neighbours import measure_neighbours
from benchmarks.preparation import measure_preparation, prepare_anew
from benchmarks.serving import serve
from benchmarks.training import fit_seconds, measure_training, measure_vocabulary
from export.core import row_core
from export.graph import open_graph, recommender_graph, save_graph
from export.measure import BATCHES, measure
from export.rows import RawRows
from recsys.cli import CONFIGS, quiet_libraries
from recsys.config import build_data, build_model
from recsys.data.candidates import Candidates
from recsys.data.module import DataModule
from recsys.data.split import TEST
from recsys.models.base import Recommender

RUNS = 5
SHOP = ("prepare", "train", "rank", "export")
BY_DEFAULT = (*SHOP, "vocabulary", "serve")
VERBS = (*BY_DEFAULT, "memory", "neighbours", "folds", "peers", "gpu")
EPOCHS = 3
PEERS = Path(__file__).resolve().parents[1] / ".venv-peers" / "bin" / "python"
MODELS = ("mf", "ncf", "deepfm", "din")
Row = tuple[str, str, str]


def compose_shop(cache: Path, model: str) -> DictConfig:
    """The built-in shop at 200,000 events."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", [f"cache={cache}", f"model={model}", "data.generate.events=200000", "batch_size=4096"])


def median_seconds(work: Callable[[], object], runs: int = RUNS) -> float:
    """The median wall time of `runs` calls after one warm-up."""
    work()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def prepare(data: DataModule, cache: Path) -> list[Row]:
    """Tables to store: reading, cleaning, joining, splitting, fitting, encoding, writing."""
    rows = len(data.store.user_E)
    seconds = median_seconds(lambda: prepare_anew(data.spec, cache), 3)
    return [("prepare", f"{rows:,} events, 5 tables", f"{rows / seconds:,.0f} events/s")]


def rank(model: Recommender, data: DataModule) -> float:
    """Scores per second of a full ranking of 200 users (without the sort)."""
    candidates = Candidates(data.store, TEST)
    count = 200 * candidates.width

    def score() -> None:
        with torch.inference_mode():
            for start in range(0, count, 8192):
                model.score(candidates[np.arange(start, min(count, start + 8192))])

    return count / median_seconds(score, 3)


def export_latency(model: Recommender, raw: RawRows, folder: Path) -> dict[str, float]:
    """What `export.measure` says of the model's graph on raw test rows."""
    path = folder / "recommender.onnx"
    save_graph(recommender_graph(row_core(model), model, raw.store.encoders), path, model)
    row_B = np.resize(np.flatnonzero(raw.store.part_E == TEST), BATCHES[-1])
    return measure(path, raw.feed(open_graph(path), row_B))


def measure_shop(chosen: list[str], folder: Path) -> list[Row]:
    """The chosen measurements of all models on the built-in shop."""
    rows: list[Row] = []
    data = build_data(compose_shop(folder, "mf"))
    data.prepare_data()
    data.setup()
    if "prepare" in chosen:
        rows += prepare(data, folder)
    for model_name in MODELS:
        model = build_model(compose_shop(folder, model_name), data.schema)
        if "train" in chosen:
            events = int((data.store.part_E == 0).sum())
            rows.append(
                (f"train {model_name}", "batch 4,096", f"{events / fit_seconds(model, data, RUNS):,.0f} rows/s")
            )
        if "rank" in chosen:
            rows.append((f"rank {model_name}", "batch 8,192", f"{rank(model.eval(), data):,.0f} scores/s"))
        if "export" in chosen:
            figures = export_latency(model.eval(), RawRows.read(data), folder)
            for size in (1, 128):
                setting = f"{size} raw rows, 1 thread"
                rows.append((f"onnx {model_name}", setting, f"{figures[f'p50_ms@{size}']:.3f} ms"))
    return rows


def peer_python(*, needed: bool) -> Path | None:
    """The Python that has DeepCTR-Torch, if any. Raises ValueError where one is needed."""
    if PEERS.exists():
        return PEERS
    if importlib.util.find_spec("deepctr_torch"):
        return Path(sys.executable)
    if needed:
        raise ValueError("`peers` needs DeepCTR-Torch; `make bench-peers` installs it into .venv-peers.")
    return None


def main(chosen: list[str]) -> None:
    """Run the chosen measurements (without arguments all of `BY_DEFAULT`) and print one table."""
    if unknown := set(chosen) - set(VERBS):
        sys.exit(f"error: no measurement {unknown.pop()!r}. Valid: {', '.join(VERBS)}.")
    chosen = chosen or list(BY_DEFAULT)
    try:
        gpu = cuda_device() if "gpu" in chosen else None
        peer = peer_python(needed="peers" in chosen)
        folds = folds_file() if "folds" in chosen else None
        if folds and "peers" in chosen:
            check_surprise(peer)
    except ValueError as error:
        sys.exit(f"error: {error}")
    quiet_libraries()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = measure_shop(chosen, folder) if set(chosen) & set(SHOP) else []
        beside = peer if "peers" in chosen else None
        if {"train", "peers"} & set(chosen):
            rows += measure_training(folder, EPOCHS, beside)
        if "neighbours" in chosen:
            rows += measure_neighbours()
        if folds:
            rows += measure_folds(folds, folder, EPOCHS, beside)
        if "vocabulary" in chosen:
            rows += measure_vocabulary(folder) + measure_training_peak(folder)
        if "prepare" in chosen:
            rows += measure_preparation(folder)
        if "memory" in chosen:
            rows += measure_memory(folder)
        if "serve" in chosen:
            rows += serve(folder)
        if gpu:
            rows += measure_gpu(folder, gpu, peer)
    print_table(rows)


def print_table(rows: list[Row]) -> None:
    """The machine, the versions, the medians and the peak memory."""
    packages = ("torch", "pytorch-lightning", "onnxruntime", "numpy", "pandas", "pyarrow")
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    table = Table(title=f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}", title_justify="left")
    for heading in ("work", "setting", "median"):
        table.add_column(heading, justify="right" if heading == "median" else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print("  ".join(f"{p} {version(p)}" for p in packages), f"  peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main(sys.argv[1:])
