"""The page of one run, made from the files of its folder alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from recsys.report import charts
from recsys.report.render import render
from recsys.report.run import Run, read_run

NAME = "report.html"
COUNTS = {"user": "by_user_activity", "item": "by_item_popularity"}


@dataclass(frozen=True, slots=True)
class Table:
    """What a table of the page shows; its first `texts` columns are aligned to the left, the others to the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    texts: int = 1


def write_page(folder: Path) -> Path:
    """Write report.html into a run's folder and return its path; what the folder lacks is left out of the page.

    Raises FileNotFoundError or ValueError when the folder is no finished run or one of its files does not parse.
    """
    run = read_run(folder)
    config = folder / "config.yaml"
    return render(
        folder / NAME,
        "run.html.j2",
        run=run,
        facts=facts(run),
        metrics=metrics_of(run),
        curves=curves_of(run),
        scores=scores_of(run.evaluation),
        by_count={role: by_count_of(run.evaluation.get(name) or [], role) for role, name in COUNTS.items()},
        groups=[groups_of(name, groups) for name, groups in (run.metrics.get("groups") or {}).items() if groups],
        variants=variants_of(run.variants),
        variant_chart=charts.variant_chart(run.variants.get("variants") or [], run.variants.get("budget") or 0.0),
        recommendations=run.evaluation.get("recommendations") or [],
        cleaning=cleaning_of(run.metrics.get("cleaning") or {}),
        config_text=config.read_text(encoding="utf-8") if config.is_file() else "",
    )


def facts(run: Run) -> dict[str, Any]:
    """The headline's figures by name, those that are known."""
    size = run.evaluation.get("size") or {}
    names = {
        "users": "Users",
        "items": "Items",
        "train": "Training rows",
        "valid": "Validation rows",
        "test": "Test rows",
    }
    found = {f"Best {run.monitor}": run.best, "Epochs": run.metrics.get("epochs"), "Seed": run.metrics.get("seed")}
    found |= {heading: size.get(name) for name, heading in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def metrics_of(run: Run) -> Table:
    """One row per metric; of validation, test, interval and best possible result, the columns that hold anything."""
    valid, test, best = (run.metrics.get(part) or {} for part in ("valid", "test", "best_possible"))
    intervals = (run.metrics.get("intervals") or {}).get("test") or {}
    columns = {"valid": valid, "test": test, "95% interval": intervals, "best possible": best}
    shown = {heading: values for heading, values in columns.items() if values}
    names = dict.fromkeys([*test, *valid])
    return Table(["metric", *shown], [[name, *(values.get(name, "") for values in shown.values())] for name in names])


def curves_of(run: Run) -> list[Markup]:
    """The training loss and the watched validation metric by epoch."""
    names = [name for name in ("train/loss", run.monitor) if name and run.curves.get(name)]
    return [charts.curve_chart([run.curves[name]], name) for name in names]


def scores_of(evaluation: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """The charts of the labelled test rows with their titles."""
    drawn = {
        "ROC": ("roc", lambda curve: charts.roc_chart([curve])),
        "Calibration": ("calibration", lambda rows: charts.calibration_chart([rows])),
        "Score distribution": ("histogram", charts.histogram_chart),
        "Predicted by true rating": ("by_true_rating", charts.rating_chart),
    }
    return [(title, draw(evaluation[key])) for title, (key, draw) in drawn.items() if evaluation.get(key)]


def by_count_of(rows: list[dict[str, Any]], role: str) -> list[Markup]:
    """A chart for every metric of the rows, by the training events of their user or item."""
    metrics = [key for key in (rows[0] if rows else ()) if key not in ("events", "rows")]
    charted = [charts.count_chart(rows, metric, f"training events of the {role}") for metric in metrics]
    return [chart for chart in charted if chart]


def groups_of(name: str, groups: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per group of users or items, with the columns of all groups."""
    present = {group: values for group, values in groups.items() if values}
    columns = dict.fromkeys(column for values in present.values() for column in values)
    rows = [[group, *(values.get(column) for column in columns)] for group, values in present.items()]
    return Table([name, *("number" if column == name else column for column in columns)], rows)


def variants_of(content: Mapping[str, Any]) -> Table:
    """One row per compressed variant, the chosen one marked."""
    variants = content.get("variants") or []
    first = variants[0] if variants else {}
    shown = {"MiB": "size_mb", "load s": "load_s", "RSS MiB": "rss_mb", "rows/s": "rows_per_s", "loss": "loss"}
    for name in (name for name in first if "_ms@" in name):
        quantile, rows = name.split("_ms@")
        shown[f"{quantile} ms, {rows} rows"] = name
    metrics = [name for name in first if name in ("auc", "logloss", "rmse", "mae") or name.startswith("ndcg@")]
    keys = [*metrics, *shown.values()]
    names = [f"{v['variant']} ✓" if v["variant"] == content.get("chosen") else v["variant"] for v in variants]
    lines = [
        [name, *(int(v[key]) if key == "rows_per_s" else v[key] for key in keys)]
        for name, v in zip(names, variants, strict=True)
    ]
    return Table(["variant", *metrics, *shown], lines)


def cleaning_of(cleaning: Mapping[str, Any]) -> Table:
    """Rows read and kept per table, then what each cleaning rule did."""
    tables = [
        [name, "", f"{rows['read']:,} rows read", "kept", rows["kept"]]
        for name, rows in (cleaning.get("rows") or {}).items()
    ]
    keys = ("table", "column", "rule", "action", "rows")
    entries = [[entry.get(key) for key in keys] for entry in cleaning.get("entries") or []]
    return Table(keys, [*tables, *entries], texts=4)
