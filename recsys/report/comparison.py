"""Several runs side by side on one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from recsys.declare import differences
from recsys.metrics import LESS_IS_BETTER
from recsys.report import charts
from recsys.report.render import render
from recsys.report.run import Run, read_run

NEITHER_IS_BETTER = ("novelty", "diversity", "coverage", "popularity_lift")
Interval = Sequence[float] | None


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """Write the page that compares the runs in `folders` to `path` and return it.

    Raises FileNotFoundError or ValueError when a folder is no finished run or one of its files does not parse.
    """
    runs = [read_run(folder) for folder in folders]
    return render(
        path,
        "comparison.html.j2",
        runs=runs,
        series=charts.SERIES,
        same_data=_same_data(runs),
        metrics=comparison_rows(runs),
        charts=_charts(runs),
        differences=differences(*(run.config for run in runs)),
    )


def comparison_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per test metric: `name`, the `values` and `intervals` of the runs and which one is clearly the `best`."""
    same_data, rows = _same_data(runs), []
    for name in dict.fromkeys(name for run in runs for name in run.metrics.get("test") or {}):
        values = [(run.metrics.get("test") or {}).get(name) for run in runs]
        intervals = [run.interval(name) for run in runs]
        judged = same_data and name.partition("@")[0] not in NEITHER_IS_BETTER
        best = clear_best(values, intervals, less_is_better=name in LESS_IS_BETTER) if judged else None
        rows.append({"name": name, "values": values, "intervals": intervals, "best": best})
    return rows


def clear_best(values: Sequence[float | None], intervals: Sequence[Interval], *, less_is_better: bool) -> int | None:
    """The position of the best value if its interval lies apart from the runner-up's, else None.

    An interval without width, as of a single user, says nothing of the value's uncertainty, so it makes none clear.

    >>> clear_best([0.7, 0.8], [[0.68, 0.72], [0.78, 0.82]], less_is_better=False)
    1
    >>> clear_best([0.7, 0.8], [[0.65, 0.75], [0.75, 0.85]], less_is_better=False)
    """
    sign = -1 if less_is_better else 1
    ranked = sorted((sign * value, -n) for n, value in enumerate(values) if value is not None)
    if len(ranked) < 2:
        return None
    best, second = (-n for _, n in (ranked[-1], ranked[-2]))
    ours, theirs = intervals[best], intervals[second]
    if not ours or not theirs or None in (*ours, *theirs) or ours[0] == ours[1] or theirs[0] == theirs[1]:
        return None
    return best if ours[1] < theirs[0] or theirs[1] < ours[0] else None


def _same_data(runs: Sequence[Run]) -> bool:
    """Whether the data of the runs has one fingerprint; where a run has none, one name and as many test rows."""
    fingerprints = {run.fingerprint for run in runs}
    if None not in fingerprints:
        return len(fingerprints) == 1
    return len({(run.data, (run.evaluation.get("size") or {}).get("test")) for run in runs}) == 1


def _charts(runs: Sequence[Run]) -> list[tuple[str, Markup]]:
    names = dict.fromkeys(["train/loss", *(run.monitor for run in runs if run.monitor)])
    curves = [(name, charts.curve_chart([run.curves.get(name, []) for run in runs], name)) for name in names]
    roc = charts.roc_chart([run.evaluation.get("roc") for run in runs])
    calibration = charts.calibration_chart([run.evaluation.get("calibration") for run in runs])
    return [(title, chart) for title, chart in (*curves, ("ROC", roc), ("Calibration", calibration)) if chart]
