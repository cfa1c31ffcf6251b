"""The base class of all classical recommenders: the verbs, the answers for cold users and items, and the state.

`B`: rows, `U`: users, `I`: items, `K`: places of a list.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np

from recsys.classical.ratings import Ratings

BLOCK = 2**22  # scores held at once while ranking


class Classical(ABC):
    """A model that is fitted in one go.

    A subclass names its settings as keywords, learns arrays in `_fit` and scores pairs whose user and item both had
    training rows in `_score`. Everything learned lies in `learned`, plain arrays by name, so a model is saved without
    pickle: `settings` and `learned` rebuild it (`restore`). `feedback` says what it can be fitted on.
    """

    feedback: ClassVar[tuple[Literal["ratings", "implicit"], ...]] = ("ratings", "implicit")

    def __init__(self) -> None:
        self.learned: dict[str, np.ndarray] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's keywords as plain values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], learned: Mapping[str, np.ndarray]) -> Self:
        """The model that had these `settings` and `learned` these arrays."""
        model = cls(**settings)
        model.learned = dict(learned)
        return model

    def fit(self, ratings: Ratings) -> Self:
        """Learn from scratch. Raises ValueError where the model does not fit such feedback."""
        self.check_feedback(implicit=ratings.implicit)
        by_user, by_item = ratings.by_user, ratings.by_item
        count_U, count_I = np.diff(by_user.indptr), np.diff(by_item.indptr)
        self.learned = {
            "implicit": np.array(ratings.implicit),
            "scale": np.array(ratings.scale or (-np.inf, np.inf)),
            "mean": np.array(ratings.value_N.mean()),
            "count_U": count_U,
            "count_I": count_I,
            "mean_U": by_user.sum(axis=1) / np.maximum(count_U, 1),
            "mean_I": by_item.sum(axis=1) / np.maximum(count_I, 1),
            "seen_start_U": by_user.indptr,
            "seen_item_N": by_user.indices,
        }
        self.learned |= self._fit(ratings)
        return self

    def check_feedback(self, *, implicit: bool) -> None:
        """Raise ValueError where the model cannot be fitted on such feedback."""
        given = "implicit" if implicit else "ratings"
        if given not in self.feedback:
            use = "svd, nmf or item_knn" if given == "ratings" else "ials, ease or item_knn"
            raise ValueError(f"{type(self).__name__} cannot be fitted on {given} feedback; use model={use}.")

    @property
    def users(self) -> int:
        """Number of users."""
        return len(self._of("count_U"))

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self._of("count_I"))

    def score(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        """Estimated ratings inside the scale, or implicit scores (more is better), float64 (B,).

        A position outside the tables (-1, say) or without training rows is cold and answered by `prior`.
        """
        user_B, item_B = _known(user_B, self._of("count_U")), _known(item_B, self._of("count_I"))
        warm_B = (user_B >= 0) & (item_B >= 0)
        score_B = self.prior(user_B, item_B)
        score_B[warm_B] = self._score(user_B[warm_B], item_B[warm_B])
        return np.clip(score_B, *self.learned["scale"])

    def score_items(self, user_U: np.ndarray) -> np.ndarray:
        """What all items are ranked by for each user, float64 (U, I); cold users get `prior`, unseen items too."""
        user_U = _known(user_U, self._of("count_U"))
        item_I = _known(np.arange(self.items), self.learned["count_I"])
        score_UI = np.empty((len(user_U), self.items))
        warm_U = user_U >= 0
        score_UI[warm_U] = self._score_items(user_U[warm_U])
        users, items = np.nonzero(~warm_U[:, None] | (item_I < 0))
        score_UI[users, items] = self.prior(user_U[users], item_I[items])
        return score_UI

    def top_k(self, user_U: np.ndarray, k: int, *, exclude_seen: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of each user, int64 (U, K), and their scores (U, K); -1 and -inf where items run out.

        Equal scores are ordered by position. Raises ValueError when k is below 1.
        """
        if k < 1:
            raise ValueError(f"`k` must be at least 1, got {k}.")
        user_U = np.asarray(user_U, dtype="int64")
        k = min(k, self.items)
        item_UK, score_UK = np.empty((len(user_U), k), dtype="int64"), np.empty((len(user_U), k))
        for block in blocks(len(user_U), self.items):
            score = self.score_items(user_U[block])
            if exclude_seen:
                score[self.seen(user_U[block])] = -np.inf
            item_UK[block] = np.argsort(-score, axis=1, kind="stable")[:, :k]
            score_UK[block] = np.take_along_axis(score, item_UK[block], axis=1)
        item_UK[score_UK == -np.inf] = -1
        return item_UK, score_UK

    def seen(self, user_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places of a (U, I) matrix whose item the user met in training, as a pair of index arrays."""
        user_U, start_U = _known(user_U, self._of("count_U")), self.learned["seen_start_U"]
        length_U = np.where(user_U >= 0, self.learned["count_U"][user_U], 0)
        row_N, at_N = ragged(start_U[user_U], length_U)
        return row_N, self.learned["seen_item_N"][at_N]

    def prior(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        """The answer for cold users or items (-1), float64 (B,).

        Ratings: the item's mean, else the user's, else the mean of all. Implicit: the item's share of the users.
        """
        learned = self.learned
        if learned["implicit"]:
            return np.where(item_B >= 0, learned["count_I"][item_B] / max(1, self.users), 0.0)
        user = np.where(user_B >= 0, learned["mean_U"][user_B], learned["mean"])
        return np.where(item_B >= 0, learned["mean_I"][item_B], user)

    @abstractmethod
    def _fit(self, ratings: Ratings) -> dict[str, np.ndarray]:
        """The arrays that this model learns, by name."""

    @abstractmethod
    def _score(self, user_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        """Scores of pairs whose user and item both had training rows, float (B,)."""

    def vectors(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The vectors (U, D) and (I, D) whose products are the scores of `_score`; None where a model has none."""
        return None

    def _score_items(self, user_U: np.ndarray) -> np.ndarray:
        """Scores of all items for users that had training rows, float (U, I); those of cold items are not used."""
        user, item = np.broadcast_arrays(user_U[:, None], np.arange(self.items))
        return self._score(user.ravel(), item.ravel()).reshape(user.shape)

    def _of(self, name: str) -> np.ndarray:
        if not self.learned:
            raise RuntimeError(f"{type(self).__name__} has learned nothing yet: call fit() first.")
        return self.learned[name]


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of `rows` such that a block of that `width` holds about `BLOCK` values."""
    size = max(1, BLOCK // max(1, width))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def by_block(row_B: np.ndarray, rows: int, width: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of `rows` as by `blocks`, each with the places of `row_B` that lie in it, int64 (N,).

    >>> [(block.start, places.tolist()) for block, places in by_block(np.array([3, 0, 1]), 4, BLOCK // 2)]
    [(0, [1, 2]), (2, [0])]
    """
    order_B = np.argsort(row_B, kind="stable")
    sorted_B = row_B[order_B]
    for block in blocks(rows, width):
        first, last = np.searchsorted(sorted_B, (block.start, block.stop))
        yield block, order_B[first:last]


def ragged(start_B: np.ndarray, length_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For runs that start at `start_B`: the run that each element belongs to, and where it lies, int64 (N,) each.

    >>> ragged(np.array([5, 0]), np.array([2, 1]))
    (array([0, 0, 1]), array([5, 6, 0]))
    """
    row_N = np.repeat(np.arange(len(length_B)), length_B)
    before_B = np.cumsum(length_B) - length_B
    return row_N, np.arange(len(row_N)) + (np.asarray(start_B, dtype="int64") - before_B)[row_N]


def _known(position_B: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Positions, with -1 for those outside the table or without training rows."""
    position_B = np.asarray(position_B, dtype="int64")
    inside_B = (position_B >= 0) & (position_B < len(count))
    return np.where(inside_B & (count[np.where(inside_B, position_B, 0)] > 0), position_B, -1)
