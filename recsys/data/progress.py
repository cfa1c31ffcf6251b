"""Rows per second while a large table is prepared: a bar on a terminal, one line in the log."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

log = logging.getLogger(__name__)
Piece = TypeVar("Piece")


class _Rate(ProgressColumn):
    """Rows done, and rows per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:,.0f} rows  {task.speed or 0:,.0f} rows/s")


def counted(
    pieces: Iterable[Piece], rows_of: Callable[[Piece], int], what: str, total: int | None = None
) -> Iterator[Piece]:
    """Hand on pieces of a table, each with its number of rows, and show how many are done of `total`."""
    started, done = time.perf_counter(), 0
    columns = (TextColumn(what), BarColumn(), _Rate(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        for piece in pieces:
            yield piece
            done += rows_of(piece)
            bar.update(task, completed=done)
    seconds = time.perf_counter() - started
    log.info("%s: %s rows in %.1f s (%s rows/s)", what, f"{done:,}", seconds, f"{done / max(seconds, 1e-9):,.0f}")
