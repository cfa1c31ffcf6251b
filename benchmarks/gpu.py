"""How fast DeepFM trains a million clicks in large batches made in advance, layers compiled or not.

The batches lie on the device and come in one fixed order, so that the step is measured and not how batches are made.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.clicks import prepare_clicks
from benchmarks.training import Row, bare_step, compose_clicks
from recsys.config import build_model
from recsys.data.batches import Batch

BATCH = 65_536
EPOCHS = 5


def cuda_device() -> torch.device:
    """The GPU. Raises ValueError where torch sees none."""
    if not torch.cuda.is_available():
        raise ValueError(
            f"`gpu` needs a CUDA device, and torch {torch.__version__} sees none; run it on a machine with one, with a "
            "CUDA build of torch."
        )
    return torch.device("cuda")


def measure_gpu(folder: Path, device: torch.device) -> list[Row]:
    """Rows per second of whole epochs on a device, in bf16 with the row-wise optimizer, without Lightning's loop."""
    data, cfg = prepare_clicks(folder, BATCH), compose_clicks()
    batches = [batch.to(device) for batch in data.train_dataloader()]
    found = []
    for setting in ("as written", "compiled layers"):
        model = build_model(cfg, data.schema).to(device)
        if setting == "compiled layers":
            model.compile_layers()
        rate = rows_per_second(bare_step(model), batches, device)
        found.append(
            ("train deepfm on the GPU", f"batch {BATCH:,} made in advance, bf16, {setting}", f"{rate:,.0f} rows/s")
        )
    return [*found, ("  memory of the GPU", "at most", f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB")]


def rows_per_second(step: Callable[[Batch], None], batches: list[Batch], device: torch.device) -> float:
    """The median over epochs, after one to warm up."""
    seconds = []
    for _ in range(EPOCHS + 1):
        wait_for(device)
        started = time.perf_counter()
        for batch in batches:
            step(batch)
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    return sum(map(len, batches)) / statistics.median(seconds[1:])


def wait_for(device: torch.device) -> None:
    """A GPU is asked for work long before it has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
