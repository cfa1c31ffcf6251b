"""What a person sees of a run: tables on the terminal, metrics.json and evaluation.json, plots and HTML pages."""

from recsys.report.comparison import write_comparison
from recsys.report.page import write_page
from recsys.report.plots import plot_curves, plot_roc
from recsys.report.run import evaluation_summary, read_curves, write_json
from recsys.report.tables import cleaning_table, metrics_table

__all__ = [
    "cleaning_table",
    "evaluation_summary",
    "metrics_table",
    "plot_curves",
    "plot_roc",
    "read_curves",
    "write_comparison",
    "write_json",
    "write_page",
]
