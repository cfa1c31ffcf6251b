"""Who gave what which value, as sparse matrices: what every classical model is fitted on.

`E`: events, `N`: distinct pairs of a user and an item, `U`: users, `I`: items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from recsys.data.split import TRAIN
from recsys.data.store import Store


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Distinct pairs of a user and an item by position, each with a value; make them by `from_events`.

    `implicit` pairs all have the value 1 and pairs that are not here count as 0; for ratings they are unknown.
    `scale` is the range of valid ratings.
    """

    user_N: np.ndarray
    item_N: np.ndarray
    value_N: np.ndarray
    users: int
    items: int
    implicit: bool = False
    scale: tuple[float, float] | None = None

    @staticmethod
    def from_events(
        user_E: np.ndarray,
        item_E: np.ndarray,
        value_E: np.ndarray | None = None,
        *,
        users: int,
        items: int,
        scale: tuple[float, float] | None = None,
    ) -> "Ratings":
        """Merge the events of each pair: ratings to their mean, and implicit events (no `value_E`) to one.

        Pairs keep the order of their first events, by which neighbours with equal similarities are told apart.

        Raises:
            ValueError: the lengths differ, a position lies outside its table, a value is not finite, or there is none.

        >>> ratings = Ratings.from_events([1, 0, 1], [0, 1, 0], [2.0, 5.0, 4.0], users=2, items=2)
        >>> ratings.by_user.toarray().tolist()
        [[0.0, 5.0], [3.0, 0.0]]
        """
        user_E, item_E = np.asarray(user_E, dtype="int64"), np.asarray(item_E, dtype="int64")
        given_E = np.ones(len(user_E)) if value_E is None else np.asarray(value_E, dtype="float64")
        _check(user_E, item_E, given_E, users, items)
        _, first_N, pair_E = np.unique(user_E * items + item_E, return_index=True, return_inverse=True)
        mean_N = np.bincount(pair_E, given_E) / np.bincount(pair_E)
        order_N = np.argsort(first_N)
        first_N = first_N[order_N]
        return Ratings(
            user_N=user_E[first_N],
            item_N=item_E[first_N],
            value_N=np.ones(len(first_N)) if value_E is None else mean_N[order_N],
            users=users,
            items=items,
            implicit=value_E is None,
            scale=scale,
        )

    @staticmethod
    def from_store(store: Store, *, implicit: bool, parts: Sequence[int] = (TRAIN,)) -> "Ratings":
        """The events of some parts of a store: the liked ones (`implicit`), or all of them with their labels.

        Labels of 0 and 1 have no scale: their estimates are cut nowhere, for that would make ties.
        """
        label = store.schema.label
        chosen_E = np.isin(store.part_E, parts)
        if implicit:
            chosen_E &= store.liked_E
        return Ratings.from_events(
            store.user_E[chosen_E],
            store.item_E[chosen_E],
            None if implicit else store.label_E[chosen_E],
            users=store.users,
            items=store.items,
            scale=label.range if label.kind == "rating" and not implicit else None,
        )

    @cached_property
    def by_user(self) -> csr_array:
        """The values, float64 (U, I); the items of a user in the order of their events."""
        return _grouped(self.user_N, self.item_N, self.value_N, (self.users, self.items))

    @cached_property
    def by_item(self) -> csr_array:
        """The values, float64 (I, U); the users of an item in the order of their events."""
        return _grouped(self.item_N, self.user_N, self.value_N, (self.items, self.users))


def _grouped(row_N: np.ndarray, column_N: np.ndarray, value_N: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """A CSR matrix whose rows keep the order of the pairs, for its transpose counts them in without sorting."""
    pair_N = np.arange(len(row_N), dtype="int32" if len(row_N) < 2**31 else "int64")
    rows_NR = csr_array((pair_N, row_N, np.arange(len(row_N) + 1)), shape=(len(row_N), shape[0])).tocsc()
    index = "int32" if max(len(row_N), *shape) < 2**31 else "int64"
    return csr_array((value_N[rows_NR.data], column_N[rows_NR.data].astype(index), rows_NR.indptr.astype(index)), shape)


def _check(user_E: np.ndarray, item_E: np.ndarray, value_E: np.ndarray, users: int, items: int) -> None:
    if not len(user_E) == len(item_E) == len(value_E):
        raise ValueError(f"users, items and values differ in length: {len(user_E)}, {len(item_E)}, {len(value_E)}.")
    if not len(user_E):
        raise ValueError("there are no training events to fit on; check `label.positive_from` and the split.")
    for name, position_E, size in (("user_E", user_E, users), ("item_E", item_E, items)):
        if position_E.min() < 0 or position_E.max() >= size:
            raise ValueError(
                f"`{name}` must be positions in [0, {size}), got {position_E.min()} to {position_E.max()}."
            )
    if not np.isfinite(value_E).all():
        raise ValueError("`value_E` must be finite; clean the labels first.")
