"""Plots as PNG files in the run's folder."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from recsys.files import whole_file
from recsys.report.run import Curves
from recsys.report.summaries import roc


def plot_curves(curves: Curves, monitor: str, path: Path) -> None:
    """The training loss and the watched validation metric by epoch, counted from 1, one panel each."""
    names = [name for name in ("train/loss", monitor) if curves.get(name)]
    figure = matplotlib.figure.Figure(figsize=(4.5 * max(1, len(names)), 3.2), layout="constrained")
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), number)
        epochs, values = zip(*curves[name], strict=True)
        axes.plot([epoch + 1 for epoch in epochs], values, marker="o")
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def plot_roc(score_B: Tensor, label_B: Tensor, title: str, path: Path) -> None:
    """The ROC curve of labelled rows."""
    curve = roc(score_B.numpy(), label_B.numpy())
    figure = matplotlib.figure.Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.plot(curve["false_positive_rate"], curve["true_positive_rate"])
    axes.set(title=title, xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    _save(figure, path)


def plot_variants(variants: Sequence[dict[str, Any]], budget: float, path: Path) -> None:
    """Compressed variants side by side: what each loses over its latency, latency by batch size, and file size."""
    figure = matplotlib.figure.Figure(figsize=(13, 3.6), layout="constrained")
    loss, latency, size = figure.subplots(1, 3)
    for number, variant in enumerate(variants):
        style: dict[str, Any] = {"color": f"C{number}", "label": variant["variant"]}
        low, high = variant["interval"]
        loss.vlines(variant["p50_ms@256"], low, high, color=f"C{number}", alpha=0.4)
        loss.plot([variant["p50_ms@256"]], [variant["loss"]], marker="o", **style)
        batches = [int(name.partition("@")[2]) for name in variant if name.startswith("p50_ms@")]
        latency.plot(batches, [variant[f"p50_ms@{batch}"] for batch in batches], marker="o", **style)
        size.barh([number], [variant["size_mb"]], color=f"C{number}")
    loss.axhline(budget, color="0.7", linestyle="--")
    loss.set(xlabel="ms for 256 rows, one thread", ylabel="loss on validation rows", xlim=(0, None))
    latency.set(xlabel="rows", ylabel="ms, one thread (median)", xscale="log", yscale="log")
    size.set(xlabel="MiB")
    size.set_yticks(range(len(variants)), [variant["variant"] for variant in variants])
    size.invert_yaxis()
    _save(figure, path)


def plot_study(
    values: Mapping[int, float], importances: Mapping[str, float], path: Path, *, less_is_better: bool
) -> None:
    """The value of every trial that was judged with the best so far, and how much each option matters (of 1)."""
    figure = matplotlib.figure.Figure(figsize=(9, 3.2), layout="constrained")
    history, importance = figure.subplots(1, 2)
    best = list(itertools.accumulate(values.values(), min if less_is_better else max))
    history.plot(list(values), list(values.values()), marker="o", linestyle="")
    history.plot(list(values), best, drawstyle="steps-post")
    history.set(xlabel="trial", ylabel="value on validation rows")
    importance.barh(list(importances)[::-1], list(importances.values())[::-1])
    importance.set(xlabel="importance")
    _save(figure, path)


def plot_comparison(
    names: Sequence[str], values: Sequence[float], intervals: Sequence[Any], metric: str, path: Path
) -> None:
    """A test metric of several models with its 95% intervals ([low, high] or None), in the order given."""
    figure = matplotlib.figure.Figure(figsize=(6, 0.9 + 0.35 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for place, (value, interval) in enumerate(zip(values, intervals, strict=True)):
        if interval:
            axes.hlines(place, *interval, color="C0", alpha=0.5, linewidth=4)
        axes.plot([value], [place], marker="o", color="C0")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel=f"test {metric}, 95% interval")
    axes.grid(axis="x", alpha=0.4)
    _save(figure, path)


def _save(figure: matplotlib.figure.Figure, path: Path) -> None:
    with whole_file(path) as draft:
        figure.savefig(draft, dpi=120, format=path.suffix[1:])
