"""How fast DeepFM trains a million clicks in large batches on a GPU, beside a peer, and what the time goes into.

Steps are measured on batches that lie on the device and come in one fixed order, so that how batches are made is not;
`trainer.fit` makes them of the data on the device.
"""

from pathlib import Path

import numpy as np
import torch

from benchmarks import kernels
from benchmarks.clicks import prepare_clicks
from benchmarks.kernels import epoch_seconds, milliseconds_by_operation
from benchmarks.training import Row, bare_step, compose_clicks, fit_seconds, run_peer
from recsys.config import build_model
from recsys.data.module import DataModule

BATCH = 65_536
BLOCK = 1024  # rows that stay together when rows are shuffled
SHOWN = 8  # operations of a profile


def cuda_device() -> torch.device:
    """The GPU. Raises ValueError where torch sees none."""
    if not torch.cuda.is_available():
        raise ValueError(
            f"`gpu` needs a CUDA device, and torch {torch.__version__} sees none; run it on a machine with one, with a "
            "CUDA build of torch."
        )
    return torch.device("cuda")


def measure_gpu(folder: Path, device: torch.device, peer: Path | None = None) -> list[Row]:
    """Rows per second of whole epochs on a device, in bf16 with the row-wise optimizer: the steps alone, `trainer.fit`.

    Then what a step's time goes into, and the same of the peer, whose Python is `peer`.
    """
    data, cfg = prepare_clicks(folder, BATCH), compose_clicks()
    data.on_device, data.shuffle_block = True, BLOCK
    batches = [batch.to(device) for batch in data.train_dataloader()]
    rows = sum(map(len, batches))
    found, seconds, profile = [], {}, []
    for setting in ("as written", "compiled"):
        model, other = (build_model(cfg, data.schema).to(device) for _ in range(2))
        if setting == "compiled":
            model.compile_layers()
            other.compile_layers()
        step = bare_step(model)
        seconds[setting] = epoch_seconds(step, batches, device)
        of_fit = fit_seconds(other, data, kernels.EPOCHS, device, precision="bf16-mixed", gradient_clip_val=5.0)
        found += [
            ("train deepfm on the GPU", f"batch {BATCH:,}, bf16, {setting}", f"{rows / seconds[setting]:,.0f} rows/s"),
            ("  through `trainer.fit`", "data on the GPU, shuffled in blocks", f"{rows / of_fit:,.0f} rows/s"),
        ]
        if setting == "as written":
            times = milliseconds_by_operation(step, batches, device)
            profile = profile_rows(times, 1e3 * seconds[setting] / len(batches))
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**30
        found.append(("  memory of the GPU", "at most", f"{memory:.2f} GiB"))
    return [*found, *profile, *(peer_rows(peer, data, folder, device, rows / min(seconds.values())) if peer else [])]


def profile_rows(times: dict[str, float], step: float) -> list[Row]:
    """The longest operations of a step that takes `step` milliseconds, and how much of it the device was at work."""
    longest = list(times.items())[:SHOWN]
    shares = [("    in", name, f"{time:.3f} ms, {time / step:.0%}") for name, time in longest]
    return [("  a step", f"at work {sum(times.values()) / step:.0%} of it", f"{step:.3f} ms"), *shares]


def peer_rows(python: Path, data: DataModule, folder: Path, device: torch.device, rate: float) -> list[Row]:
    """DeepCTR-Torch on the same rows and the same device: its `fit`, its steps on batches that lie there, our rate."""
    rows = len(data.train_rows)
    fit, steps = (run_peer(python, data, folder, verb=verb, batch=BATCH, device=device) for verb in ("fit", "steps"))
    own = rows / float(steps["seconds"])
    step = 1e3 * float(steps["seconds"]) / -(-rows // BATCH)
    times = dict(zip(steps["operations"].tolist(), np.asarray(steps["milliseconds"]).tolist(), strict=True))
    return [
        ("DeepCTR-Torch's DeepFM on the GPU", f"batch {BATCH:,} made in advance, float32", f"{own:,.0f} rows/s"),
        *profile_rows(times, step),
        ("  its `fit`", f"batch {BATCH:,} made of rows in memory", f"{rows / float(fit['seconds']):,.0f} rows/s"),
        ("  our rate to that of its steps", "medians of whole epochs", f"{rate / own:.2f}x"),
    ]
