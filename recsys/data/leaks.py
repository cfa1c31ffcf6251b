"""The leak check before training: nothing that training reads knows of validation or test rows, or of its own future.

It looks at the finished store and the training dataset, not at the code that built them, and at every row. Letters: E
events, H history entries, U users, G groups of equal rows.
"""

import itertools
import logging
from collections.abc import Iterator

import numpy as np
import pandas as pd

from recsys.data.batches import TrainRows
from recsys.data.encoders import UNSEEN, Vocabulary
from recsys.data.recount import encoder_leaks, kept_value
from recsys.data.split import TEST, TRAIN, VALID
from recsys.data.store import Store
from recsys.data.tables import SPLITS, TableSet
from recsys.schema import Role

log = logging.getLogger(__name__)
RULES = ("training rows", "encoders", "histories", "test pairs", "negatives", "duplicates")


class LeakError(ValueError):
    """Training would know what it is later asked; the message lists every finding, one per line."""


def check_leaks(train: TrainRows, tables: TableSet) -> None:
    """Refuse a training dataset that knows more than it may.

    - training rows: all are of the training part.
    - encoders: the counts of vocabularies and buckets, the moments of standardisers (to a float32's precision) and
      `label_mean` are those of the training rows. Missing values share the id of rare ones, so rare ones are counted
      at most; where a training row's tags fill the column's `length`, there may be more that the store does not hold,
      so tags are counted at least; a value that rounds up to a bucket's bound may stand below it.
    - histories: every entry is of the event's own user and strictly before the event. Unless there is a history table
      of its own, each is a positive of the event's own or an earlier part; where parts follow in time that is implied.
    - test pairs (implicit and rating labels): no user meets in valid or test an item of their training rows, unless
      a declared time or order says that all of these came before: a repeat is a later event.
    - negatives: the sampler's items and each user's free items are those of the training rows.
    - duplicates: no row of valid or test equals one of an earlier part in user, item, encoded scene, label and, where
      one is declared, time or order. Rows with a rare, unseen or missing value in their scene are left aside, for the
      store holds no more of it. A behaviour table with `duplicates: keep` says that equal rows are different events:
      they are logged as a warning.

    Raises LeakError with the rows and one example of every finding.
    """
    store = train.store
    findings = [
        *_row_leaks(train),
        *encoder_leaks(store),
        *_history_leaks(store, own=tables.history is not None),
        *_pair_leaks(store),
        *_sampler_leaks(train),
        *_duplicate_leaks(store, keep=tables.behaviour.duplicates == "keep"),
    ]
    if findings:
        raise LeakError("\n- ".join(["the leak check failed:", *findings]))


def _row_leaks(train: TrainRows) -> Iterator[str]:
    foreign = train.rows[train.store.part_E[train.rows] != TRAIN]
    if len(foreign):
        yield (
            f"training rows: {len(foreign)} of {len(train)} are of valid or test (such as "
            f"{_event(train.store, foreign[0])}); train on the training part only."
        )


def _history_leaks(store: Store, *, own: bool) -> Iterator[str]:
    """Faulty histories by the user and the order value stored with each entry."""
    row_E = np.flatnonzero(store.stop_E > store.start_E)
    start_E, stop_E = store.start_E[row_E], store.stop_E[row_E]
    user_H, order_H = store.history_user_H, store.history_order_H
    changed_H = np.diff(user_H, prepend=user_H[:1]) != 0
    falling_H = (np.diff(order_H, prepend=order_H[:1]) < 0) & ~changed_H
    faults = {
        "another user's past": (user_H[start_E] != store.user_E[row_E]) | _within(changed_H, start_E + 1, stop_E),
        "entries that are not oldest first": _within(falling_H, start_E + 1, stop_E),
        "the event itself or something later": order_H[stop_E - 1] >= store.order_E[row_E],
    }
    if not own and not _parts_follow(store):
        faults["what is no positive of its own or an earlier part"] = _beyond(store, row_E, start_E, stop_E)
    for fault, bad_E in faults.items():
        if bad_E.any():
            yield (
                f"histories: {fault} in {bad_E.sum()} of {len(store.part_E)} (such as that of "
                f"{_event(store, row_E[bad_E][0])}); take only the user's positives before each event and build the "
                "store again."
            )


def _within(flag_H: np.ndarray, start_E: np.ndarray, stop_E: np.ndarray) -> np.ndarray:
    """Whether any of `flag_H[start_E[e]:stop_E[e]]` is set, bool (E,)."""
    count_H = np.append(0, np.cumsum(flag_H))
    return count_H[stop_E] > count_H[start_E]


def _beyond(store: Store, row_E: np.ndarray, start_E: np.ndarray, stop_E: np.ndarray) -> np.ndarray:
    """Which histories hold an entry that is no positive of the event's own or an earlier part, bool (E,)."""
    liked = np.flatnonzero(store.liked_E)
    events = _pair(store, store.user_E[liked], store.item_E[liked])
    entries = _pair(store, store.history_user_H, store.history_H)
    pair = pd.factorize(np.concatenate([events, entries]))[0]
    code = _refined(pair, np.concatenate([store.order_E[liked], store.history_order_H]))
    first_G = np.full(len(code), TEST + 1)
    np.minimum.at(first_G, code[: len(liked)], store.part_E[liked])
    first_H = first_G[code[len(liked) :]]
    part_E = store.part_E[row_E]
    beyond_E = np.zeros(len(row_E), dtype=bool)
    for part in (TRAIN, VALID, TEST):
        beyond_E |= (part_E == part) & _within(first_H > part, start_E, stop_E)
    return beyond_E


def _pair_leaks(store: Store) -> Iterator[str]:
    if store.schema.label.kind not in ("implicit", "rating") or (_timed(store) and _parts_follow(store)):
        return
    code_E, pairs = pd.factorize(_pair(store, store.user_E, store.item_E))
    is_train_E = store.part_E == TRAIN
    last_P = np.full(len(pairs), -np.inf)
    np.maximum.at(last_P, code_E[is_train_E], store.order_E[is_train_E] if _timed(store) else np.inf)
    later = np.flatnonzero(~is_train_E)
    known = later[store.order_E[later] <= last_P[code_E[later]]]
    if len(known):
        yield (
            f"test pairs: a user and item of training in {len(known)} of {len(later)} valid and test rows (such as "
            f"{_event(store, known[0])}) that are not known to come later; keep each pair once "
            "(`tables.behaviour.duplicates: pairs`) or split by time."
        )


def _sampler_leaks(train: TrainRows) -> Iterator[str]:
    sampler, store = train.sampler, train.store
    if sampler is None:
        return
    is_train_E = store.part_E == TRAIN
    user_E, item_E = store.user_E[is_train_E], store.item_E[is_train_E]
    strange = np.setxor1d(sampler.pool, item_E)
    if len(strange):
        yield (
            f"negatives: the sampler's items differ from those of the training rows by {len(strange)} (such as item "
            f"{_name(store, 'item', strange[0])}); make it of the training rows only."
        )
    known = pd.unique(_pair(store, user_E, item_E)) // store.items
    free_U = len(sampler.pool) - np.bincount(known, minlength=store.users)
    wrong = np.flatnonzero(sampler.free_U != free_U)
    if len(wrong):
        yield (
            f"negatives: the sampler's free items are not those of the training rows for {len(wrong)} of {store.users} "
            f"users (such as user {_name(store, 'user', wrong[0])}: {sampler.free_U[wrong[0]]} instead of "
            f"{free_U[wrong[0]]}); make it of the training rows only."
        )


def _duplicate_leaks(store: Store, *, keep: bool) -> Iterator[str]:
    repeated = _repeated_rows(store)
    if not len(repeated):
        return
    judged = int((store.part_E != TRAIN).sum())
    found = (
        f"{len(repeated)} of {judged} valid and test rows stand in an earlier part as well (such as "
        f"{_event(store, repeated[0])})"
    )
    if keep:
        log.warning("%s; they are kept as events of their own, as `duplicates: keep` says", found)
    else:
        yield (
            f"duplicates: {found}; drop one of each, or declare what tells them apart (`time`, or a scene column); "
            "where they are different events, set `tables.behaviour.duplicates: keep`."
        )


def _repeated_rows(store: Store) -> np.ndarray:
    """The rows that equal a row of an earlier part, in all that tells events apart."""
    rows = _overlapping(store) if _timed(store) else np.arange(len(store.part_E))
    rows = rows[~_blurred(store, rows)]
    code = np.zeros(len(rows), dtype="int64")
    for column_E in _row_columns(store):
        code = _refined(code, column_E[rows])
        first_G, last_G = np.full(len(rows), TEST), np.full(len(rows), TRAIN)
        np.minimum.at(first_G, code, store.part_E[rows])
        np.maximum.at(last_G, code, store.part_E[rows])
        shared = (first_G < last_G)[code]
        later = store.part_E[rows] > first_G[code]
        rows, code, later = rows[shared], code[shared], later[shared]
    return rows[later]


def _blurred(store: Store, rows: np.ndarray) -> np.ndarray:
    """Which rows have a value in their scene that shares its id with others: a rare, unseen or missing one."""
    fields = [c.name for c in store.schema.fields if c.role == "scene"]
    scene = store.sides["scene"]
    blurred = np.zeros(len(rows), dtype=bool)
    for name, ids in (*zip(fields, scene.ids.T, strict=True), *scene.tags.items()):
        unseen = ids[rows] == store.schema.offset(name) + UNSEEN
        blurred |= unseen if unseen.ndim == 1 else unseen.any(1)
    return blurred


def _row_columns(store: Store) -> Iterator[np.ndarray]:
    """What tells events apart, each (E,)."""
    yield _pair(store, store.user_E, store.item_E)
    if _timed(store):
        yield store.order_E
    yield store.label_E
    scene = store.sides["scene"]
    for columns in (scene.ids, scene.numbers, *scene.tags.values()):
        yield from columns.T


def _pair(store: Store, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """One number for a user and an item, int64."""
    return user.astype("int64") * store.items + item


def _refined(code: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Numbers from 0 on, equal where both the numbers `code` and `column` are equal."""
    value, distinct = pd.factorize(column)
    return pd.factorize(code * len(distinct) + value)[0]


def _timed(store: Store) -> bool:
    """Whether the order of events is declared, not that of the file's rows."""
    history = store.schema.history
    return store.schema.time is not None or (history is not None and history.order is not None)


def _spans(store: Store) -> list[tuple[float, float]]:
    """The first and the last order value of each part that has rows."""
    order_of = [store.order_E[store.part_E == part] for part in range(len(SPLITS))]
    return [(order.min(), order.max()) for order in order_of if len(order)]


def _parts_follow(store: Store) -> bool:
    """Whether no event of a later part comes before one of an earlier part."""
    spans = _spans(store)
    return all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def _overlapping(store: Store) -> np.ndarray:
    """The rows whose order value lies in the span of another part as well; the others cannot stand in two parts."""
    inside_E = sum(((store.order_E >= low) & (store.order_E <= high)).astype("int8") for low, high in _spans(store))
    return np.flatnonzero(inside_E > 1)


def _event(store: Store, row: int) -> str:
    user, item = _name(store, "user", store.user_E[row]), _name(store, "item", store.item_E[row])
    return f"row {row}, user {user}, item {item}"


def _name(store: Store, role: Role, position: int) -> str:
    """A user's or item's key where its vocabulary knows it, else its position in the store."""
    key = store.schema.user if role == "user" else store.schema.item
    fields = [c.name for c in store.schema.fields if c.role == role]
    if key in fields:
        local = int(store.sides[role].ids[position, fields.index(key)]) - store.schema.offset(key)
        vocabulary = store.encoders.columns[key]
        assert isinstance(vocabulary, Vocabulary)
        if local != UNSEEN:
            return kept_value(vocabulary, local)
    return f"no. {position}"
