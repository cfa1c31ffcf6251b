"""Tables on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
