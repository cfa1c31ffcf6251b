"""How long a table of 1.1 million rows and 39 columns, half of them texts, takes from its file to the encoded store."""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.clicks import EVENTS, FIELDS, NUMBERS, declaration
from benchmarks.memory import write_clicks
from recsys.data.module import DataModule, DataSpec

Row = tuple[str, str, str]


def measure_preparation(folder: Path, runs: int = 3) -> list[Row]:
    """The median of `runs` preparations after one that warms up."""
    path, rows = folder / "clicks.parquet", sum(EVENTS.values())
    write_clicks(path, rows)
    spec = DataSpec.parse(declaration(path))
    prepare_anew(spec, folder)
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        prepare_anew(spec, folder)
        seconds.append(time.perf_counter() - started)
    setting = f"{rows:,} rows x {len(FIELDS) + len(NUMBERS)} columns of Parquet, half texts"
    return [("prepare clicks", setting, f"{statistics.median(seconds):.2f} s")]


def prepare_anew(spec: DataSpec, folder: Path) -> None:
    """Tables to store, in a folder that goes with it."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        DataModule(spec, cache=cache).prepare_data()
