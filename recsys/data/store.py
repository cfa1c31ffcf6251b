"""The encoded store: every column as ids and numbers on disk, memory-mapped, written once and atomically.

The store keeps the tables apart: user columns once per user, item columns once per item, scene columns once per
event. A batch joins them by position, so a candidate item or a sampled negative brings its own attributes along.
"""

import json
import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from recsys.data.encoders import Encoder, Encoders, Summary, add, fit_encoder
from recsys.data.events import Events, GivenCandidates
from recsys.data.history import build_histories
from recsys.data.progress import counted
from recsys.data.scene import Scene, Span
from recsys.data.split import TRAIN
from recsys.data.tables import SPLITS
from recsys.data.workers import THREADS, Workers
from recsys.schema import PADDING, ROLES, Column, FeatureSchema, Role

log = logging.getLogger(__name__)
VERSION = 6
META = "meta.json"
ITEMS = "items.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The encoded columns of one role: ids in the shared table (n, F), numbers (n, N), tags by name (n, T)."""

    ids: np.ndarray
    numbers: np.ndarray
    tags: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """An opened store. Suffix E: events, H: history entries; `part_E` is 0 train, 1 valid, 2 test.

    `sides` holds the user, item and scene columns (scene: one row per event). The history of event e is
    `history_H[start_E[e]:stop_E[e]]`, item positions, oldest first; `history_user_H` and `history_order_H` hold the
    user and the order value of each entry. `candidates` are those that a table gives.
    """

    folder: Path
    schema: FeatureSchema
    encoders: Encoders
    cleaning: dict[str, Any]
    sides: dict[Role, Side]
    user_E: np.ndarray
    item_E: np.ndarray
    label_E: np.ndarray
    order_E: np.ndarray
    part_E: np.ndarray
    oracle_E: np.ndarray | None
    history_H: np.ndarray
    history_user_H: np.ndarray
    history_order_H: np.ndarray
    start_E: np.ndarray
    stop_E: np.ndarray
    candidates: GivenCandidates | None

    @property
    def users(self) -> int:
        """Number of users."""
        return len(self.sides["user"].ids)

    @property
    def items(self) -> int:
        """Number of items in the catalogue."""
        return len(self.sides["item"].ids)

    @property
    def titles(self) -> pa.Array:
        """What people call each item, texts (items,), read from disk at every call: its title, else its key."""
        return pa.parquet.read_table(self.folder / ITEMS, columns=["title"])["title"].combine_chunks()

    @property
    def liked_E(self) -> np.ndarray:
        """Which events are positive, bool (E,); for ratings, those from `label.positive_from` on."""
        return liked(self.schema, self.label_E)


def liked(schema: FeatureSchema, label_E: np.ndarray) -> np.ndarray:
    """Which labels count as positive, bool (E,)."""
    if schema.label.kind != "rating":
        return label_E > 0
    threshold = schema.label.positive_from
    return np.full(len(label_E), True) if threshold is None else label_E >= np.float32(threshold)


def row_counts(store: Store) -> np.ndarray:
    """How often each row of the shared table occurs in the training rows, histories included, int64 (rows,)."""
    train_E = store.part_E == TRAIN
    weights = {
        "user": np.bincount(store.user_E[train_E], minlength=store.users),
        "item": np.bincount(store.item_E[train_E], minlength=store.items),
        "scene": train_E.astype("int64"),
    }
    blocks = [(ids, weights[role]) for role, side in store.sides.items() for ids in (side.ids, *side.tags.values())]
    if store.schema.history:
        edges_H = np.zeros(len(store.history_H) + 1, dtype="int64")
        np.add.at(edges_H, store.start_E[train_E], 1)
        np.add.at(edges_H, store.stop_E[train_E], -1)
        weight_I = np.bincount(store.history_H, np.cumsum(edges_H)[:-1], minlength=store.items)
        item = store.sides["item"]
        fields = [c.name for c in store.schema.fields if c.role == "item"]
        for column in store.schema.histories:
            ids = item.ids[:, [fields.index(column.name)]] if column.is_field else item.tags[column.name]
            blocks.append((ids, weight_I))
    counts = np.zeros(store.schema.rows)
    for ids, weight in blocks:
        counts += np.bincount(ids.ravel(), np.repeat(weight, ids.shape[1]), minlength=len(counts))
    counts[PADDING] = 0
    return counts.astype("int64")


def fit_encoders(schema: FeatureSchema, events: Events, part_E: np.ndarray, workers: Workers = THREADS) -> Encoders:
    """Fit every column's encoder on the training rows; an attribute counts once per training row that shows it."""
    train_E = part_E == TRAIN
    tables = {"user": (events.users, events.user_E), "item": (events.items, events.item_E)}
    weights = {role: np.bincount(at_E[train_E], minlength=len(frame)) for role, (frame, at_E) in tables.items()}
    columns, own = events.scene.columns, [column for column in schema.columns if column.role == "scene"]

    def summarise(span: Span) -> dict[str, Summary]:
        train_S = train_E[span.start : span.stop]
        return {column.name: columns[column.name].summary(column, span, train_S) for column in own}

    def both(one: dict[str, Summary], other: dict[str, Summary]) -> dict[str, Summary]:
        return {name: add(summary, other[name]) for name, summary in one.items()}

    summaries = reduce(both, workers.map(summarise, events.scene.spans))

    def fit(column: Column) -> Encoder:
        if column.role == "scene":
            return columns[column.name].fit(column, summaries[column.name])
        return fit_encoder(column, tables[column.role][0][column.name], weights[column.role])

    fitted = THREADS.map(fit, schema.columns)
    return Encoders(columns={c.name: encoder for c, encoder in zip(schema.columns, fitted, strict=True)})


def _encode(schema: FeatureSchema, encoders: Encoders, column: Column, values: pd.Series) -> np.ndarray:
    """A column's values: rows of the shared table, int32 (n,); tags (n, T); or float32 numbers (n,)."""
    if column.kind == "tags":
        local = encoders.encode_tags(column.name, values, column.length)
        return np.where(local < 0, PADDING, local + schema.offset(column.name)).astype("int32")
    if column.is_field:
        return (encoders.encode_ids(column.name, values) + schema.offset(column.name)).astype("int32")
    return encoders.encode_number(column.name, values)


def encode_side(schema: FeatureSchema, encoders: Encoders, frame: pd.DataFrame, role: Role) -> Side:
    """The columns of one role as rows of the shared table, numbers and tags."""
    side = _empty_side(schema, role, len(frame), lambda _, shape, dtype: np.empty(shape, dtype))
    for column, place in _places(schema, side, role):
        place[:] = _encode(schema, encoders, column, frame[column.name])
    return side


def _empty_side(
    schema: FeatureSchema, role: Role, rows: int, make: Callable[[str, tuple[int, int], str], np.ndarray]
) -> Side:
    """The arrays of a side, made by their name, shape and type."""
    fields, numbers = (sum(c.role == role for c in group) for group in (schema.fields, schema.numbers))
    tags = [c for c in schema.tags if c.role == role]
    return Side(
        ids=make(f"{role}.ids", (rows, fields), "int32"),
        numbers=make(f"{role}.numbers", (rows, numbers), "float32"),
        tags={c.name: make(f"{role}.tags.{c.name}", (rows, c.length), "int32") for c in tags},
    )


def _places(schema: FeatureSchema, side: Side, role: Role) -> list[tuple[Column, np.ndarray]]:
    """Each column of a role and where its values stand in the side: a column of an array, or one of its own."""
    fields, numbers = ([c for c in group if c.role == role] for group in (schema.fields, schema.numbers))
    places = [*zip(fields, side.ids.T, strict=True), *zip(numbers, side.numbers.T, strict=True)]
    return places + [(c, side.tags[c.name]) for c in schema.tags if c.role == role]


def write_scene(
    draft: Path, schema: FeatureSchema, encoders: Encoders, scene: Scene, workers: Workers = THREADS
) -> None:
    """Encode the scene columns span by span into files of arrays.

    Each span writes its own bytes: pages that two machines map would hold rows of both, and the later one would win.
    """
    rows = scene.spans[-1].stop

    def create(name: str, shape: tuple[int, int], dtype: str) -> np.ndarray:
        if not all(shape):
            np.save(draft / f"{name}.npy", np.empty(shape, dtype))  # an empty file cannot be mapped
            return np.empty(shape, dtype)
        return np.lib.format.open_memmap(draft / f"{name}.npy", mode="w+", shape=shape, dtype=dtype)

    def prepare(column: Column) -> Callable[[Span], np.ndarray]:
        return columns[column.name].encoded(partial(_encode, schema, encoders, column))

    def encode(span: Span) -> int:
        count = span.stop - span.start
        side = _empty_side(schema, "scene", count, lambda _, shape, dtype: np.empty(shape, dtype))
        for (_, place), encoded in zip(_places(schema, side, "scene"), prepared, strict=True):
            place[:] = encoded(span)
        named = {"ids": side.ids, "numbers": side.numbers} | {f"tags.{n}": a for n, a in side.tags.items()}
        for name, array in named.items():
            _write_rows(draft / f"scene.{name}.npy", span.start, array)
        return count

    columns = scene.columns
    order = [column for column, _ in _places(schema, _empty_side(schema, "scene", rows, create), "scene")]
    prepared = list(THREADS.map(prepare, order))
    list(counted(workers.map(encode, scene.spans), int, "encoding", rows))


def _write_rows(path: Path, start: int, array_SX: np.ndarray) -> None:
    """Write rows, from `start` on, over those of an array in a file."""
    if array_SX.nbytes:
        offset = np.load(path, mmap_mode="r").offset
        with path.open("r+b") as file:
            file.seek(offset + start * array_SX[0].nbytes)
            file.write(array_SX.data)


def write_store(
    folder: Path, schema: FeatureSchema, events: Events, part_E: np.ndarray, workers: Workers = THREADS
) -> None:
    """Fit the encoders, encode everything and write the store to `folder`, which appears whole or not at all."""
    _refuse_one_label(schema, events.label_E, part_E)
    encoders = fit_encoders(schema, events, part_E, workers)
    schema = schema.fitted(
        sizes=encoders.sizes(),
        label_mean=_label_mean(schema, events.label_E[part_E == TRAIN]),
        encoders=encoders.fingerprint,
    )
    arrays = {
        "user_E": events.user_E,
        "item_E": events.item_E,
        "label_E": events.label_E,
        "order_E": events.order_E,
        "part_E": part_E,
    }
    if events.oracle_E is not None:
        arrays["oracle_E"] = events.oracle_E
    if events.candidates is not None:
        arrays |= {"candidates.user_C": events.candidates.user_C, "candidates.item_C": events.candidates.item_C}
    length = schema.history.length if schema.history else 0
    if length:
        histories = build_histories(events, part_E, liked(schema, events.label_E), length)
        arrays |= {"history_H": histories.item_H, "start_E": histories.start_E, "stop_E": histories.stop_E}
        arrays |= {"history_user_H": histories.user_H, "history_order_H": histories.order_H}
    frames: dict[Role, pd.DataFrame] = {"user": events.users, "item": events.items}
    for role, frame in frames.items():
        side = encode_side(schema, encoders, frame, role)
        arrays |= {f"{role}.ids": side.ids, f"{role}.numbers": side.numbers}
        arrays |= {f"{role}.tags.{name}": ids for name, ids in side.tags.items()}

    def write(draft: Path) -> None:
        for name, array in arrays.items():
            np.save(draft / f"{name}.npy", array)
        with ThreadPoolExecutor(1) as beside:
            saved = beside.submit(encoders.save, draft / "encoders.json")
            write_scene(draft, schema, encoders, events.scene, workers)
        saved.result()
        pa.parquet.write_table(_items_table(schema, events), draft / ITEMS)
        meta = {
            "version": VERSION,
            "schema": schema.to_dict(),
            "cleaning": events.report.to_dict(),
            "candidates": events.candidates is not None,
        }
        (draft / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")

    write_atomically(folder, write)


def _items_table(schema: FeatureSchema, events: Events) -> pa.Table:
    """The key and the title of every item as texts; the key stands for a missing title."""
    key = pa.array(events.items[schema.item].astype("str"), pa.large_string())
    title = key if events.titles is None else pa.array(events.titles, pa.large_string(), from_pandas=True)
    return pa.table({"key": key, "title": pc.coalesce(title, key)})


def _label_mean(schema: FeatureSchema, label_T: np.ndarray) -> float:
    """The mean training label; for implicit data the share of positives among the rows that training draws."""
    if schema.label.kind == "implicit":
        return 1 / (1 + schema.label.negatives)
    return float(label_T.mean(dtype="float64"))


def _refuse_one_label(schema: FeatureSchema, label_E: np.ndarray, part_E: np.ndarray) -> None:
    """Without two kinds of labels there is nothing to learn, and no AUC to watch or to report."""
    if schema.label.kind == "implicit":
        return
    for part, name in enumerate(SPLITS[:1] if schema.label.kind == "rating" else SPLITS):
        label = label_E[part_E == part]
        if (label == label[0]).all():
            raise ValueError(
                f"all {len(label)} {name} labels are {label[0]:g} (label column {schema.label.column!r}): nothing "
                "could be learned or judged; check `label.column`, `label.positive_from` and the split."
            )


def write_atomically(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder beside `folder`, then rename it; a finished `folder` is left alone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name  # inside, for the scratch folder itself is closed to other users
        draft.mkdir()
        write(draft)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            log.info("another process finished %s first", folder)


def open_store(folder: Path) -> Store:
    """Memory-map a store."""
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    schema = FeatureSchema.parse(meta["schema"])

    def load(name: str) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    has_history = schema.history is not None
    pa.parquet.read_metadata(folder / ITEMS)  # raises where the file is damaged; its titles are read when asked for
    return Store(
        folder=folder,
        schema=schema,
        encoders=Encoders.load(folder / "encoders.json"),
        cleaning=meta["cleaning"],
        sides={role: _open_side(schema, role, load) for role in ROLES},
        user_E=load("user_E"),
        item_E=load("item_E"),
        label_E=load("label_E"),
        order_E=load("order_E"),
        part_E=load("part_E"),
        oracle_E=load("oracle_E") if schema.label.oracle else None,
        history_H=load("history_H") if has_history else np.empty(0, dtype="int32"),
        history_user_H=load("history_user_H") if has_history else np.empty(0, dtype="int32"),
        history_order_H=load("history_order_H") if has_history else np.empty(0),
        start_E=load("start_E") if has_history else np.empty(0, dtype="int64"),
        stop_E=load("stop_E") if has_history else np.empty(0, dtype="int64"),
        candidates=_open_candidates(load) if meta["candidates"] else None,
    )


def _open_candidates(load: Callable[[str], np.ndarray]) -> GivenCandidates:
    return GivenCandidates(user_C=load("candidates.user_C"), item_C=load("candidates.item_C"))


def _open_side(schema: FeatureSchema, role: Role, load: Callable[[str], np.ndarray]) -> Side:
    tags = {c.name: load(f"{role}.tags.{c.name}") for c in schema.tags if c.role == role}
    return Side(ids=load(f"{role}.ids"), numbers=load(f"{role}.numbers"), tags=tags)
