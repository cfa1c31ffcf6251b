"""Clean single tables, counting everything that is dropped or changed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys.data.cells import as_category, as_number, as_seconds, as_tags, fill_missing, is_list, same_type
from recsys.data.coded import Coded
from recsys.data.duplicates import list_texts
from recsys.data.tables import Table
from recsys.schema import Column, FeatureSchema

Action = Literal["dropped", "kept as missing", "filled"]


@dataclass(slots=True)
class CleaningReport:
    """What cleaning did: one entry per rule that touched rows, and the rows of each table before and after."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    read: dict[str, int] = field(default_factory=dict)

    def add(self, table: str, column: str, rule: str, rows: int, action: Action) -> None:
        """Note that `rule` touched `rows` rows; zero rows are not worth a line."""
        if rows:
            self.entries.append({"table": table, "column": column, "rule": rule, "rows": int(rows), "action": action})

    def dropped(self, table: str) -> list[dict[str, Any]]:
        """The entries that dropped rows of a table, the largest first."""
        found = [e for e in self.entries if e["table"] == table and e["action"] == "dropped"]
        return sorted(found, key=lambda e: -e["rows"])

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON: rows read and kept per table, and the entries."""
        kept = {table: read - sum(e["rows"] for e in self.dropped(table)) for table, read in self.read.items()}
        rows = {table: {"read": read, "kept": kept[table]} for table, read in self.read.items()}
        return {"rows": rows, "entries": self.entries}


def drop_rows(
    frame: pd.DataFrame, bad: pd.Series | np.ndarray, report: CleaningReport, table: str, column: str, rule: str
) -> pd.DataFrame:
    """The frame without its `bad` rows, counted."""
    count = int(bad.sum())
    report.add(table, column, rule, count, "dropped")
    return frame[~np.asarray(bad, dtype=bool)] if count else frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A table of events as it was read: the columns that say what the events are, and which rows repeat others."""

    columns: Mapping[str, Coded | pd.Series]
    rows: int
    repeated: np.ndarray | None

    @classmethod
    def of(cls, frame: pd.DataFrame, table: Table, keys: Collection[str]) -> "Raw":
        """A table in memory; `keys` are the columns that identify something."""
        columns = {str(name): Coded.of(values) if name in keys else values for name, values in frame.items()}
        repeated = None if table.duplicates == "keep" else _hashable(frame).duplicated().to_numpy()
        return cls(columns=columns, rows=len(frame), repeated=repeated)

    def at(self, column: str, rows: pd.Index) -> Coded | pd.Series:
        """A column's cells in some rows."""
        cells = self.columns[column]
        if len(rows) == self.rows:
            return cells
        return cells.take(rows.to_numpy()) if isinstance(cells, Coded) else cells.loc[rows]


def clean_events(
    raw: Raw, name: str, table: Table, columns: Mapping[str, str], schema: FeatureSchema, report: CleaningReport
) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """Rows of the behaviour or history table with a user, an item, and a valid time, order and label.

    `columns` maps what the result is made of (user, item, time, order, label, oracle, split, scene) to columns of
    the table. User, item, split and scene are codes of the values that are returned beside the rows: typed for user
    and item, as they were read for the others. The index is the row in the table.
    """
    rows, keys = pd.DataFrame(index=pd.RangeIndex(raw.rows)), {}
    if raw.repeated is not None:
        rows = drop_rows(rows, raw.repeated, report, name, "(all columns read)", "duplicate row")
    for part in ("user", "item"):
        rows, keys[part] = _clean_key(rows, raw, name, part, columns[part], schema, report)
    for part in ("time", "order", "oracle", "label"):
        if part in columns:
            rows = _clean_number(rows, raw, name, table.decimal, part, columns[part], schema, report)
    if "label" in rows:
        rows = _clean_label(rows, name, schema, report)
    if table.duplicates == "pairs":
        rows = _first_of_pairs(rows, name, columns, report)
    for part in ("split", "scene"):
        if part in columns:
            coded = _coded(raw.at(columns[part], rows.index))
            rows, keys[part] = rows.assign(**{part: coded.code_R}), coded.values
    return rows, keys


def _coded(cells: Coded | pd.Series) -> Coded:
    return cells if isinstance(cells, Coded) else Coded.of(cells)


def _first_of_pairs(rows: pd.DataFrame, table: str, columns: Mapping[str, str], report: CleaningReport) -> pd.DataFrame:
    before = [part for part in ("order", "time") if part in rows][:1]
    ordered = rows.sort_values(before, kind="stable") if before else rows
    repeated = ordered.duplicated(["user", "item"])[rows.index]
    names = f"{columns['user']}, {columns['item']}"
    return drop_rows(rows, repeated, report, table, names, "repeated pair (earliest kept)")


def _hashable(frame: pd.DataFrame) -> pd.DataFrame:
    """Lists as texts, for the search for duplicates."""
    texts = {
        str(name): list_texts(pa.array(values)).to_pandas().set_axis(frame.index)
        for name, values in frame.items()
        if isinstance(values.dtype, pd.ArrowDtype) and is_list(values.dtype.pyarrow_dtype)
    }
    return frame.assign(**texts)


def _clean_key(
    rows: pd.DataFrame, raw: Raw, table: str, part: str, name: str, schema: FeatureSchema, report: CleaningReport
) -> tuple[pd.DataFrame, pd.Series]:
    """Rows with a user (or item), and all users; missing ones are filled where the column says so."""
    coded = _typed(_coded(raw.at(name, rows.index)))
    typed, code_R = coded.values, coded.code_R
    fill = next((c.fill for c in schema.columns if c.name == name), None)
    if fill is not None:
        report.add(table, name, "missing value", int((code_R < 0).sum()), "filled")
        filled = Coded.of(fill_missing(with_missing(typed), fill))
        typed, code_R = filled.values, filled.code_R[code_R]
    rows = rows.assign(**{part: code_R})
    return drop_rows(rows, code_R < 0, report, table, name, "missing value"), typed


def _typed(coded: Coded) -> Coded:
    """The identifiers that rows have, typed by these alone; those that typing made equal share a code."""
    used = coded.counts > 0
    again = Coded.of(as_category(coded.values[used].reset_index(drop=True)))
    place = np.full(len(used) + 1, -1, dtype="int32")
    place[:-1][used] = again.code_R
    return Coded(again.values, place[coded.code_R])


def with_missing(typed: pd.Series) -> pd.Series:
    """The values and a missing one behind them."""
    return typed.reset_index(drop=True).reindex(pd.RangeIndex(len(typed) + 1))


def _clean_number(
    rows: pd.DataFrame,
    raw: Raw,
    table: str,
    decimal: str,
    part: str,
    name: str,
    schema: FeatureSchema,
    report: CleaningReport,
) -> pd.DataFrame:
    """Rows with a time (order, oracle, label); missing and unreadable ones are dropped."""
    time = schema.time if part == "time" else None
    what = "a timestamp (a number or ISO 8601)" if time else "a number"

    def parse(values: pd.Series, weight: np.ndarray | None) -> pd.Series:
        return as_seconds(values, time, weight, decimal) if time else as_number(values, decimal)

    numbers, unreadable = _parsed(raw.at(name, rows.index), parse, table, name, what)
    rows = rows.assign(**{part: numbers.to_numpy()})
    rule = f"missing or not a {'timestamp' if time else 'number'}{_sign_hint(unreadable)}"
    return drop_rows(rows, numbers.isna(), report, table, name, rule)


def _parsed(
    cells: Coded | pd.Series,
    parse: Callable[[pd.Series, np.ndarray | None], pd.Series],
    table: str,
    column: str,
    what: str,
) -> tuple[pd.Series, pd.Series]:
    """The parsed values, and the cells that are present but unreadable; of coded ones each value once."""
    if isinstance(cells, Coded):
        numbers, counts = parse(cells.values, cells.counts), cells.counts
        bad = numbers.isna().to_numpy() & (counts > 0)
        typed, unreadable = cells.spread(numbers), cells.values[bad]
        count, present = int(counts[bad].sum()), int(counts.sum())
    else:
        typed = parse(cells, None)
        unreadable = cells[cells.notna().to_numpy() & typed.isna().to_numpy()]
        count, present = len(unreadable), int(cells.notna().sum())
    refuse_unreadable(unreadable, count, present, table, column, what)
    return typed, unreadable


def refuse_unreadable(unreadable: pd.Series, count: int, present: int, table: str, column: str, what: str) -> None:
    """A few bad values are cleaned; a column that is mostly bad is a mistake in the declaration.

    `count` of the `present` cells hold one of the `unreadable` values.
    """
    if count * 2 > present:
        (example,) = unreadable.head(1).tolist()  # a value of Python's own
        raise ValueError(
            f"table `{table}`, column {column!r}: {count} of {present} values are not {what} (such as "
            f"{example!r}){_sign_hint(unreadable)}; check the column's kind, `rename` and `sep`."
        )


def _sign_hint(unreadable: pd.Series) -> str:
    """The question whether numbers have another decimal sign than declared, where most unreadable values look like it.

    Each value counts once. None where all of these look like "1,234", which may be a thousand.
    """
    texts = unreadable.astype("str").drop_duplicates()
    for sign in (",", "."):
        alike = texts[texts.str.fullmatch(rf"[+-]?\d*[{sign}]\d+")]
        if len(alike) * 2 > len(texts) and not alike.str.fullmatch(rf"[+-]?[1-9]\d{{0,2}}[{sign}]\d{{3}}").all():
            return f" (is `decimal` {sign!r}?)"
    return ""


def _clean_label(rows: pd.DataFrame, table: str, schema: FeatureSchema, report: CleaningReport) -> pd.DataFrame:
    label, values = schema.label, rows["label"]
    column = str(label.column)
    if label.kind == "binary":
        other = ~values.isin([0, 1])
        if values[other].eq(-1).any() and not values.eq(0).any():
            raise ValueError(
                f"table `{table}`, column {column!r}: labels of kind binary are 0 and 1, and here -1 and 1; declare "
                "`label: {kind: threshold, positive_from: 1}` with this column."
            )
        return drop_rows(rows, other, report, table, column, "label is neither 0 nor 1")
    if label.range is None:
        return rows
    low, high = label.range
    rule = f"label outside [{low:g}, {high:g}]"
    return drop_rows(rows, ~values.between(low, high), report, table, column, rule)


def clean_column(
    values: pd.Series, column: Column, table: str, report: CleaningReport, decimal: str = "."
) -> pd.Series:
    """A feature column in its clean type; missing values are filled where the column says so."""
    unreadable = values[:0]
    if column.kind == "tags":
        typed = as_tags(values, column)
    elif column.kind == "category":
        typed = as_category(values)
    else:
        typed, unreadable = _parsed(values, lambda v, _: as_number(v, decimal), table, column.name, "a number")
    note_missing(column, table, unreadable, int(typed.isna().sum()) - len(unreadable), report)
    return typed if column.fill is None else fill_missing(typed, column.fill)


def note_missing(column: Column, table: str, unreadable: pd.Series, missing: int, report: CleaningReport) -> None:
    """Count the unreadable and the missing values of a feature column.

    Those of a column with `missing: drop` are counted later, with the rows they cost.
    """
    if column.missing == "keep":
        action: Action = "kept as missing" if column.fill is None else "filled"
        report.add(table, column.name, f"not a number{_sign_hint(unreadable)}", len(unreadable), action)
        report.add(table, column.name, "missing value", missing, action)


def clean_entities(
    frame: pd.DataFrame, name: str, key: str, columns: Sequence[Column], report: CleaningReport, decimal: str = "."
) -> tuple[pd.Series, pd.DataFrame]:
    """The unique keys of a users, items or scenes table, and its typed columns in the same order.

    Numbers are written with the sign `decimal`.
    """
    keys = as_category(frame[key])
    frame = drop_rows(frame, keys.isna(), report, name, key, "missing value")
    repeated = keys[frame.index].duplicated(keep="last")
    frame = drop_rows(frame, repeated, report, name, key, "duplicate key (last kept)")
    keys, frame = keys[frame.index].reset_index(drop=True), frame.reset_index(drop=True)
    typed = {column.name: clean_column(frame[column.name], column, name, report, decimal) for column in columns}
    return keys, pd.DataFrame(typed, index=frame.index)


def check_social(frame: pd.DataFrame, users: pd.Series, report: CleaningReport) -> None:
    """Validate friendships, two columns: two different known users, each pair once."""
    frame = frame.set_axis(["user", "friend"], axis=1)
    both = "(both)"
    frame = drop_rows(frame, frame.isna().any(axis=1), report, "social", both, "missing value")
    left, right, known = same_type(as_category(frame["user"]), as_category(frame["friend"]), users)
    frame = pd.DataFrame({"user": left, "friend": right})
    frame = drop_rows(frame, frame["user"] == frame["friend"], report, "social", both, "friend of oneself")
    stranger = ~(frame["user"].isin(known) & frame["friend"].isin(known))
    frame = drop_rows(frame, stranger, report, "social", both, "user not in table `users`")
    index = pd.Index(known)
    user, friend = index.get_indexer(pd.Index(frame["user"])), index.get_indexer(pd.Index(frame["friend"]))
    pair = pd.Series(user.clip(max=friend).astype("int64") * len(index) + user.clip(min=friend), index=frame.index)
    drop_rows(frame, pair.duplicated(), report, "social", both, "duplicate friendship")
