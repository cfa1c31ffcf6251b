"""What a person sees of a run: tables on the terminal, metrics.json and evaluation.json, plots and HTML pages."""

from recsys.report.comparison import write_comparison
from recsys.report.page import write_page
from recsys.report.plots import plot_comparison, plot_curves, plot_roc, plot_study, plot_variants
from recsys.report.run import evaluation_summary, read_curves, read_run, runs_in, write_json
from recsys.report.tables import SHOWN, cleaning_table, metrics_table, seeds_table, sweep_table, uncut

__all__ = [
    "SHOWN",
    "cleaning_table",
    "evaluation_summary",
    "metrics_table",
    "plot_comparison",
    "plot_curves",
    "plot_roc",
    "plot_study",
    "plot_variants",
    "read_curves",
    "read_run",
    "runs_in",
    "seeds_table",
    "sweep_table",
    "uncut",
    "write_comparison",
    "write_json",
    "write_page",
]
