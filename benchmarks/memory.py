"""Memory of processes of their own: one that prepares and learns 20 million rows, one that trains a large table.

Of the first it is the anonymous memory, without memory-mapped files, whose pages the system takes back when it needs
them; of the second the peak of all that is resident.
"""

import itertools
import json
import os
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir

from benchmarks.clicks import EVENTS, FIELDS, LARGEST, NUMBERS, declaration, prepare_clicks
from benchmarks.training import BATCH, compose_clicks, resized, spread, stretched
from recsys.cli import CONFIGS, quiet_libraries
from recsys.config import build_model, build_trainer
from recsys.data.batches import Batch
from recsys.data.module import DataModule, DataSpec
from recsys.models.base import Recommender

ROWS = 20_000_000
CHUNK = 500_000
STEPS = 30
TEXTS = set(FIELDS[-20:])  # half of the 39 columns hold texts
Row = tuple[str, str, str]


def measure_memory(folder: Path, rows: int = ROWS) -> list[Row]:
    """Peaks of a child process, above what it holds once everything is imported."""
    path = folder / f"clicks-{rows}.parquet"
    write_clicks(path, rows)
    found = _in_a_process("rows", path, folder)
    size, of = f"{path.stat().st_size / 2**30:.1f} GiB of Parquet", f"{rows:,} x {len(FIELDS) + len(NUMBERS)} values"
    tables = f"besides {found['tables'] / 2**20:,.0f} MiB of tables and optimizer"
    return [
        ("anonymous memory: imports", "before anything is read", f"{found['imports'] / 2**20:,.0f} MiB"),
        ("  reading and encoding", f"{of}, {size}, {found['prepare_s']:.0f} s", _mib(found["prepare"])),
        ("  the leak check", f"{found['check_s']:.0f} s", _mib(found["check"])),
        ("  an epoch of a small DeepFM", f"{tables}, {found['train_s']:.0f} s", _mib(found["train"] - found["tables"])),
    ]


def measure_training_peak(folder: Path) -> list[Row]:
    """The peak of a child process that trains with 10 million table rows, over what tables and optimizer take."""
    prepare_clicks(folder, BATCH)
    found = _in_a_process("tables", folder)
    of = f"besides {found['tables'] / 2**20:,.0f} MiB of tables and optimizer, imports included"
    return [(f"peak memory of training, {found['rows']:,} table rows", of, _mib(found["peak"] - found["tables"]))]


def _in_a_process(verb: str, *paths: Path) -> dict[str, Any]:
    """What this module says when it is run with a verb and paths."""
    command = [sys.executable, "-m", "benchmarks.memory", verb, *map(str, paths)]
    root = Path(__file__).resolve().parents[1]
    return json.loads(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def write_clicks(path: Path, rows: int, seed: int = 0) -> None:
    """Write rows like those of `benchmarks.clicks`, half of the columns as texts, a piece at a time."""
    pieces = draw_pieces(rows, seed)
    first = next(pieces)
    with pq.ParquetWriter(path, first.schema) as file:
        file.write_table(first)
        for piece in pieces:
            file.write_table(piece)


def draw_pieces(rows: int, seed: int) -> Iterator[pa.Table]:
    """Ids by a power law, normal numbers, and clicks with a probability that rises with the first number."""
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(10, LARGEST, len(FIELDS))
    shares = np.array(list(EVENTS.values())) / sum(EVENTS.values())
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        ids = [pa.array((size * rng.random(count) ** 2).astype("int32")) for size in sizes]
        columns = {n: v.cast(pa.string()) if n in TEXTS else v for n, v in zip(FIELDS, ids, strict=True)}
        columns = {n: pa.compute.binary_join_element_wise("v", v, "") if n in TEXTS else v for n, v in columns.items()}
        numbers = rng.standard_normal((len(NUMBERS), count), dtype="float32")
        probability = 1 / (1 + np.exp(1.5 - numbers[0]))
        columns |= dict(zip(NUMBERS, map(pa.array, numbers), strict=True))
        columns |= {"probability": probability, "clicked": (rng.random(count) < probability).astype("int8")}
        columns |= {"part": pa.array(rng.choice(list(EVENTS), count, p=shares)).dictionary_encode()}
        yield pa.table(columns)


class Peak:
    """The largest anonymous memory of this process while a piece of work is done, and its seconds."""

    def of(self, work: Callable[[], object]) -> tuple[int, float]:
        """Do the work; looks every 20 ms."""
        self.most, self.done = anonymous(), False
        watch = threading.Thread(target=self._watch)
        watch.start()
        started = time.perf_counter()
        try:
            work()
        finally:
            seconds = time.perf_counter() - started
            self.done = True
            watch.join()
        return self.most, seconds

    def _watch(self) -> None:
        while not self.done:
            self.most = max(self.most, anonymous())
            time.sleep(0.02)


def anonymous() -> int:
    """The process's resident memory that no file stands behind, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


def of_rows(path: Path, cache: Path) -> dict[str, float]:
    """Read, encode and train; the peaks in bytes above the imports, and seconds."""
    options = ["model=deepfm", "model.embedding_dim=4", "model.hidden=[32]", "optimizer=rowwise", "trainer=cpu"]
    options += ["trainer.max_epochs=1", "+trainer.limit_val_batches=0", "trainer.precision=32-true"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", options)
    spec = DataSpec.parse(declaration(path))
    data = DataModule(spec, cache=cache, batch_size=8192, ranking=False, shuffle_block=16_384)
    imports, peak, found = anonymous(), Peak(), dict[str, float]()

    def prepare() -> None:
        data.prepare_data()
        data.setup()

    def train() -> None:
        trainer.fit(model, datamodule=data)

    found["prepare"], found["prepare_s"] = peak.of(prepare)
    found["check"], found["check_s"] = peak.of(data.check_leaks)
    model, trainer = build_model(cfg, data.schema), build_trainer(cfg, data.spec.schema.label.kind)
    found["train"], found["train_s"] = peak.of(train)
    peaks = {name: found[name] - imports for name in ("prepare", "check", "train")}
    return {**found, **peaks, "imports": imports, "tables": _size_of_tables(model, trainer)}


def of_tables(folder: Path) -> dict[str, int]:
    """Train for `STEPS` steps on a million clicks spread over 10 million table rows; the peak in bytes."""
    data, cfg = prepare_clicks(folder, BATCH), compose_clicks()
    small = resized(data.schema, 100_000)
    schema = stretched(small, 100)
    model, trainer = build_model(cfg, schema), build_trainer(cfg, data.spec.schema.label.kind)
    trainer.fit(model, train_dataloaders=_Spread(data, lambda batch: spread(batch, data.schema, small, schema, 100)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": peak, "rows": schema.rows, "tables": _size_of_tables(model, trainer)}


@dataclass(frozen=True)
class _Spread:
    """The first `STEPS` training batches of `data`, each changed by `move`."""

    data: DataModule
    move: Callable[[Batch], Batch]

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Batch]:
        return map(self.move, itertools.islice(self.data.train_dataloader(), STEPS))


def _size_of_tables(model: Recommender, trainer: pl.Trainer) -> int:
    """Bytes of a model's weights and of what its optimizer keeps of them."""
    state = [v for s in trainer.optimizers[0].state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *state])


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    quiet_libraries()
    warnings.simplefilter("ignore")
    of = {"rows": of_rows, "tables": of_tables}[sys.argv[1]]
    print(json.dumps(of(*map(Path, sys.argv[2:]))))  # noqa: T201 - read by the parent
