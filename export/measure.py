"""How quick and how small a graph is on this machine: file, loading, memory, latency on one thread, rows per second."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from export.graph import open_graph

BATCHES = (1, 16, 128, 256, 512)
SECONDS, RUNS = 1.0, 300  # for each batch size, at most
WARM, LEAST = 5, 20
LOAD = """
import json, pathlib, sys, time
import onnxruntime
sys.path.insert(0, sys.argv[2])
from runtime import open_session
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
onnxruntime.get_available_providers()
before, started = resident(), time.perf_counter()
session = open_session(pathlib.Path(sys.argv[1]), 1)
print(json.dumps({"load_s": time.perf_counter() - started, "rss_mb": (resident() - before) / 2**20}))
"""


def measure(path: Path, feed: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The figures of one graph; `feed` holds inputs of at least 512 rows, of which batches are cut.

    `size_mb` with external data, `load_s` and `rss_mb` of a fresh process with this graph alone, `p50_ms@B` and
    `p99_ms@B` at batch size B on one thread, `rows_per_s` at 512 rows on all cores.
    """
    figures = {"size_mb": file_size(path), **load_figures(path)}
    session = open_graph(path, threads=1)
    for batch in BATCHES:
        seconds = run_times(session, {name: values[:batch] for name, values in feed.items()})
        figures[f"p50_ms@{batch}"], figures[f"p99_ms@{batch}"] = np.percentile(seconds, [50, 99]) * 1000
    everyone = open_graph(path)
    figures["rows_per_s"] = BATCHES[-1] / float(np.median(run_times(everyone, feed)))
    return {name: float(value) for name, value in figures.items()}


def file_size(path: Path) -> float:
    """MiB of a graph with its external data."""
    files = (path, path.with_name(f"{path.name}.data"))
    return sum(file.stat().st_size for file in files if file.exists()) / 2**20


def load_figures(path: Path) -> dict[str, float]:
    """Seconds and memory (MiB) that a bundle's runtime takes to load a graph in a process that does nothing else."""
    command = [sys.executable, "-c", LOAD, str(path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run_times(session: onnxruntime.InferenceSession, feed: Mapping[str, np.ndarray]) -> np.ndarray:
    """Seconds of each of up to `RUNS` runs, after some to warm up."""
    for _ in range(WARM):
        session.run(None, dict(feed))
    seconds: list[float] = []
    while len(seconds) < RUNS and (len(seconds) < LEAST or sum(seconds) < SECONDS):
        started = time.perf_counter()
        session.run(None, dict(feed))
        seconds.append(time.perf_counter() - started)
    return np.array(seconds)
