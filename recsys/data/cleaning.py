"""Clean the tables and join them into events, counting everything that was dropped or changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from recsys.data.tables import (
    SPLIT_COLUMN,
    Table,
    TableSet,
    as_category,
    as_number,
    as_seconds,
    as_tags,
    column_names,
    read_table,
    same_type,
    time_part,
)
from recsys.schema import Column, FeatureSchema, Time

Action = Literal["dropped", "kept as missing", "filled"]


@dataclass(slots=True)
class CleaningReport:
    """What cleaning did: one entry per rule that touched rows, and the rows of each table before and after."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, table: str, column: str, rule: str, rows: int, action: Action) -> None:
        """Note that `rule` touched `rows` rows; zero rows are not worth a line."""
        if rows:
            self.entries.append(
                {"table": table, "column": column, "rule": rule, "rows": int(rows), "action": action}
            )

    def count(self, table: str, before: int, after: int) -> None:
        """Note how many rows a table had and has."""
        self.rows[table] = {"read": before, "kept": after}

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {"rows": self.rows, "entries": self.entries}


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Positive events in their own right: user and item positions and the order value of each, all (P,)."""

    user_P: np.ndarray
    item_P: np.ndarray
    order_P: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """The cleaned data: E events that point into a table of users and a table of items.

    `users` and `items` hold one row per entity, the key column first. `user_E` and `item_E` are row positions in
    them. `scene` holds the scene columns of each event. `order_E` is what "before" means: the history's order
    column, else the time, else the row number. `split_E` and `oracle_E` are present when declared; `past` when
    histories come from a table of their own.
    """

    users: pd.DataFrame
    items: pd.DataFrame
    scene: pd.DataFrame
    user_E: np.ndarray
    item_E: np.ndarray
    label_E: np.ndarray
    order_E: np.ndarray
    time_E: np.ndarray | None
    split_E: np.ndarray | None
    oracle_E: np.ndarray | None
    past: Past | None
    report: CleaningReport


def load_events(tables: TableSet, schema: FeatureSchema, split_column: str | None = None) -> Events:
    """Read, clean and join the tables of a dataset.

    Raises ValueError naming the table and column for a missing column, an empty table, a column whose values are
    mostly of a wrong type, a column that no table holds, or when no row survives.
    """
    report = CleaningReport()
    names = {name: column_names(table, name) for name, table in tables.present().items()}
    wanted = _plan_columns(tables, schema, split_column, names)
    frames = {name: read_table(t, name, wanted[name]) for name, t in tables.present().items()}
    before = {name: len(frame) for name, frame in frames.items()}

    rows = _clean_behaviour(frames["behaviour"], tables.behaviour, schema, report)
    scenes = _clean_entities(frames.get("scenes"), "scenes", _key(tables.scenes, ""), schema, "scene", report)
    rows = _join_scenes(rows, scenes, tables.scenes, report)
    past = _clean_history(frames.get("history"), schema, report)
    entities = {}
    for role, name, key in (("user", "users", schema.user), ("item", "items", schema.item)):
        entity = _clean_entities(frames.get(name), name, key, schema, role, report)
        entities[name], rows, past = _join_entities(entity, rows, past, getattr(tables, name), name, key, report)
    for name in ("scene", "user", "item"):
        rows = _drop_required(rows, entities.get(f"{name}s"), name, schema, report)
    if rows.empty:
        raise ValueError(f"no behaviour row survived cleaning; what was dropped: {report.entries}")
    _check_social(frames.get("social"), entities["users"][schema.user], report)

    for name in before:
        after = {"behaviour": len(rows), "history": 0 if past is None else len(past)}.get(name)
        report.count(name, before[name], after if after is not None else _kept(report, name, before[name]))
    return _to_events(rows, entities, past, schema, split_column, report)


def _key(table: Table | None, default: str) -> str:
    return table.key if table and table.key else default


def _kept(report: CleaningReport, table: str, before: int) -> int:
    return before - sum(e["rows"] for e in report.entries if e["table"] == table and e["action"] == "dropped")


def _plan_columns(
    tables: TableSet, schema: FeatureSchema, split_column: str | None, names: dict[str, list[str]]
) -> dict[str, list[str]]:
    """The columns to read from each table."""
    order = schema.history.order if schema.history else None
    optional = [schema.time and schema.time.column, schema.label.column, schema.label.oracle, order, split_column]
    wanted = {"behaviour": [schema.user, schema.item, *(c for c in optional if c)]}
    if tables.scenes:
        if not tables.scenes.key:
            raise ValueError("table `scenes` needs `key`, the column that the behaviour table refers to.")
        wanted["scenes"] = [tables.scenes.key]
        wanted["behaviour"].append(tables.scenes.key)
    if tables.users:
        wanted["users"] = [_key(tables.users, schema.user)]
    if tables.items:
        wanted["items"] = [_key(tables.items, schema.item)]
    for column in schema.columns:
        if not column.part and column.name not in (schema.user, schema.item):
            wanted[_home(column, tables, names)].append(column.name)
    if tables.history:
        wanted["history"] = [schema.user, schema.item, order or _time_column(schema)]
    if tables.social:
        wanted["social"] = names["social"][:2]
    return {name: list(dict.fromkeys(columns)) for name, columns in wanted.items()}


def _time_column(schema: FeatureSchema) -> str:
    if schema.time is None:
        raise ValueError("a `history` table needs `time: {column: ...}` or `history.order`.")
    return schema.time.column


def _home(column: Column, tables: TableSet, names: dict[str, list[str]]) -> str:
    """The table that holds a column: the one of its role; scene columns may also lie in the behaviour table."""
    if column.role != "scene":
        home = f"{column.role}s"
        if home not in names:
            raise ValueError(
                f"column {column.name!r} has role {column.role}, but there is no table `{home}`; "
                f"declare `tables.{home}`, or give the column role scene if the behaviour table holds it."
            )
        return home
    return "scenes" if column.name in names.get("scenes", ()) else "behaviour"


def _typed(values: pd.Series, column: Column, table: str, report: CleaningReport) -> pd.Series:
    """A feature column in its clean type, missing values filled where the column says so."""
    if column.kind == "tags":
        return as_tags(values, column).set_axis(values.index)
    if column.kind == "category":
        typed = as_category(values).set_axis(values.index)
    else:
        typed, bad = as_number(values)
        _refuse_wrong_type(table, column.name, bad, int(values.notna().sum()), "a number", values, typed)
        report.add(table, column.name, "not a number", bad, "kept as missing")
    missing = int(typed.isna().sum())
    if column.fill is not None:
        if missing:
            fill = str(column.fill) if typed.dtype == "str" else column.fill
            typed = (typed.astype("str") if isinstance(fill, str) else typed).fillna(fill)
        report.add(table, column.name, "missing value", missing, "filled")
    elif column.missing == "keep":
        report.add(table, column.name, "missing value", missing, "kept as missing")
    return typed


def _refuse_wrong_type(
    table: str, column: str, bad: int, present: int, what: str, values: pd.Series, typed: pd.Series
) -> None:
    """A few bad values are cleaned; a column that is mostly bad is a mistake in the declaration."""
    if present and bad * 2 > present:
        example = values[values.notna() & typed.isna()].iloc[0]
        raise ValueError(
            f"table `{table}`, column {column!r}: {bad} of {present} values are not {what} (such as {example!r}); "
            "check the column's kind, `rename` and `sep`."
        )


def _drop(
    frame: pd.DataFrame, bad: pd.Series, report: CleaningReport, table: str, column: str, rule: str
) -> pd.DataFrame:
    """The frame without its `bad` rows, counted."""
    count = int(bad.sum())
    report.add(table, column, rule, count, "dropped")
    return frame[~bad.to_numpy(dtype=bool)] if count else frame


def _clean_behaviour(
    frame: pd.DataFrame, table: Table, schema: FeatureSchema, report: CleaningReport
) -> pd.DataFrame:
    """Rows with a user, an item, a valid time and a valid label."""
    name = "behaviour"
    if table.duplicates == "drop":
        frame = _drop(frame, frame.duplicated(), report, name, "(all columns read)", "duplicate row")
    for key in (schema.user, schema.item):
        frame = _drop(frame, frame[key].isna(), report, name, key, "missing value")
        frame = frame.assign(**{key: as_category(frame[key]).set_axis(frame.index)})
    if schema.time:
        frame = _clean_time(frame, name, schema.time, report)
    if schema.history and schema.history.order:
        frame = _clean_number(frame, name, schema.history.order, report)
    if schema.label.oracle:
        frame = _clean_number(frame, name, schema.label.oracle, report)
    return _clean_label(frame, schema, report)


def _clean_time(frame: pd.DataFrame, table: str, time: Time, report: CleaningReport) -> pd.DataFrame:
    seconds, bad = as_seconds(frame[time.column], time)
    raw = frame[time.column]
    _refuse_wrong_type(table, time.column, bad, int(raw.notna().sum()), "a timestamp", raw, seconds)
    frame = frame.assign(**{time.column: seconds})
    return _drop(frame, seconds.isna(), report, table, time.column, "missing or not a timestamp")


def _clean_number(frame: pd.DataFrame, table: str, column: str, report: CleaningReport) -> pd.DataFrame:
    numbers, bad = as_number(frame[column])
    raw = frame[column]
    _refuse_wrong_type(table, column, bad, int(raw.notna().sum()), "a number", raw, numbers)
    frame = frame.assign(**{column: numbers})
    return _drop(frame, numbers.isna(), report, table, column, "missing or not a number")


def _clean_label(frame: pd.DataFrame, schema: FeatureSchema, report: CleaningReport) -> pd.DataFrame:
    label, table = schema.label, "behaviour"
    if label.column is None:
        return frame
    frame = _clean_number(frame, table, label.column, report)
    values = frame[label.column]
    if label.kind == "binary":
        return _drop(frame, ~values.isin([0, 1]), report, table, label.column, "label is neither 0 nor 1")
    if label.range:
        low, high = label.range
        rule = f"label outside [{low:g}, {high:g}]"
        return _drop(frame, ~values.between(low, high), report, table, label.column, rule)
    return frame


def _clean_entities(
    frame: pd.DataFrame | None, name: str, key: str, schema: FeatureSchema, role: str, report: CleaningReport
) -> pd.DataFrame | None:
    """A users, items or scenes table with unique keys and typed columns."""
    if frame is None:
        return None
    frame = frame.rename(columns={frame.columns[0]: key})
    frame = _drop(frame, frame[key].isna(), report, name, key, "missing value")
    frame = _drop(frame, frame[key].duplicated(keep="last"), report, name, key, "duplicate key (last kept)")
    columns = [c for c in schema.columns if c.role == role and c.name in frame.columns and c.name != key]
    typed = {c.name: _typed(frame[c.name], c, name, report) for c in columns}
    return pd.DataFrame({key: as_category(frame[key]).set_axis(frame.index), **typed}).reset_index(drop=True)


def _join_scenes(
    rows: pd.DataFrame, scenes: pd.DataFrame | None, table: Table | None, report: CleaningReport
) -> pd.DataFrame:
    if scenes is None or table is None or table.key is None:
        return rows
    key = table.key
    left, right = same_type(as_category(rows[key]).set_axis(rows.index), scenes[key])
    position = pd.Series(pd.Index(right).get_indexer(pd.Index(left)), index=rows.index)
    if table.unknown == "drop":
        rows = _drop(rows, position < 0, report, "behaviour", key, "scene not in table `scenes`")
    else:
        report.add("behaviour", key, "scene not in table `scenes`", int((position < 0).sum()), "kept as missing")
    found = scenes.drop(columns=key).reindex(position[rows.index]).set_axis(rows.index)
    return pd.concat([rows.drop(columns=[c for c in found if c in rows]), found], axis=1)


def _clean_history(
    frame: pd.DataFrame | None, schema: FeatureSchema, report: CleaningReport
) -> pd.DataFrame | None:
    """Past events as columns user, item and `order`."""
    if frame is None:
        return None
    for key in (schema.user, schema.item):
        frame = _drop(frame, frame[key].isna(), report, "history", key, "missing value")
        frame = frame.assign(**{key: as_category(frame[key]).set_axis(frame.index)})
    order = schema.history.order if schema.history else None
    if order:
        frame = _clean_number(frame, "history", order, report)
    elif schema.time:
        frame = _clean_time(frame, "history", schema.time, report)
    return frame.rename(columns={order or _time_column(schema): "order"})


def _join_entities(
    entity: pd.DataFrame | None,
    rows: pd.DataFrame,
    past: pd.DataFrame | None,
    table: Table | None,
    name: str,
    key: str,
    report: CleaningReport,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]:
    """Give rows and past events the position of their user or item; without a table, the keys make one."""
    column = f"{name}.position"
    keys = [rows[key], *([] if past is None else [past[key]]), *([] if entity is None else [entity[key]])]
    keys = same_type(*keys)
    row_keys, past_keys = keys[0], keys[1] if past is not None else None
    known = keys[-1] if entity is not None else pd.Series([], dtype=row_keys.dtype)
    everyone = pd.concat(keys[: 1 if past is None else 2])
    unknown = pd.Index(everyone.unique()).difference(pd.Index(known), sort=True)
    if entity is None:
        entity = pd.DataFrame({key: pd.Series(unknown, dtype=row_keys.dtype)})
    else:
        missing = row_keys.isin(unknown)
        rule = f"{name[:-1]} not in table `{name}`"
        entity = entity.assign(**{key: known})
        if table is None or table.unknown == "drop":
            rows = _drop(rows, missing, report, "behaviour", key, rule)
            row_keys = row_keys[rows.index]
            if past is not None and past_keys is not None:
                past = _drop(past, past_keys.isin(unknown), report, "history", key, rule)
                past_keys = past_keys[past.index]
        else:
            report.add("behaviour", key, rule, int(missing.sum()), "kept as missing")
            entity = pd.concat([entity, pd.DataFrame({key: pd.Series(unknown, dtype=known.dtype)})], ignore_index=True)
    index = pd.Index(entity[key])
    rows = rows.assign(**{column: index.get_indexer(pd.Index(row_keys)).astype("int32")})
    if past is not None:
        past = past.assign(**{column: index.get_indexer(pd.Index(pd.Series(past_keys))).astype("int32")})
    return entity, rows, past


def _drop_required(
    rows: pd.DataFrame, entity: pd.DataFrame | None, role: str, schema: FeatureSchema, report: CleaningReport
) -> pd.DataFrame:
    """Type the scene columns of the rows; drop rows that lack a value in a column with `missing: drop`."""
    for column in (c for c in schema.columns if c.role == role and not c.part):
        if role == "scene":
            if rows[column.name].dtype == object or column.kind != "tags":
                rows = rows.assign(**{column.name: _typed(rows[column.name], column, "behaviour", report)})
            values = rows[column.name]
        elif entity is not None:
            values = entity[column.name].take(rows[f"{role}s.position"].to_numpy()).set_axis(rows.index)
        if column.missing == "drop":
            rows = _drop(rows, values.isna(), report, "behaviour", column.name, f"{role} column has no value")
    return rows


def _check_social(frame: pd.DataFrame | None, users: pd.Series, report: CleaningReport) -> None:
    """Validate friendships: two different known users, each pair once."""
    if frame is None:
        return
    frame = frame.set_axis(["user", "friend"], axis=1)
    frame = _drop(frame, frame.isna().any(axis=1), report, "social", "(both)", "missing value")
    left, right, known = same_type(as_category(frame["user"]), as_category(frame["friend"]), users)
    frame = pd.DataFrame({"user": left.to_numpy(), "friend": right.to_numpy()})
    frame = _drop(frame, frame["user"] == frame["friend"], report, "social", "(both)", "friend of oneself")
    stranger = ~(frame["user"].isin(known) & frame["friend"].isin(known))
    frame = _drop(frame, stranger, report, "social", "(both)", "user not in table `users`")
    pairs = pd.DataFrame(np.sort(frame.to_numpy().astype(str), axis=1), index=frame.index)
    _drop(frame, pairs.duplicated(), report, "social", "(both)", "duplicate friendship")


def _to_events(
    rows: pd.DataFrame,
    entities: dict[str, pd.DataFrame],
    past: pd.DataFrame | None,
    schema: FeatureSchema,
    split_column: str | None,
    report: CleaningReport,
) -> Events:
    rows = rows.reset_index(drop=True)
    time_E = rows[schema.time.column].to_numpy("float64") if schema.time else None
    order = schema.history.order if schema.history else None
    order_E = rows[order].to_numpy("float64") if order else time_E
    return Events(
        users=entities["users"],
        items=entities["items"],
        scene=_scene_columns(rows, time_E, schema),
        user_E=rows["users.position"].to_numpy(),
        item_E=rows["items.position"].to_numpy(),
        label_E=_label(rows, schema),
        order_E=np.arange(len(rows), dtype="float64") if order_E is None else order_E,
        time_E=time_E,
        split_E=rows[split_column or SPLIT_COLUMN].to_numpy() if split_column else None,
        oracle_E=rows[schema.label.oracle].to_numpy("float32") if schema.label.oracle else None,
        past=None if past is None else _to_past(past),
        report=report,
    )


def _to_past(past: pd.DataFrame) -> Past:
    positions: Sequence[str] = ("users.position", "items.position")
    user_P, item_P = (past[name].to_numpy() for name in positions)
    return Past(user_P=user_P, item_P=item_P, order_P=past["order"].to_numpy("float64"))


def _scene_columns(rows: pd.DataFrame, time_E: np.ndarray | None, schema: FeatureSchema) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for column in (c for c in schema.columns if c.role == "scene"):
        if column.part and schema.time and time_E is not None:
            columns[column.name] = pd.Series(time_part(time_E, column.part, schema.time.utc_offset), dtype="Int64")
        else:
            columns[column.name] = rows[column.name]
    return pd.DataFrame(columns, index=rows.index)


def _label(rows: pd.DataFrame, schema: FeatureSchema) -> np.ndarray:
    label = schema.label
    if label.kind == "implicit" or label.column is None:
        return np.ones(len(rows), dtype="float32")
    values = rows[label.column].to_numpy("float32")
    if label.kind != "threshold":
        return values
    return (values >= np.float32(label.positive_from or 0.0)).astype("float32")
