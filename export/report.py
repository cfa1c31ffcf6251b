"""What a person sees of the variants that were tried: a table, a picture, variants.json and the run's page."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from rich.console import Console
from rich.table import Table

from export.compress import Compression, Variant
from export.graph import open_graph
from export.quality import Judge
from export.quantize import cpu_features
from export.rows import RawRows
from recsys.data.split import TEST
from recsys.report import plot_variants, uncut, write_json, write_page

FILE = "variants.json"


def report_variants(
    run: Path, variants: Sequence[Variant], chosen: Variant | None, settings: Compression, test: dict[str, Any] | None
) -> None:
    """Print the table and write variants.json, plots/variants.png and report.html into the run's folder."""
    rows = [variant.row() for variant in variants]
    content = {
        "budget": settings.budget,
        "target": settings.target,
        "chosen": chosen.name if chosen else None,
        "saw_valid": variants[0].model.saw_valid,
        "test": test,
        "machine": {"cpu": cpu_features(), "system": platform.platform(), "onnxruntime": onnxruntime.__version__},
        "variants": rows,
    }
    Console(highlight=False, soft_wrap=True).print(variants_table(variants, chosen))
    write_json(run / FILE, content)
    plot_variants(rows, settings.budget, run / "plots" / "variants.png")
    if (run / "metrics.json").is_file():
        write_page(run)


def variants_table(variants: Sequence[Variant], chosen: Variant | None) -> Table:
    """One row per variant; the loss is on the validation rows, with its 95% interval."""
    rows = "validation rows" + (", learned by the model" if variants[0].model.saw_valid else "")
    table = Table(title=f"Variants: 256 rows on one thread, 512 on all cores; {rows}", title_justify="left")
    metric = next(iter(variants[0].metrics))
    shown = {
        "MiB": "size_mb",
        "load s": "load_s",
        "p50 ms": "p50_ms@256",
        "p99 ms": "p99_ms@256",
        "rows/s": "rows_per_s",
    }
    table.add_column("variant")
    for name in (*shown, metric, "loss (95% interval)"):
        table.add_column(name, justify="right")
    for variant in variants:
        loss, low, high = variant.loss
        cells = [_short(variant.figures[key]) for key in shown.values()] + [f"{variant.metrics[metric]:.4f}"]
        style = "bold green" if variant is chosen else None
        table.add_row(variant.name, *cells, f"{loss:.4f} ({low:.4f} to {high:.4f})", style=style)
    return uncut(table)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def loss_on_test(variants: Sequence[Variant], chosen: Variant, raw: RawRows, rows: int) -> dict[str, Any]:
    """The test part looked at once, for the variant that was chosen: its metrics, the float ones, and the loss."""
    judge = Judge(raw, TEST, rows)
    float_B, score_B = (judge.scores(open_graph(variant.path)) for variant in (variants[0], chosen))
    loss, low, high = judge.loss(float_B, score_B)
    found = {"float32": judge.metrics(float_B), "chosen": judge.metrics(score_B)}
    return {"rows": len(judge.row_B), **found, "metric": judge.metric, "loss": loss, "interval": [low, high]}
