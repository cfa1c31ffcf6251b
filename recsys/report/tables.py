"""Tables on the terminal."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

SHOWN = ("rmse", "mae", "auc", "logloss", "ndcg@10", "recall@10")  # of a run's test metrics, where runs are rows
REPEATS = ("seed", "data.split.fold")  # options whose values are repetitions of one experiment
WIDEST = 1000  # characters of a table


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


def metrics_table(title: str, metrics: Mapping[str, Any], best: Mapping[str, float]) -> Table:
    """One row per metric, with the test part's intervals; `best` is the best possible test result where it is known."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    columns = [part for part in ("valid", "test") if metrics.get(part)]
    for part in columns:
        table.add_column(part, justify="right")
    intervals = metrics.get("intervals", {}).get("test", {})
    if intervals:
        table.add_column("95% interval (test)", justify="right")
    if best:
        table.add_column("best possible (test)", justify="right")
    for name in dict.fromkeys(name for part in reversed(columns) for name in metrics[part]):
        cells = [_number(metrics[part].get(name)) for part in columns]
        if intervals:
            cells.append(" to ".join(map(_number, intervals.get(name, ()))))
        if best:
            cells.append(_number(best.get(name)))
        table.add_row(name, *cells)
    return table


def seeds_table(title: str, mean: Mapping[str, Mapping[str, float]], std: Mapping[str, Mapping[str, float]]) -> Table:
    """Mean and standard deviation over seeds, one row per metric."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for part in mean:
        table.add_column(f"{part}: mean", justify="right")
        table.add_column("std", justify="right")
    for name in dict.fromkeys(name for part in ("test", "valid") for name in mean[part]):
        table.add_row(name, *(_number(values[part].get(name)) for part in mean for values in (mean, std)))
    return table


def sweep_table(runs: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> Table:
    """Test metrics by what the command line varied, given each run's overrides and metrics.json.

    Runs that differ only in their seed or fold share a row of means.
    """
    common = set.intersection(*(set(overrides) for overrides, _ in runs))
    groups: dict[str, list[Mapping[str, float]]] = {}
    for overrides, metrics in runs:
        own = [o for o in overrides if o not in common and o.partition("=")[0] not in REPEATS]
        test = metrics.get("test") or (metrics.get("mean") or {}).get("test") or {}
        groups.setdefault(" ".join(own) or "all", []).append(test)
    names = dict.fromkeys(n for tests in groups.values() for test in tests for n in test if n.split("[")[0] in SHOWN)
    table = Table(title="Test metrics", title_justify="left")
    for name in ("options", "runs", *names):
        table.add_column(name, justify="left" if name == "options" else "right")
    for options, tests in groups.items():
        values = [[test[name] for test in tests if test.get(name) is not None] for name in names]
        table.add_row(options, str(len(tests)), *(_number(statistics.fmean(v) if v else None) for v in values))
    return uncut(table)


def uncut(table: Table) -> Table:
    """The table as wide as its content, on a narrow terminal too, where figures would be cut."""
    table.width = Console(width=WIDEST).measure(table).maximum
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
