"""What a person sees at the end of a run: tables on the terminal, metrics.json and plots."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
from matplotlib.ticker import MaxNLocator
from rich.table import Table
from torch import Tensor

from recsys.files import whole_file


def cleaning_table(cleaning: Mapping[str, Any]) -> Table:
    """Rows read and kept per table, and what each cleaning rule did."""
    table = Table(title="Cleaning", title_justify="left")
    for name in ("table", "column", "rule"):
        table.add_column(name)
    table.add_column("rows", justify="right")
    table.add_column("action")
    for name, rows in cleaning["rows"].items():
        table.add_row(name, "", f"{rows['read']:,} rows read", f"{rows['kept']:,}", "kept", style="bold")
    for entry in cleaning["entries"]:
        table.add_row(entry["table"], entry["column"], entry["rule"], f"{entry['rows']:,}", entry["action"])
    return table


def metrics_table(title: str, metrics: Mapping[str, Mapping[str, float]], best: Mapping[str, float]) -> Table:
    """One row per metric; `best` is the best possible test result where it is known."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    columns = [part for part in ("valid", "test") if metrics.get(part)]
    for part in columns:
        table.add_column(part, justify="right")
    if best:
        table.add_column("best possible (test)", justify="right")
    for name in dict.fromkeys(name for part in reversed(columns) for name in metrics[part]):
        cells = [_number(metrics[part].get(name)) for part in columns]
        table.add_row(name, *cells, *([_number(best.get(name))] if best else []))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def write_json(path: Path, content: Any) -> None:
    """Write JSON; the file is always whole; NaN becomes null. Raises OSError naming the file."""
    with whole_file(path) as draft:
        draft.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def read_curves(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Per logged metric, (epoch, value) pairs of Lightning's CSV log."""
    curves: dict[str, list[tuple[int, float]]] = {}
    if not log.exists():
        return curves
    with log.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name.startswith(("train/", "valid/")):
                    curves.setdefault(name, []).append((int(row["epoch"]), float(value)))
    return curves


def plot_curves(curves: Mapping[str, list[tuple[int, float]]], monitor: str, path: Path) -> None:
    """The training loss and the watched validation metric by epoch, one panel each."""
    names = [name for name in ("train/loss", monitor) if curves.get(name)]
    figure = matplotlib.figure.Figure(figsize=(4.5 * max(1, len(names)), 3.2), layout="constrained")
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), number)
        epochs, values = zip(*curves[name], strict=True)
        axes.plot(epochs, values, marker="o")
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def plot_roc(score_B: Tensor, label_B: Tensor, title: str, path: Path) -> None:
    """The ROC curve of labelled rows."""
    score, label = score_B.numpy(), label_B.numpy() > 0
    order = np.argsort(-score, kind="stable")
    last = np.append(score[order][1:] != score[order][:-1], True)
    true, false = np.cumsum(label[order])[last], np.cumsum(~label[order])[last]
    figure = matplotlib.figure.Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.plot(np.append(0, false) / max(1, false[-1]), np.append(0, true) / max(1, true[-1]))
    axes.set(title=title, xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    _save(figure, path)


def _save(figure: matplotlib.figure.Figure, path: Path) -> None:
    with whole_file(path) as draft:
        figure.savefig(draft, dpi=120, format=path.suffix[1:])
