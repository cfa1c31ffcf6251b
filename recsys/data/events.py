"""Join the cleaned tables into events, the one form in which a dataset is split, encoded and stored."""

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from recsys.data.cells import as_category, distinct, fill_missing, positions, same_type, time_part
from recsys.data.cleaning import CleaningReport, Raw, check_social, clean_entities, clean_events, drop_rows
from recsys.data.parts import ROWS, Form, Need, Part, Reading, in_a_row, read_parts
from recsys.data.progress import counted
from recsys.data.scene import Entries, Scene, SceneColumn, spans_of
from recsys.data.scene_columns import read_columns
from recsys.data.tables import (
    Table,
    TableSet,
    check_columns,
    column_names,
    empty_table,
    read_batches,
    read_table,
    row_count,
)
from recsys.data.workers import THREADS, Workers
from recsys.schema import Column, FeatureSchema, Role, Time

log = logging.getLogger(__name__)
FAR_FUTURE, SEVENTIES = 1e11, 315_532_800  # seconds: the year 5138, and the end of 1979
Frames = dict[str, pd.DataFrame]
Keys = dict[str, dict[str, pd.Series]]  # table -> part -> the values that its codes stand for


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Positive events in their own right: user and item positions and the order value of each, all (P,)."""

    user_P: np.ndarray
    item_P: np.ndarray
    order_P: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenCandidates:
    """The items among which each user's liked items are to be ranked: user and item positions, (C,), by user."""

    user_C: np.ndarray
    item_C: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """The cleaned data: E events that point into a table of users and a table of items.

    `users` and `items` hold one row per entity, the key column first. `user_E` and `item_E` are row positions in
    them. `scene` tells the scene columns of each event. `order_E` is what "before" means: the history's order
    column, else the time, else the row number. `time_E` is the time, else the order column, else None. `split_E`
    and `oracle_E` are present when declared; `past` when histories come from a table of their own; `candidates` when
    a table gives them; `titles`, one per item and missing where the table has none, when the schema names their column.
    """

    users: pd.DataFrame
    items: pd.DataFrame
    scene: Scene
    user_E: np.ndarray
    item_E: np.ndarray
    label_E: np.ndarray
    order_E: np.ndarray
    time_E: np.ndarray | None
    split_E: pd.Categorical | np.ndarray | None
    oracle_E: np.ndarray | None
    past: Past | None
    report: CleaningReport
    candidates: GivenCandidates | None = None
    titles: pd.Series | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is read of each table.

    `parts` says what the rows of the tables of events are made of (user, item, time, ... -> column), `homes` which
    feature columns each table holds.
    """

    tables: TableSet
    schema: FeatureSchema
    parts: dict[str, dict[str, str]]
    homes: dict[str, list[Column]]

    def key(self, table: str) -> str:
        """The key column of the users, items or scenes table, under the table's own name for it."""
        return _key(self.tables, self.schema, table)


def load_events(
    tables: TableSet,
    schema: FeatureSchema,
    split_column: str | None = None,
    scratch: Path | None = None,
    workers: Workers = THREADS,
) -> Events:
    """Read, clean and join the tables of a dataset.

    The behaviour table is read in parts. Of its rows only what every step needs stays in memory (user, item, time,
    label: some 30 bytes a row); its feature columns lie in a folder inside `scratch` (the system's for temporary files
    where there is none) as long as the events' `scene` is in use. The other tables are read whole.

    Raises ValueError naming the table and column for a missing column, an empty table, a column whose values are
    mostly of a wrong type, a column that no table holds, or when no row survives.
    """
    parts = _parts(tables, schema, split_column)
    check_columns(tables.behaviour, "behaviour", parts["behaviour"].values())  # a misspelt key is no missing table
    plan = _Plan(tables=tables, schema=schema, parts=parts, homes=_homes(tables, schema))
    folder = tempfile.TemporaryDirectory(prefix=".reading-", dir=scratch)
    reading = _read_behaviour(plan, Path(folder.name), workers)
    others = {name: table for name, table in tables.present().items() if name != "behaviour"}
    frames = {name: read_table(table, name, _wanted(plan, name)) for name, table in others.items()}
    counts = {"behaviour": reading.rows} | {name: len(frame) for name, frame in frames.items()}
    report = CleaningReport(read={name: counts[name] for name in tables.present()})
    cleaned = {name: _clean(name, plan, reading, frames, report) for name in plan.parts}
    rows = {name: pair[0] for name, pair in cleaned.items()}
    keys = {name: pair[1] for name, pair in cleaned.items()}
    del cleaned  # else the first, unjoined rows stay in memory
    _refuse_empty(rows["behaviour"], report)
    scenes = _join_scenes(rows, keys, frames, plan, report)
    users, items = (_join_entities(rows, keys, role, frames, plan, report) for role in ("user", "item"))
    scene = _scene(rows["behaviour"], reading, scenes, plan, report)
    kept = _drop_missing(rows["behaviour"], {"user": users, "item": items}, scene, schema, report)
    _refuse_empty(kept, report)
    if len(kept) < len(rows["behaviour"]):
        scene = scene.kept(rows["behaviour"].index.isin(kept.index), spans_of(reading, kept.index))
    if tables.social:
        check_social(frames["social"], users[schema.user], report)
    words = keys["behaviour"].get("split")
    events = _to_events(
        {**rows, "behaviour": kept}, words, users, items, replace(scene, scratch=folder), schema, report
    )
    return replace(events, titles=_titles(items[schema.item], frames["items"], plan)) if schema.title else events


def _read_behaviour(plan: _Plan, scratch: Path, workers: Workers) -> Reading:
    """Read the behaviour table into parts, which lie in `scratch`."""
    table = plan.tables.behaviour
    keys = ("user", "item", "split", "scene")
    needs = [Need(name, "code" if part in keys else "plain") for part, name in plan.parts["behaviour"].items()]
    forms: dict[str, Form] = {"category": "code", "number": "number", "tags": "tags"}
    needs += [
        Need(c.name, forms[c.kind], c if c.kind == "tags" else None, table.decimal) for c in plan.homes["behaviour"]
    ]
    needs, wanted, hashed = list(dict.fromkeys(needs)), _wanted(plan, "behaviour"), table.duplicates != "keep"
    rows, threads = ROWS, os.cpu_count() or 1

    def read(piece: tuple[int, Table]) -> Iterator[Part]:
        batches = read_batches(piece[1], "behaviour", wanted, rows)
        return read_parts(batches, needs, scratch / f"{piece[0]:05}", hashed, threads)

    check_columns(table, "behaviour", wanted)
    parts = workers.read(read, list(enumerate(table.apart())))
    found = list(counted(in_a_row(parts), lambda part: part.rows, "reading", row_count(table)))
    if not found:
        raise empty_table(table, "behaviour")
    return Reading(tuple(needs), found)


def _clean(
    name: str, plan: _Plan, reading: Reading, frames: Frames, report: CleaningReport
) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """The rows of a table of events, and what their codes stand for."""
    table, parts = plan.tables.present()[name], plan.parts[name]
    raw = _raw(reading, table, parts) if name == "behaviour" else Raw.of(frames[name], table, set(parts.values()))
    return clean_events(raw, name, table, parts, plan.schema, report)


def _raw(reading: Reading, table: Table, parts: Mapping[str, str]) -> Raw:
    """The columns of the behaviour table that say what its events are."""
    keys = ("user", "item", "split", "scene")
    columns = {name: reading.column(name, "code" if part in keys else "plain") for part, name in parts.items()}
    return Raw(columns=columns, rows=reading.rows, repeated=None if table.duplicates == "keep" else reading.repeated)


def _parts(tables: TableSet, schema: FeatureSchema, split_column: str | None) -> dict[str, dict[str, str]]:
    """What the rows of the behaviour, history and candidates tables are made of: part -> column."""
    if tables.scenes and not tables.scenes.key:
        raise ValueError("table `scenes` needs `key`, the column that the behaviour table refers to.")
    time = schema.time.column if schema.time else None
    order = schema.history.order if schema.history and schema.history.order != time else None
    keys = {"user": schema.user, "item": schema.item}
    optional = {"time": time, "order": order, "label": schema.label.column, "oracle": schema.label.oracle}
    optional |= {"split": split_column, "scene": tables.scenes.key if tables.scenes else None}
    parts = {"behaviour": keys | {part: column for part, column in optional.items() if column}}
    if tables.history:
        if not (order or time):
            raise ValueError("a `history` table needs `time: {column: ...}` or `history.order`.")
        parts["history"] = keys | ({"order": order} if order else {"time": str(time)})
    if tables.candidates:
        parts["candidates"] = keys
    return parts


def _homes(tables: TableSet, schema: FeatureSchema) -> dict[str, list[Column]]:
    """The feature columns that each table holds; those derived from the time and the two keys have no home."""
    in_scenes = column_names(tables.scenes, "scenes") if tables.scenes else []
    homes: dict[str, list[Column]] = {name: [] for name in tables.present()}
    for column in schema.columns:
        if column.part or column.name in (schema.user, schema.item):
            continue
        home = f"{column.role}s"
        if column.role == "scene" and (column.name not in in_scenes or column.name == _key(tables, schema, "scenes")):
            home = "behaviour"
            if column.name in (schema.label.column, schema.label.oracle):
                raise ValueError(f"column {column.name!r} is the label's; it cannot be a feature as well.")
        if home not in homes:
            raise ValueError(
                f"column {column.name!r} has role {column.role}, but there is no table `{home}`; "
                f"declare `tables.{home}`, or give the column role scene if the behaviour table holds it."
            )
        homes[home].append(column)
    if schema.title and "items" not in homes:
        raise ValueError(
            f"`title` names column {schema.title!r}, but there is no table `items`; declare `tables.items`."
        )
    return homes


def _key(tables: TableSet, schema: FeatureSchema, name: str) -> str:
    table = tables.present().get(name)
    return table.key if table and table.key else {"users": schema.user, "items": schema.item}.get(name, "")


def _wanted(plan: _Plan, name: str) -> list[str]:
    """The columns to read of a table, no others."""
    if name == "social":
        wanted = column_names(plan.tables.present()[name], name)[:2]
        if len(wanted) < 2:
            raise ValueError(f"table `social` needs two columns of users, got {wanted}; check `sep`.")
        return wanted
    keys = plan.parts[name].values() if name in plan.parts else [plan.key(name)]
    titles = [plan.schema.title] if name == "items" and plan.schema.title else []
    return list(dict.fromkeys([*keys, *(column.name for column in plan.homes[name]), *titles]))


def _refuse_empty(rows: pd.DataFrame, report: CleaningReport) -> None:
    if rows.empty:
        dropped = "; ".join(f"{e['rows']} rows: {e['rule']} ({e['column']})" for e in report.dropped("behaviour"))
        raise ValueError(
            f"no row of table `behaviour` survived cleaning ({report.read['behaviour']} rows read; {dropped})."
        )


def _refuse_strangers(keys: pd.Series, code_E: np.ndarray, known: pd.Series, table: str) -> None:
    if len(code_E) and np.append(positions(keys, known) < 0, True)[code_E].all():
        shown = keys.take(code_E[code_E >= 0][:3])
        one = {"items": "an item"}.get(table, f"a {table[:-1]}")
        ours, theirs = (", ".join(map(repr, k.head(3).tolist())) or "none" for k in (shown, known))
        raise ValueError(
            f"no row of table `behaviour` has {one} that table `{table}` knows: behaviour has {ours}, "
            f"{table} has {theirs}; check `tables.{table}.key`, `rename` and how the two write their ids."
        )


def _join_scenes(rows: Frames, keys: Keys, frames: Frames, plan: _Plan, report: CleaningReport) -> pd.DataFrame | None:
    """Replace the scene key of each behaviour row by its position in the scenes table, -1 where it is unknown."""
    if plan.tables.scenes is None:
        return None
    key, rule = plan.key("scenes"), "scene not in table `scenes`"
    decimal = plan.tables.scenes.decimal
    known, scenes = clean_entities(frames["scenes"], "scenes", key, plan.homes["scenes"], report, decimal)
    own, known = same_type(as_category(keys["behaviour"]["scene"]), known)
    code_E = rows["behaviour"]["scene"].to_numpy()
    position_E = np.append(positions(own, known), -1)[code_E]
    if plan.tables.scenes.unknown == "drop":
        _refuse_strangers(own, code_E, known, "scenes")
    rows["behaviour"] = rows["behaviour"].assign(scene=position_E)
    if plan.tables.scenes.unknown == "drop":
        rows["behaviour"] = drop_rows(rows["behaviour"], position_E < 0, report, "behaviour", key, rule)
    else:
        report.add("behaviour", key, rule, int((position_E < 0).sum()), "kept as missing")
    return scenes


def _join_entities(
    rows: Frames, keys: Keys, role: Role, frames: Frames, plan: _Plan, report: CleaningReport
) -> pd.DataFrame:
    """Replace the codes in `rows` by positions in the returned users or items table, the key column first.

    Without a table, the keys themselves make one.
    """
    name, key = f"{role}s", plan.parts["behaviour"][role]
    used = [_used(keys[table][role], frame[role]) for table, frame in rows.items()]
    if name in frames:
        decimal = plan.tables.present()[name].decimal
        known, columns = clean_entities(frames[name], name, plan.key(name), plan.homes[name], report, decimal)
    else:
        known, columns = distinct(pd.concat(same_type(*used))), pd.DataFrame()
    *typed, known = same_type(*(keys[table][role] for table in rows), known)
    own = dict(zip(rows, typed, strict=True))
    if name in frames and plan.tables.present()[name].unknown == "keep":
        known, columns = _add_strangers(rows, own, role, known, columns, plan, report)
    elif name in frames:
        _refuse_strangers(own["behaviour"], rows["behaviour"][role].to_numpy(), known, name)
    for table, frame in rows.items():
        position_E = positions(own[table], known)[frame[role].to_numpy()].astype("int32")
        placed = frame.assign(**{role: position_E})
        rows[table] = drop_rows(placed, position_E < 0, report, table, key, f"{role} not in table `{name}`")
    return pd.concat([known.to_frame(key), columns], axis=1)


def _used(keys: pd.Series, code_E: pd.Series) -> pd.Series:
    """The keys that some row has."""
    return keys[np.bincount(code_E, minlength=len(keys)) > 0]


def _add_strangers(
    rows: Frames,
    own: Mapping[str, pd.Series],
    role: Role,
    known: pd.Series,
    columns: pd.DataFrame,
    plan: _Plan,
    report: CleaningReport,
) -> tuple[pd.Series, pd.DataFrame]:
    """The keys and columns of an entity table with one row more for each unknown key, its attributes missing."""
    strangers = []
    for table, frame in rows.items():
        unknown = positions(own[table], known) < 0
        count = int(unknown[frame[role].to_numpy()].sum())
        rule = f"{role} not in table `{role}s`"
        report.add(table, plan.parts[table][role], rule, count, "kept as missing")
        strangers.append(_used(own[table].where(pd.Series(unknown), None), frame[role]).dropna())
    known = pd.concat([known, distinct(pd.concat(strangers))], ignore_index=True)
    return known, _filled(columns.reindex(known.index), plan.homes[f"{role}s"])


def _filled(frame: pd.DataFrame, declared: list[Column]) -> pd.DataFrame:
    """The columns with `fill` for what is missing."""
    fills = {column.name: column.fill for column in declared if column.fill is not None}
    return frame.assign(**{name: fill_missing(frame[name], fill) for name, fill in fills.items()})


def _titles(keys: pd.Series, raw: pd.DataFrame, plan: _Plan) -> pd.Series:
    """The title of each item as one line of text, missing where its row (the last, if repeated) has none."""
    texts = raw[plan.schema.title].astype("str").str.replace(r"\s+", " ", regex=True).str.strip()
    known = as_category(raw[plan.key("items")]).astype("str")
    kept = (known.notna() & ~known.duplicated(keep="last")).to_numpy()
    titles = texts.where(texts != "").set_axis(pd.Index(known))[kept]
    return titles.reindex(keys.astype("str")).reset_index(drop=True)


def _scene(
    rows: pd.DataFrame, reading: Reading, scenes: pd.DataFrame | None, plan: _Plan, report: CleaningReport
) -> Scene:
    """The scene columns of each row: parts of its time, columns of its scene, columns of the behaviour table."""
    time, columns = plan.schema.time, dict[str, SceneColumn]()
    parts = [column for column in plan.schema.columns if column.part]
    if time and parts:
        _check_times(rows["time"].median(), time, parts)
        columns |= {column.name: _time_part(rows["time"], str(column.part), time) for column in parts}
    if scenes is not None:
        joined = _filled(scenes.reindex(pd.RangeIndex(len(scenes) + 1)), plan.homes["scenes"])
        at_E = rows["scene"].to_numpy("int32")
        columns |= {column.name: Entries(joined[column.name], at_E) for column in plan.homes["scenes"]}
    spans = spans_of(reading, rows.index)
    own = read_columns(plan.homes["behaviour"], reading, spans, rows.index, report)
    return Scene(columns | own, spans)


def _check_times(median: float, time: Time, parts: Sequence[Column]) -> None:
    """Refuse times of the far future, and warn of those of the seventies: they are hardly seconds since 1970."""
    named = f"the times in column {time.column!r}"
    what = f"have no true {' or '.join(column.name for column in parts)}"
    if median > FAR_FUTURE:
        raise ValueError(f"{named} lie beyond the year 5000, so they {what}; check `time.unit`, now {time.unit!r}.")
    if median < SEVENTIES:
        day = pd.Timestamp(median, unit="s").date()
        log.warning(
            "%s lie around %s, so they may %s: `time.unit` is %r, and dates such as 20250131 are to be texts such as "
            "2025-01-31",
            named,
            day,
            what,
            time.unit,
        )


def _time_part(seconds: pd.Series, part: str, time: Time) -> Entries:
    hours = pd.Series([*range(24), None], dtype="Int64")  # which every part of a time fits into
    return Entries(hours, time_part(seconds.to_numpy(), part, time.utc_offset).astype("int8"))


def _drop_missing(
    rows: pd.DataFrame,
    entities: Mapping[str, pd.DataFrame],
    scene: Scene,
    schema: FeatureSchema,
    report: CleaningReport,
) -> pd.DataFrame:
    """The rows that have a value in every column with `missing: drop`."""
    bad_E = np.zeros(len(rows), dtype=bool)
    for column in (c for c in schema.columns if c.missing == "drop" and c.name in entities.get(c.role, scene)):
        if column.role == "scene":
            missing_E = scene.missing(column.name)
        else:
            missing_E = entities[column.role][column.name].isna().to_numpy()[rows[column.role]]
        rule = f"{column.role} column has no value"
        report.add("behaviour", column.name, rule, int((missing_E & ~bad_E).sum()), "dropped")
        bad_E |= missing_E
    return rows[~bad_E] if bad_E.any() else rows


def _to_events(
    frames: Frames,
    words: pd.Series | None,
    users: pd.DataFrame,
    items: pd.DataFrame,
    scene: Scene,
    schema: FeatureSchema,
    report: CleaningReport,
) -> Events:
    rows = frames["behaviour"]
    found = {part: rows[part].to_numpy() for part in rows}
    time_E, order_E = found.get("time"), found.get("order")
    before_E = time_E if order_E is None else order_E
    return Events(
        users=users,
        items=items,
        scene=scene,
        user_E=found["user"],
        item_E=found["item"],
        label_E=_label(found.get("label"), schema, len(rows)),
        order_E=np.arange(len(rows), dtype="float64") if before_E is None else before_E,
        time_E=order_E if time_E is None else time_E,
        split_E=None if words is None else pd.Categorical.from_codes(found["split"], pd.Index(words)),
        oracle_E=found["oracle"].astype("float32") if "oracle" in found else None,
        past=_to_past(frames["history"]) if "history" in frames else None,
        candidates=_to_candidates(frames["candidates"]) if "candidates" in frames else None,
        report=report,
    )


def _to_past(past: pd.DataFrame) -> Past:
    order = past["order" if "order" in past else "time"]
    return Past(user_P=past["user"].to_numpy(), item_P=past["item"].to_numpy(), order_P=order.to_numpy())


def _to_candidates(frame: pd.DataFrame) -> GivenCandidates:
    frame = frame.sort_values("user", kind="stable")
    return GivenCandidates(user_C=frame["user"].to_numpy(), item_C=frame["item"].to_numpy())


def _label(values_E: np.ndarray | None, schema: FeatureSchema, count: int) -> np.ndarray:
    label = schema.label
    if label.kind == "implicit" or values_E is None:
        return np.ones(count, dtype="float32")
    if label.kind == "threshold":
        return (values_E >= (label.positive_from or 0.0)).astype("float32")
    return values_E.astype("float32")
