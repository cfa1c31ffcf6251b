"""How fast DeepFM trains on a million clicks: through `trainer.fit`, in a bare loop, beside a peer, by table size."""

import dataclasses
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from benchmarks.clicks import prepare_clicks
from benchmarks.kernels import wait_for
from recsys.cli import CONFIGS
from recsys.config import build_model, build_trainer
from recsys.data.batches import Batch
from recsys.data.module import DataModule
from recsys.data.split import TEST
from recsys.metrics import auc
from recsys.models.base import Recommender
from recsys.schema import FeatureSchema

BATCH = 4096
SETTING = f"dim 16, MLP 400-400-400, batch {BATCH:,}, bf16, {torch.get_num_threads()} threads"
CPU = torch.device("cpu")
WARM = 5  # first steps that are left out of medians
Row = tuple[str, str, str]


def compose_clicks() -> DictConfig:
    """DeepFM with the row-wise optimizer, one epoch in mixed precision; everything else as configured by default."""
    options = ["model=deepfm", "model.embedding_std=0.01", "optimizer=rowwise", f"batch_size={BATCH}", "trainer=cpu"]
    trainer = ["trainer.precision=bf16-mixed", "trainer.max_epochs=1", "+trainer.limit_val_batches=0"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", [*options, *trainer])


class Clock(pl.Callback):
    """The times at which steps ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def measure_training(folder: Path, runs: int, peer: Path | None = None) -> list[Row]:
    """Rows per second of whole epochs, the share that Lightning takes of a step, AUC on test rows; and the peer's."""
    data, cfg = prepare_clicks(folder, BATCH), compose_clicks()
    rates, shares, peers = [], [], []
    for _ in range(runs):
        model, steps, rate = fit_epoch(cfg, data)
        rates.append(rate)
        shares.append(1 - median_step(bare_steps(cfg, data)) / median_step(steps))
        peers += [peer_on_cpu(peer, data, folder)] if peer else []
    rate, reached = statistics.median(rates), test_auc(scores(model, data), data)
    best = test_auc(torch.from_numpy(data.store.oracle_E[data.store.part_E == TEST]), data)
    found = [
        ("train deepfm, 1M clicks", f"{data.schema.rows:,} table rows, {SETTING}", f"{rate:,.0f} rows/s"),
        ("  Lightning's share of a step", f"beside a bare loop, {runs} runs", f"{statistics.median(shares):.1%}"),
        ("  AUC after the epoch", f"best possible {best:.4f}", f"{reached:.4f}"),
    ]
    return found + (compare(rate, peers) if peers else [])


def compare(rate: float, peers: list[tuple[float, float]]) -> list[Row]:
    """The peer's rows per second and AUC, and our rate to its."""
    peer_rate, peer_auc = (statistics.median(values) for values in zip(*peers, strict=True))
    return [
        ("DeepCTR-Torch's DeepFM", "its `fit`, the same rows", f"{peer_rate:,.0f} rows/s"),
        ("  its AUC", "after the epoch", f"{peer_auc:.4f}"),
        ("  our rate to its", "medians of whole epochs", f"{rate / peer_rate:.2f}x"),
    ]


def fit_epoch(cfg: DictConfig, data: DataModule) -> tuple[Recommender, list[float], float]:
    """A model trained for an epoch through `trainer.fit`, the seconds of its steps, and rows per second over all."""
    pl.seed_everything(0, verbose=False)
    model, clock = build_model(cfg, data.schema), Clock()
    trainer = build_trainer(cfg, data.schema.label.kind)
    trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    rate = len(data.train_rows) / (time.perf_counter() - started)
    return model, [stop - start for start, stop in pairwise(clock.ends)], rate


def fit_seconds(model: Recommender, data: DataModule, epochs: int, device: torch.device = CPU, **options: Any) -> float:
    """The median seconds of an epoch through `trainer.fit`, after one to warm up; `options` are the trainer's."""
    seconds: list[float] = []

    class Clock(pl.Callback):
        def on_train_epoch_start(self, *_: object) -> None:
            wait_for(device)
            seconds.append(-time.perf_counter())

        def on_train_epoch_end(self, *_: object) -> None:
            wait_for(device)
            seconds[-1] += time.perf_counter()

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        accelerator=device.type,
        devices=1,
        max_epochs=epochs + 1,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[Clock()],
        **quiet,
        **options,
    )
    trainer.fit(model, datamodule=data)
    return statistics.median(seconds[1:])


def bare_steps(cfg: DictConfig, data: DataModule, count: int = 100) -> list[float]:
    """The seconds of steps without Lightning: the same batches, model, clipping and optimizer."""
    step = bare_step(build_model(cfg, data.schema))
    batches = iter(data.train_dataloader())
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        step(next(batches))
        seconds.append(time.perf_counter() - started)
    return seconds


def bare_step(model: Recommender) -> Callable[[Batch], None]:
    """A function that makes one training step."""
    model.train().log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = model.configure_optimizers()

    def step(batch: Batch) -> None:
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        model.configure_gradient_clipping(optimizer, 5.0, "norm")
        optimizer.step()

    return step


def median_step(seconds: list[float]) -> float:
    """The median without the first steps."""
    return statistics.median(seconds[WARM:])


def test_auc(score_B: torch.Tensor, data: DataModule) -> float:
    """AUC over the test rows."""
    store = data.store
    return auc(score_B, torch.from_numpy(store.label_E[store.part_E == TEST]))


@torch.inference_mode()
def scores(model: Recommender, data: DataModule) -> torch.Tensor:
    """Logits of the test rows."""
    return torch.cat([model.eval()(batch).float() for batch in data.test_dataloader()[0]])


def peer_on_cpu(python: Path, data: DataModule, folder: Path) -> tuple[float, float]:
    """Rows per second and test AUC of the peer's `fit`."""
    result = run_peer(python, data, folder, verb="fit", batch=BATCH, device=torch.device("cpu"))
    return len(data.train_rows) / float(result["seconds"]), test_auc(torch.from_numpy(result["score"]), data)


def run_peer(
    python: Path, data: DataModule, folder: Path, *, verb: str, batch: int, device: torch.device
) -> dict[str, np.ndarray]:
    """What benchmarks/deepctr.py, in an environment of its own, says of DeepCTR-Torch on the encoded rows."""
    source, target = folder / "rows.npz", folder / "peer.npz"
    if not source.exists():
        write_rows(data, source)
    script = Path(__file__).with_name("deepctr.py")
    call = [python, script, verb, source, target, str(batch), str(device)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(call, env=os.environ | threads, check=True, stdout=subprocess.DEVNULL)
    return dict(np.load(target))


def write_rows(data: DataModule, path: Path) -> None:
    """All rows as plain arrays: ids counted from 0 in every column, numbers, labels, parts and the columns' sizes."""
    store, schema = data.store, data.schema
    sides = [(store.sides["user"], store.user_E), (store.sides["item"], store.item_E), (store.sides["scene"], ...)]
    offsets_F = np.array([schema.offset(column.name) for column in schema.fields], dtype="int32")
    np.savez(
        path,
        ids=np.concatenate([side.ids[at] for side, at in sides], axis=1) - offsets_F,
        numbers=np.concatenate([side.numbers[at] for side, at in sides], axis=1),
        label=store.label_E,
        part=store.part_E,
        sizes=[schema.size(column.name) for column in schema.fields],
    )


def measure_vocabulary(folder: Path, steps: int = 60) -> list[Row]:
    """Step time at 100 thousand and at 10 million table rows; the same batches, spread over all of the table."""
    data, cfg = prepare_clicks(folder, BATCH), compose_clicks()
    small = resized(data.schema, 100_000)
    schemas = {stretch: stretched(small, stretch) for stretch in (1, 100)}
    step = {stretch: bare_step(build_model(cfg, schema)) for stretch, schema in schemas.items()}
    seconds: dict[int, list[float]] = {stretch: [] for stretch in schemas}
    batches = iter(data.train_dataloader())
    for _ in range(steps):
        batch = next(batches)
        for stretch, schema in schemas.items():  # in turns, so that what else runs on the machine strikes both
            moved = spread(batch, data.schema, small, schema, stretch)
            started = time.perf_counter()
            step[stretch](moved)
            seconds[stretch].append(time.perf_counter() - started)
    few, many = (median_step(seconds[stretch]) for stretch in schemas)
    return [
        (f"step, {schemas[1].rows:,} table rows", f"batch {BATCH:,}", f"{1e3 * few:.1f} ms"),
        (f"step, {schemas[100].rows:,} table rows", "the same batches, spread", f"{1e3 * many:.1f} ms"),
        ("  the one to the other", "in turns, medians", f"{many / few:.2f}x"),
    ]


def resized(schema: FeatureSchema, rows: int) -> FeatureSchema:
    """The schema with about `rows` table rows, shared out as before."""
    sizes = {name: max(2, size * rows // schema.rows) for name, size in schema.sizes.items()}
    return dataclasses.replace(schema, sizes=sizes)


def stretched(schema: FeatureSchema, stretch: int) -> FeatureSchema:
    """The schema with `stretch` times as many table rows."""
    return dataclasses.replace(schema, sizes={name: size * stretch for name, size in schema.sizes.items()})


def spread(batch: Batch, old: FeatureSchema, small: FeatureSchema, new: FeatureSchema, stretch: int) -> Batch:
    """The batch's ids folded into the sizes of `small`, then laid `stretch` rows apart in the table of `new`."""
    of_old, of_new = (torch.tensor([s.offset(c.name) for c in s.fields]) for s in (old, new))
    sizes_F = torch.tensor([small.size(c.name) for c in small.fields])
    return dataclasses.replace(batch, ids_BF=(batch.ids_BF - of_old) % sizes_F * stretch + of_new)
