"""Rankings as datasets: each query of a part joined with the items that are to be ranked for it.

Letters: B rows of a batch, Q queries, C candidates of a query, I items, K places of a ranking.
"""

import copy
import logging

import numpy as np

from recsys.data.batches import Batch, Batches
from recsys.data.events import GivenCandidates
from recsys.data.negatives import NegativeSampler
from recsys.data.store import Store
from recsys.data.tables import SPLITS

log = logging.getLogger(__name__)
EXCLUDED = -1.0


class Candidates(Batches):
    """Full ranking: every user with something to find, joined with every item of the catalogue.

    A query is a user's first liked event in the part: its scene and its history are what the recommender knows at
    that moment. Position p is query p // width with the item at place p % width. `label_B` is 1 for items the user
    liked in this part, 0 for others and `EXCLUDED` for items the user already met in an earlier part (in the behaviour
    table, whatever the label; a history table of its own is not consulted).
    """

    note = ""

    def __init__(self, store: Store, part: int) -> None:
        self.store, self.width = store, store.items
        self._keys = _Keys(store, part)
        found = self._keys.found
        ordered = found[np.lexsort((found, store.order_E[found]))]
        _, first = np.unique(store.user_E[ordered], return_index=True)
        self.rows_Q = ordered[first]

    def __len__(self) -> int:
        return len(self.rows_Q) * self.width

    def items(self, query_B: np.ndarray, place_B: np.ndarray) -> np.ndarray:  # noqa: ARG002 - one signature for both
        """The item at a place of a query."""
        return place_B

    def labels(self, user_B: np.ndarray, item_B: np.ndarray, place_B: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """1, 0 or `EXCLUDED` for users and items."""
        return self._keys.labels(user_B, item_B)

    def top_items(self, place_QK: np.ndarray) -> np.ndarray:
        """The items at some places of every query, -1 where the place is -1."""
        query_Q = np.arange(len(place_QK))[:, None]
        return np.where(place_QK < 0, -1, self.items(query_Q, place_QK)).astype("int64")

    def liked_items(self) -> np.ndarray:
        """The item of every right answer, one entry per query and item."""
        relevant = self._keys.relevant
        asked = np.isin(relevant // self.store.items, self.store.user_E[self.rows_Q])
        return relevant[asked] % self.store.items

    def head(self, count: int) -> "Candidates":
        """The first `count` queries alone."""
        first = copy.copy(self)
        first.rows_Q = self.rows_Q[:count]
        return first

    def __getitem__(self, position_B: np.ndarray) -> Batch:
        query_B, place_B = position_B // self.width, position_B % self.width
        row_B, item_B = self.rows_Q[query_B], self.items(query_B, place_B)
        user_B = self.store.user_E[row_B]
        label_B = self.labels(user_B, item_B, place_B)
        return self._make(user_B, np.maximum(item_B, 0), row_B, label_B)


class FewCandidates(Candidates):
    """Sampled ranking: every liked event joined with its item and some that the user has not met.

    Those are the `candidates` of the store where a table gives them (and `given` allows it), else `count` different
    items drawn uniformly among the items met by anyone so far and not by the user, the same ones in every run; all of
    these where there are fewer. Such figures flatter and may even order models wrongly (Krichene and Rendle 2020,
    doi:10.1145/3394486.3403226), so the names of their metrics carry the `note`.

    Queries without any other item are left out with a warning. Raises ValueError when that leaves none.
    """

    def __init__(self, store: Store, part: int, count: int, *, given: bool) -> None:
        super().__init__(store, part)
        self.rows_Q = self._keys.found
        user_Q = store.user_E[self.rows_Q]
        if given and store.candidates is not None:
            others_QC, word, reason = _given(store.candidates, user_Q, store.users), "given", "are given no candidates"
        else:
            others_QC, word, reason = _drawn(store, part, user_Q, count), "sampled", "have met every item"
        usable_Q = others_QC.max(axis=1) >= 0
        _report_unusable(SPLITS[part], usable_Q, reason)
        self.rows_Q = self.rows_Q[usable_Q]
        self.item_QC = np.column_stack([store.item_E[self.rows_Q], others_QC[usable_Q]])
        self.width = self.item_QC.shape[1]
        self.note = f"[{self.width - 1} {word}]"

    def items(self, query_B: np.ndarray, place_B: np.ndarray) -> np.ndarray:
        """The liked item at place 0, then the others; -1 where a query has fewer."""
        return self.item_QC[query_B, place_B]

    def labels(self, user_B: np.ndarray, item_B: np.ndarray, place_B: np.ndarray) -> np.ndarray:
        """1 at place 0; another liked item among the others is no wrong answer, so it is left out."""
        label_B = self._keys.labels(user_B, item_B)
        return np.where(place_B == 0, 1.0, np.where((label_B == 0) & (item_B >= 0), 0.0, EXCLUDED))

    def liked_items(self) -> np.ndarray:
        """The item of every query."""
        return self.store.item_E[self.rows_Q]


class _Keys:
    """What each user met before a part, and the events of the part that hold something new and liked."""

    def __init__(self, store: Store, part: int) -> None:
        self._items = store.items
        key_E = self._key(store.user_E, store.item_E)
        self._seen = np.unique(key_E[store.part_E < part])
        found = np.flatnonzero((store.part_E == part) & store.liked_E)
        self.found = found[~_member(key_E[found], self._seen)]
        self.relevant = np.unique(key_E[self.found])

    def _key(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        return user_B.astype("int64") * self._items + item_B

    def labels(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        key_B = self._key(user_B, item_B)
        return np.where(_member(key_B, self._seen), EXCLUDED, _member(key_B, self.relevant))


def _report_unusable(part: str, usable_Q: np.ndarray, reason: str) -> None:
    """Warn of queries without any other item; raise ValueError where no query has one."""
    count, left_out = len(usable_Q), int((~usable_Q).sum())
    if count and left_out == count:
        raise ValueError(
            f"the users of all {count} {part} queries {reason}, so there is nothing to rank against; "
            "set `evaluation.candidates: null` to rank the whole catalogue."
        )
    if left_out:
        log.warning("%d of %d %s queries left out: their users %s", left_out, count, part, reason)


def _given(candidates: GivenCandidates, user_Q: np.ndarray, users: int) -> np.ndarray:
    """Each query's given items (Q, C), -1 behind shorter lists."""
    counts_U = np.bincount(candidates.user_C, minlength=users)
    start_Q, count_Q = (np.cumsum(counts_U) - counts_U)[user_Q], counts_U[user_Q]
    place_C = np.arange(max(1, counts_U.max(initial=0)))
    at_QC = np.minimum(start_Q[:, None] + place_C, max(0, len(candidates.item_C) - 1))
    return np.where(place_C < count_Q[:, None], candidates.item_C[at_QC], -1)


def _drawn(store: Store, part: int, user_Q: np.ndarray, count: int) -> np.ndarray:
    """`count` different items for each query that its user has not met up to and in this part, (Q, C), by seed 0.

    -1 where there are fewer.
    """
    known = store.part_E <= part
    sampler = NegativeSampler(store.user_E[known], store.item_E[known], users=store.users)
    return sampler.sample_distinct(user_Q, count, np.random.default_rng(0))


def _member(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which keys stand in the sorted array `known`."""
    if not len(known):
        return np.zeros(len(keys), dtype=bool)
    return known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys
