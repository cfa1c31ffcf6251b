"""Lay runs side by side on one page: python scripts/report.py runs=[outputs/shop/deepfm/...,outputs/shop/din/...]"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

import logging
from collections.abc import Iterable

from omegaconf import DictConfig, ListConfig
from rich.console import Console

from recsys.cli import launch
from recsys.report import runs_in, write_comparison, write_page

log = logging.getLogger("report")


def report_runs(cfg: DictConfig) -> None:
    """Write the page that compares several runs, or the page of a single one again."""
    folders = find_runs(cfg.runs)
    if len(folders) == 1:
        if cfg.output:
            log.warning("`output` is for the page of several runs; that of a single run is its own report.html.")
        path = write_page(folders[0])
    else:
        path = Path(cfg.output or "comparison.html")
        if path.suffix != ".html":
            raise ValueError(f"`output` must end in .html, got {str(path)!r}.")
        write_comparison(folders, path)
    Console(highlight=False, soft_wrap=True).print(f"report: {path}")


def find_runs(runs: str | ListConfig) -> list[Path]:
    """The folders of the runs that names and patterns stand for, each once; one per seed where a run has several.

    Raises ValueError when there are none, or none for one of them.
    """
    names = [runs] if isinstance(runs, str) else runs
    if not isinstance(names, list | ListConfig) or not names:
        raise ValueError(f"`runs` must list at least one run folder, got {runs}.")
    folders: list[Path] = []
    for name in map(str, names):
        path = Path(name)
        found = [path] if path.exists() else _with_metrics(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not found:
            raise ValueError(f"`runs`: there is no run {name!r}; runs lie in outputs/<data>/<model>/<time>.")
        folders += [run for folder in found for run in runs_in(folder)]
    return list({folder.resolve(): folder for folder in folders}.values())


def _with_metrics(found: Iterable[Path]) -> list[Path]:
    """Those of a pattern's folders that have metrics, in order; the others are named in a warning."""
    folders = [path for path in sorted(found) if path.is_dir()]
    for folder in folders:
        if not (folder / "metrics.json").is_file():
            log.warning("%s has no metrics.json and is left out", folder)
    return [folder for folder in folders if (folder / "metrics.json").is_file()]


if __name__ == "__main__":
    launch("report", report_runs)
