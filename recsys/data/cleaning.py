"""Clean single tables, counting everything that is dropped or changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.tables import (
    Table,
    as_category,
    as_number,
    as_seconds,
    as_tags,
    fill_missing,
    is_list,
    same_type,
)
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
    frame: pd.DataFrame, bad: pd.Series, report: CleaningReport, table: str, column: str, rule: str
) -> pd.DataFrame:
    """The frame without its `bad` rows, counted."""
    count = int(bad.sum())
    report.add(table, column, rule, count, "dropped")
    return frame[~bad.to_numpy(dtype=bool)] if count else frame


def clean_events(
    frame: pd.DataFrame,
    name: str,
    table: Table,
    columns: Mapping[str, str],
    schema: FeatureSchema,
    report: CleaningReport,
) -> pd.DataFrame:
    """Rows of the behaviour or history table with a user, an item, and a valid time, order and label.

    `columns` maps what the result is made of (user, item, time, order, label, oracle, split, scene) to columns of
    `frame`. The index is that of `frame`.
    """
    if table.duplicates != "keep":
        frame = drop_rows(frame, _hashable(frame).duplicated(), report, name, "(all columns read)", "duplicate row")
    rows = pd.DataFrame({part: frame[column] for part, column in columns.items()})
    for part in ("user", "item"):
        rows = _clean_key(rows, name, part, columns[part], schema, report)
    for part in ("time", "order", "oracle", "label"):
        if part in rows:
            rows = _clean_number(rows, name, part, columns[part], schema, report)
    if "label" in rows:
        rows = _clean_label(rows, name, schema, report)
    return _first_of_pairs(rows, name, columns, report) if table.duplicates == "pairs" else rows


def _first_of_pairs(rows: pd.DataFrame, table: str, columns: Mapping[str, str], report: CleaningReport) -> pd.DataFrame:
    before = [part for part in ("order", "time") if part in rows][:1]
    ordered = rows.sort_values(before, kind="stable") if before else rows
    repeated = ordered.duplicated(["user", "item"])[rows.index]
    names = f"{columns['user']}, {columns['item']}"
    return drop_rows(rows, repeated, report, table, names, "repeated pair (earliest kept)")


def _hashable(frame: pd.DataFrame) -> pd.DataFrame:
    """Lists as texts, for the search for duplicates."""
    texts = {
        str(name): pc.binary_join(pa.array(values).cast(pa.list_(pa.string())), "\x1f")
        .to_pandas()
        .set_axis(frame.index)
        for name, values in frame.items()
        if isinstance(values.dtype, pd.ArrowDtype) and is_list(values.dtype.pyarrow_dtype)
    }
    return frame.assign(**texts)


def _clean_key(
    rows: pd.DataFrame, table: str, part: str, name: str, schema: FeatureSchema, report: CleaningReport
) -> pd.DataFrame:
    """Rows with a user (or item); missing ones are filled where its column says so."""
    typed = as_category(rows[part])
    fill = next((c.fill for c in schema.columns if c.name == name), None)
    if fill is not None:
        report.add(table, name, "missing value", int(typed.isna().sum()), "filled")
        typed = fill_missing(typed, fill)
    rows = rows.assign(**{part: typed})
    return drop_rows(rows, typed.isna(), report, table, name, "missing value")


def _clean_number(
    rows: pd.DataFrame, table: str, part: str, name: str, schema: FeatureSchema, report: CleaningReport
) -> pd.DataFrame:
    """Rows with a time (order, oracle, label); missing and unreadable ones are dropped."""
    time = schema.time if part == "time" else None
    what = "a timestamp (a number or ISO 8601)" if time else "a number"
    numbers, _ = _parsed(rows[part], lambda v: as_seconds(v, time) if time else as_number(v), table, name, what)
    rows = rows.assign(**{part: numbers})
    rule = f"missing or not a {'timestamp' if time else 'number'}"
    return drop_rows(rows, numbers.isna(), report, table, name, rule)


def _parsed(
    values: pd.Series, parse: Callable[[pd.Series], pd.Series], table: str, column: str, what: str
) -> tuple[pd.Series, int]:
    """The parsed values, and how many are present but unreadable.

    A few bad values are cleaned; a column that is mostly bad is a mistake in the declaration.
    """
    typed = parse(values)
    bad, present = values.notna() & typed.isna(), int(values.notna().sum())
    count = int(bad.sum())
    if count * 2 > present:
        raise ValueError(
            f"table `{table}`, column {column!r}: {count} of {present} values are not {what} (such as "
            f"{values[bad].iloc[0]!r}); check the column's kind, `rename` and `sep`."
        )
    return typed, count


def _clean_label(rows: pd.DataFrame, table: str, schema: FeatureSchema, report: CleaningReport) -> pd.DataFrame:
    label, values = schema.label, rows["label"]
    column = str(label.column)
    if label.kind == "binary":
        return drop_rows(rows, ~values.isin([0, 1]), report, table, column, "label is neither 0 nor 1")
    if label.range is None:
        return rows
    low, high = label.range
    rule = f"label outside [{low:g}, {high:g}]"
    return drop_rows(rows, ~values.between(low, high), report, table, column, rule)


def clean_column(values: pd.Series, column: Column, table: str, report: CleaningReport) -> pd.Series:
    """A feature column in its clean type; missing values are filled where the column says so.

    Missing values of a column with `missing: drop` are counted later, with the rows they cost.
    """
    bad = 0
    if column.kind == "tags":
        typed = as_tags(values, column)
    elif column.kind == "category":
        typed = as_category(values)
    else:
        typed, bad = _parsed(values, as_number, table, column.name, "a number")
    if column.missing == "keep":
        action: Action = "kept as missing" if column.fill is None else "filled"
        report.add(table, column.name, "not a number", bad, action)
        report.add(table, column.name, "missing value", int(typed.isna().sum()) - bad, action)
    return typed if column.fill is None else fill_missing(typed, column.fill)


def clean_entities(
    frame: pd.DataFrame, name: str, key: str, columns: Sequence[Column], report: CleaningReport
) -> tuple[pd.Series, pd.DataFrame]:
    """The unique keys of a users, items or scenes table, and its typed columns in the same order."""
    keys = as_category(frame[key])
    frame = drop_rows(frame, keys.isna(), report, name, key, "missing value")
    repeated = keys[frame.index].duplicated(keep="last")
    frame = drop_rows(frame, repeated, report, name, key, "duplicate key (last kept)")
    keys, frame = keys[frame.index].reset_index(drop=True), frame.reset_index(drop=True)
    typed = {column.name: clean_column(frame[column.name], column, name, report) for column in columns}
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
