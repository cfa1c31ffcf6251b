"""Assign every event to train, valid or test."""

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from recsys.data.events import Events
from recsys.data.tables import SPLITS

log = logging.getLogger(__name__)
TRAIN, VALID, TEST = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How events are split.

    - `time`: the last share `test` of the events in time is test, the share `valid` before it valid. Events of one
      moment never stand on both sides of a cut.
    - `leave_one_out`: each user's last event (in `history.order`, else in time; the later row where equal) is
      test, the one before valid; users with fewer than three events
      stay in train.
    - `random`: shares drawn with `seed`.
    - `column`: the behaviour table's `column` holds the words train, valid and test (files given per split do). Where
      none says valid, the share `valid` of the training rows is drawn at random with `seed`, even where a time is
      declared; all rows of a user and an item are drawn together.
    - `fold`: the behaviour table's `column` numbers the folds of a cross-validation; the rows of number `fold` are
      test, and the share `valid` of the others is drawn as for `column`.
    """

    by: Literal["time", "leave_one_out", "random", "column", "fold"] = "time"
    valid: float = 0.1
    test: float = 0.1
    column: str = "split"
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("valid", "test"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be a share between 0 and 1, got {getattr(self, name)}.")
        if self.valid + self.test >= 1:
            raise ValueError(f"`valid` + `test` must leave rows to train on, got {self.valid} + {self.test}.")


def split_events(split: Split, events: Events) -> np.ndarray:
    """The part of each event, int8 (E,): 0 train, 1 valid, 2 test.

    Raises ValueError when the split is impossible: no time column, a part that stays empty, an unknown word in
    the split column, files given per split but another split asked for.
    """
    if split.by in ("time", "leave_one_out") and events.time_E is None:
        raise ValueError(
            f"`split.by={split.by}` needs `time: {{column: ...}}`; without one, use split.by=random or column."
        )
    if split.by not in ("column", "fold") and events.split_E is not None:
        raise ValueError(f"the behaviour table has files per split, so use split.by=column, not {split.by}.")
    parts = {
        "time": _by_time,
        "leave_one_out": _leave_one_out,
        "random": _random,
        "column": _by_column,
        "fold": _by_fold,
    }[split.by](split, events)
    for number, name in enumerate(SPLITS):
        if not (parts == number).any():
            raise ValueError(f"`split.by={split.by}` leaves no rows in {name} of {len(parts)}: {_advice(split)}")
    return parts.astype("int8")


def _advice(split: Split) -> str:
    return {
        "time": "are all timestamps equal, or `valid` and `test` too small?",
        "leave_one_out": "no user has three events; use split.by=time or random.",
        "random": "give `valid` and `test` larger shares.",
        "column": f"column {split.column!r} must hold train, valid and test.",
        "fold": f"column {split.column!r} must hold two folds at least.",
    }[split.by]


def _by_time(split: Split, events: Events) -> np.ndarray:
    assert events.time_E is not None, "split_events refuses events without a time"
    ordered = np.sort(events.time_E)
    last = len(ordered)
    valid_from = ordered[min(last - 1, round(last * (1 - split.valid - split.test)))]
    test_from = ordered[min(last - 1, round(last * (1 - split.test)))]
    return (events.time_E >= valid_from).astype("int8") + (events.time_E >= test_from)


def _leave_one_out(split: Split, events: Events) -> np.ndarray:  # noqa: ARG001 - one signature for all splits
    order = np.lexsort((events.order_E, events.user_E))
    user = events.user_E[order]
    ends = np.flatnonzero(np.append(user[1:] != user[:-1], True))
    counts = np.diff(ends, prepend=-1)
    parts = np.zeros(len(user), dtype="int8")
    parts[order[ends[counts >= 3]]] = TEST
    parts[order[ends[counts >= 3] - 1]] = VALID
    return parts


def _random(split: Split, events: Events) -> np.ndarray:
    count = len(events.user_E)
    rank = np.random.default_rng(split.seed).permutation(count)
    test = round(count * split.test)
    return np.where(rank < test, TEST, np.where(rank < test + round(count * split.valid), VALID, TRAIN))


def _by_column(split: Split, events: Events) -> np.ndarray:
    assert events.split_E is not None, "the split column is read with the behaviour table"
    code_E, words = pd.factorize(events.split_E)
    numbers = {name: number for number, name in enumerate(SPLITS)}
    part_of = pd.Series(words).astype("str").str.strip().str.lower().map(numbers)
    unknown = part_of.isna()
    if unknown.any() or (code_E < 0).any():
        word = words[unknown.to_numpy()][0] if unknown.any() else None
        raise ValueError(f"column {split.column!r} must hold train, valid or test, got {word!r}.")
    parts_E = part_of.to_numpy("int8")[code_E]
    return parts_E if (parts_E == VALID).any() else _with_valid(split, events, parts_E)


def _by_fold(split: Split, events: Events) -> np.ndarray:
    assert events.split_E is not None, "the split column is read with the behaviour table"
    code_E, words = pd.factorize(events.split_E)
    fold_E = pd.Series(np.append(pd.to_numeric(pd.Series(words), errors="coerce").to_numpy("float64"), np.nan)[code_E])
    if not (fold_E == split.fold).any():
        folds = ", ".join(f"{fold:g}" for fold in sorted(fold_E.dropna().unique())[:10])
        raise ValueError(f"column {split.column!r} has no fold {split.fold}; it has: {folds or 'no numbers'}.")
    return _with_valid(split, events, np.where(fold_E == split.fold, TEST, TRAIN))


def _with_valid(split: Split, events: Events, parts_E: np.ndarray) -> np.ndarray:
    """The parts, with the share `valid` of the training rows drawn for validation."""
    train = np.flatnonzero(parts_E == TRAIN)
    drawn = train[_drawn_pairs(split, events.user_E[train], events.item_E[train])]
    parts_E[drawn] = VALID
    log.info(
        "the data has no validation part: %s of %s training rows drawn for it", f"{len(drawn):,}", f"{len(train):,}"
    )
    return parts_E


def _drawn_pairs(split: Split, user_T: np.ndarray, item_T: np.ndarray) -> np.ndarray:
    """Which training rows are drawn, bool (T,): whole pairs of user and item until the share `valid` is reached."""
    pair_T = pd.factorize(user_T.astype("int64") * (int(item_T.max(initial=0)) + 1) + item_T)[0]
    order = np.random.default_rng(split.seed).permutation(pair_T.max(initial=-1) + 1)
    rows = np.bincount(pair_T)[order]
    drawn = order[np.cumsum(rows) - rows < round(len(pair_T) * split.valid)]
    return np.isin(pair_T, drawn)
