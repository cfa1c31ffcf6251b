"""Charts as inline SVG without scripts, links or fonts; the page's style sheet gives them their colours.

A chart draws one series per run, in the order given. It is empty where there is nothing to draw.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

SERIES = 6
INK, LINE, FAINT = "#010101", "#020202", "#030303"
COLOURS = {INK: "var(--muted)", LINE: "var(--line)", FAINT: "var(--faint)"}
COLOURS |= {f"#0400{n:02x}": f"var(--series-{n})" for n in range(SERIES)}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "recsys",
    "font.size": 9.0,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "path.simplify_threshold": 0.3,
    "text.color": INK,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def colour(number: int) -> str:
    """The colour of a series; they begin anew after `SERIES`."""
    return f"#0400{number % SERIES:02x}"


def curve_chart(series: Sequence[list[tuple[int, float]]], name: str) -> Markup:
    """A logged metric by epoch, counted from 1."""

    def draw(axes: Axes) -> None:
        for number, points in enumerate(series):
            if points:
                epochs, values = zip(*points, strict=True)
                marker = "o" if len(points) <= 30 else ""
                axes.plot([epoch + 1 for epoch in epochs], values, marker=marker, color=colour(number))
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))

    return _svg(draw, f"{name} by epoch") if any(series) else Markup()


def roc_chart(series: Sequence[dict[str, list[float]] | None]) -> Markup:
    """ROC curves over the diagonal."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=FAINT)
        for number, curve in enumerate(series):
            if curve:
                axes.plot(curve["false_positive_rate"], curve["true_positive_rate"], color=colour(number))
        axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))

    return _svg(draw, "ROC curve") if any(series) else Markup()


def calibration_chart(series: Sequence[list[dict[str, float]] | None]) -> Markup:
    """Observed over predicted means, with the diagonal of a perfect calibration."""

    def draw(axes: Axes) -> None:
        ends = [value for rows in series for row in rows or () for value in (row["predicted"], row["observed"])]
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=FAINT)
        for number, rows in enumerate(series):
            predicted, observed = ([row[key] for row in rows or ()] for key in ("predicted", "observed"))
            axes.plot(predicted, observed, marker="o", color=colour(number))
        axes.set(xlabel="mean predicted", ylabel="mean observed")

    return _svg(draw, "Calibration") if any(series) else Markup()


def histogram_chart(histogram: dict[str, list[float]]) -> Markup:
    """The share of the negative and of the positive rows by score."""

    def draw(axes: Axes) -> None:
        for number, label in enumerate(("negative", "positive")):
            shares = [rows / max(1, sum(histogram[label])) for rows in histogram[label]]
            axes.stairs(shares, histogram["edges"], color=colour(number), linewidth=1.6)
            axes.stairs(shares, histogram["edges"], color=colour(number), fill=True, alpha=0.15)
        axes.set(xlabel="predicted probability", ylabel="share of the label's rows", xlim=(0, 1))

    return _svg(draw, "Score distribution by label")


def rating_chart(rows: list[dict[str, float]]) -> Markup:
    """The mean and the middle half of the predicted ratings by true rating, with the diagonal."""

    def draw(axes: Axes) -> None:
        rating, mean, low, high = ([row[key] for row in rows] for key in ("rating", "mean", "low", "high"))
        axes.plot(rating, rating, color=FAINT)
        axes.vlines(rating, low, high, color=colour(0), alpha=0.3, linewidth=6)
        axes.plot(rating, mean, marker="o", color=colour(0))
        axes.set(xlabel="true rating", ylabel="predicted rating")

    return _svg(draw, "Predicted by true rating")


def count_chart(rows: list[dict[str, Any]], metric: str, name: str) -> Markup:
    """A metric by a binned count, over bars that show each bin's share of the rows."""

    def draw(axes: Axes) -> None:
        shares = axes.twinx()
        shares.bar(range(len(rows)), [row["rows"] for row in rows], color=FAINT, alpha=0.5, width=0.7)
        shares.axis("off")
        axes.set_zorder(shares.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.plot([float("nan") if row[metric] is None else row[metric] for row in rows], marker="o", color=colour(0))
        axes.set_xticks(range(len(rows)), [row["events"] for row in rows], rotation=30, ha="right")
        axes.set(xlabel=name, ylabel=metric)
        axes.grid(False, axis="x")

    return _svg(draw, f"{metric} by {name}") if any(row[metric] is not None for row in rows) else Markup()


def variant_chart(variants: Sequence[dict[str, Any]], budget: float) -> Markup:
    """What each compressed variant loses, with its interval, over its latency; the line is the budget."""

    def draw(axes: Axes) -> None:
        axes.axhline(budget, color=FAINT)
        for number, variant in enumerate(variants):
            latency, (low, high) = variant["p50_ms@256"], variant["interval"]
            axes.vlines(latency, low, high, color=colour(number), alpha=0.4)
            axes.plot([latency], [variant["loss"]], marker="o", color=colour(number))
        axes.set(xlabel="ms for 256 rows, one thread", ylabel="loss on validation rows", xlim=(0, None))

    return _svg(draw, "Loss by latency") if variants else Markup()


def _svg(draw: Callable[[Axes], None], title: str) -> Markup:
    """What `draw` makes of empty axes, as an SVG element that grows with the page and says its `title`.

    It may stand in the page as it is, for matplotlib escapes every text that it writes.
    """
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(4.0, 2.8), layout="constrained")
        axes = figure.add_subplot()
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_inline(file.getvalue(), title))


def _inline(svg: str, title: str) -> str:
    """The svg element alone: no XML head, metadata, namespaces or fonts, ids of its own, colours from the page."""
    svg = " ".join(svg[svg.index("<svg") :].split())
    for unwanted in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r' xmlns(:\w+)?="[^"]*"'):
        svg = re.sub(unwanted, "", svg)
    svg = re.sub(r" font-family: [^;]*;", "", svg).replace("xlink:href", "href")
    size = re.search(r'viewBox="[^"]*"', svg)
    assert size, "matplotlib gives every figure a viewBox"
    svg = re.sub(r"<svg[^>]*>", f'<svg {size[0]} role="img" aria-label="{escape(title)}">', svg, count=1)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", svg)
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\1{prefix}-", svg)
    for placeholder, variable in COLOURS.items():
        svg = svg.replace(placeholder, variable)
    return svg
