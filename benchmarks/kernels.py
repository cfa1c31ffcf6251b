"""How long steps take on a device, and in what. Needs torch alone, for the peer's environment."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

EPOCHS = 5


def wait_for(device: torch.device) -> None:
    """A GPU is asked for work long before it has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def epoch_seconds(step: Callable[[Any], None], batches: Sequence[Any], device: torch.device) -> float:
    """The median over epochs, after one to warm up."""
    seconds = []
    for _ in range(EPOCHS + 1):
        wait_for(device)
        started = time.perf_counter()
        for batch in batches:
            step(batch)
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def milliseconds_by_operation(
    step: Callable[[Any], None], batches: Sequence[Any], device: torch.device
) -> dict[str, float]:
    """What a step's time on the device goes into, by torch's operations, the longest first (`torch.profiler`)."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
        for batch in batches:
            step(batch)
        wait_for(device)
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"  # microseconds
    asked = [event for event in seen.key_averages() if event.device_type == DeviceType.CPU]  # the GPU's own are doubles
    found = {event.key: getattr(event, time_of) / 1e3 / len(batches) for event in asked}
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))
