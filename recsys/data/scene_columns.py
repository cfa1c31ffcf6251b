"""The feature columns of the behaviour table, typed and filled as declared, with a count of what was missing.

A type is chosen by all values that surviving rows show: identifiers are integers only where every one is.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys.data.cells import as_category, fill_missing, plain_integers
from recsys.data.cleaning import CleaningReport, note_missing, refuse_unreadable, with_missing
from recsys.data.parts import Reading
from recsys.data.scene import CodedEntries, SceneColumn, Span, TagValues, Values
from recsys.schema import Column

TABLE = "behaviour"


def read_columns(
    columns: Sequence[Column], reading: Reading, spans: Sequence[Span], rows: pd.Index, report: CleaningReport
) -> dict[str, SceneColumn]:
    """Columns of the behaviour table for the events in `spans`, which were read from `rows` of it."""
    notes = [CleaningReport() for _ in columns]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = list(pool.map(lambda column, note: _read(column, reading, spans, rows, note), columns, notes))
    report.entries += [entry for note in notes for entry in note.entries]
    return {column.name: found for column, found in zip(columns, read, strict=True)}


def _read(
    column: Column, reading: Reading, spans: Sequence[Span], rows: pd.Index, report: CleaningReport
) -> SceneColumn:
    if column.kind == "category":
        return _category(column, reading, spans, report)
    if column.kind == "tags":
        return _tags(column, reading, spans, report)
    return _number(column, reading, spans, rows, report)


def _category(column: Column, reading: Reading, spans: Sequence[Span], report: CleaningReport) -> CodedEntries:
    key = reading.key(column.name, "code")
    values, places = reading.unified(key)
    raw = CodedEntries(with_missing(values), np.empty(0), reading, key, places)
    count_N = np.zeros(len(values) + 1, dtype="int64")
    for span in spans:
        count_N += np.bincount(raw.at(span) % len(count_N), minlength=len(count_N))
    note_missing(column, TABLE, values[:0], int(count_N[-1]), report)
    used_N = count_N[:-1] > 0
    entries = with_missing(as_category(values[used_N]))
    if column.fill is not None:
        entries = fill_missing(entries, column.fill)
    entry_N = np.append(np.where(used_N, np.cumsum(used_N) - 1, used_N.sum()), used_N.sum()).astype("int32")
    return CodedEntries(entries, np.empty(0), reading, key, [entry_N[place] for place in places])


def _number(column: Column, reading: Reading, spans: Sequence[Span], rows: pd.Index, report: CleaningReport) -> Values:
    key = reading.key(column.name, "number")
    values = Values(reading, key, None)
    missing = sum(int(values.missing(span).sum()) for span in spans)
    unreadable = pd.concat([part.unreadable(key) for part in reading.parts])
    unreadable = unreadable[unreadable.index.isin(rows)]
    present = len(rows) - missing + len(unreadable)
    refuse_unreadable(unreadable, len(unreadable), present, TABLE, column.name, "a number")
    note_missing(column, TABLE, unreadable, missing - len(unreadable), report)
    return Values(reading, key, column.fill)


def _tags(column: Column, reading: Reading, spans: Sequence[Span], report: CleaningReport) -> TagValues:
    key = reading.key(column.name, "tags")
    values, places = reading.unified(key)
    used_N = np.zeros(len(values), dtype=bool)
    raw = TagValues(reading, key, None, pa.array(np.arange(len(values))), places)
    missing = 0
    for span in spans:
        tags = raw.series(span)
        used_N[tags.explode().dropna().to_numpy("int64")] = True
        missing += int(tags.isna().sum())
    note_missing(column, TABLE, values[:0], missing, report)
    typed = plain_integers(pa.array(values[used_N].to_numpy(object), pa.string()))
    spread = typed.take(pa.array(np.cumsum(used_N) - 1, mask=~used_N))
    return TagValues(reading, key, column.fill, spread, places)
