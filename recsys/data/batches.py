"""A batch is a few tensors, however many columns; the datasets and samplers that make one without per-row Python.

Letters: B rows of a batch, F id fields, N numbers, L list length, T tags per item.
"""

import logging
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from recsys.data.negatives import NegativeSampler
from recsys.data.split import TRAIN
from recsys.data.store import Store
from recsys.schema import PADDING, ROLES, history_name

if TYPE_CHECKING:
    from recsys.data.resident import Resident

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """What every model reads.

    `ids_BF`: int64 rows of the shared embedding table, one per field of `schema.fields`. `numbers_BN`: float32.
    `lists`: tags (B, T), history categories (B, L) and history tags (B, L, T), int64, 0 is padding and stands at
    the end. `label_B`: float32.

    A batch may hold the columns of some roles only: one user in one scene, or items alone (see `recsys.data.request`).
    """

    ids_BF: Tensor
    numbers_BN: Tensor
    lists: dict[str, Tensor]
    label_B: Tensor

    def __len__(self) -> int:
        return len(self.label_B)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch on another device."""
        return Batch(
            self.ids_BF.to(device, non_blocking=non_blocking),
            self.numbers_BN.to(device, non_blocking=non_blocking),
            {name: ids.to(device, non_blocking=non_blocking) for name, ids in self.lists.items()},
            self.label_B.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, from which copies to a GPU overlap with computation."""
        lists = {name: ids.pin_memory() for name, ids in self.lists.items()}
        return replace(
            self,
            ids_BF=self.ids_BF.pin_memory(),
            numbers_BN=self.numbers_BN.pin_memory(),
            lists=lists,
            label_B=self.label_B.pin_memory(),
        )


def make_batch(
    store: Store,
    user_B: np.ndarray,
    item_B: np.ndarray,
    row_B: np.ndarray,
    label_B: np.ndarray,
    reads: Container[str] | None = None,
) -> Batch:
    """Join users, items and the scene and history of events, all given by position, into one batch.

    Of the lists only those in `reads` are made, the columns and histories that a model reads; all of them for None.
    """
    positions = {"user": user_B, "item": item_B, "scene": row_B}
    parts = [(store.sides[role], positions[role]) for role in ROLES]
    ids_BF = np.concatenate([side.ids.take(at, 0) for side, at in parts], axis=1, dtype="int64")
    numbers_BN = np.concatenate([side.numbers.take(at, 0) for side, at in parts], axis=1)
    tags = [(name, ids, at) for side, at in parts for name, ids in side.tags.items() if reads is None or name in reads]
    lists = {name: torch.from_numpy(ids.take(at, 0).astype("int64")) for name, ids, at in tags}
    return Batch(
        torch.from_numpy(ids_BF),
        torch.from_numpy(numbers_BN),
        lists | _history_lists(store, row_B, reads),
        torch.from_numpy(np.asarray(label_B, dtype="float32")),
    )


def _history_lists(store: Store, row_B: np.ndarray, reads: Container[str] | None) -> dict[str, Tensor]:
    """The history columns of events, as wide as the longest history of the batch (at least 1)."""
    columns = [c for c in store.schema.histories if reads is None or history_name(c.name) in reads]
    if not columns:
        return {}
    start_B, stop_B = store.start_E[row_B], store.stop_E[row_B]
    width = max(1, int((stop_B - start_B).max(initial=0)))
    at_BL = start_B[:, None] + np.arange(width)
    valid_BL = at_BL < stop_B[:, None]
    history_H = store.history_H if len(store.history_H) else np.zeros(1, dtype="int32")
    item_BL = history_H[np.minimum(at_BL, len(history_H) - 1)]
    side = store.sides["item"]
    fields = [c.name for c in store.schema.fields if c.role == "item"]
    lists = {}
    for column in columns:
        if column.is_field:
            ids, valid = side.ids[:, fields.index(column.name)][item_BL], valid_BL
        else:
            ids, valid = side.tags[column.name][item_BL], valid_BL[:, :, None]
        lists[history_name(column.name)] = torch.from_numpy(np.where(valid, ids, PADDING).astype("int64"))
    return lists


class Batches(Dataset[Batch]):
    """A dataset whose items are whole batches; `reads` says which lists of them a model reads (see `make_batch`).

    Where there is a `resident`, it makes the batches on its device.
    """

    store: Store
    reads: Container[str] | None = None
    resident: "Resident | None" = None

    def _make(self, user_B: np.ndarray, item_B: np.ndarray, row_B: np.ndarray, label_B: np.ndarray) -> Batch:
        if self.resident:
            return self.resident.batch(user_B, item_B, row_B, label_B, self.reads)
        return make_batch(self.store, user_B, item_B, row_B, label_B, self.reads)


class Rows(Batches):
    """Labelled events of some parts; indexed by an array of positions among them."""

    def __init__(self, store: Store, *parts: int) -> None:
        self.store = store
        self.rows = np.flatnonzero(np.isin(store.part_E, parts))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index_B: np.ndarray) -> Batch:
        row_B, store = self.rows[index_B], self.store
        if self.resident:
            return self.resident.events(row_B, self.reads)
        return self._make(store.user_E[row_B], store.item_E[row_B], row_B, store.label_E[row_B])


class TrainRows(Rows):
    """Training events, those of some `parts`; for implicit data, freshly drawn negatives follow each positive.

    Indexed by (positions, key) as `Shuffled` yields them; the key seeds the draw, so every step of every epoch has
    its own. With negatives a batch has B * (1 + negatives) rows, the positive first in each group. `sampler` draws
    them; labelled events have none.
    """

    def __init__(self, store: Store, *parts: int) -> None:
        super().__init__(store, *(parts or (TRAIN,)))
        self.sampler = self._make_sampler() if store.schema.label.kind == "implicit" else None

    def _make_sampler(self) -> NegativeSampler:
        users, items = self.store.user_E[self.rows], self.store.item_E[self.rows]
        sampler = NegativeSampler(users, items, users=self.store.users)
        usable = sampler.has_negatives_U[users]
        if not usable.any():
            raise ValueError(
                f"every user is positive with all {len(sampler.pool)} items of the training rows: no negatives exist."
            )
        if not usable.all():
            log.warning("%d training rows left out: their users took every item", int((~usable).sum()))
            self.rows = self.rows[usable]
        return sampler

    def __getitem__(self, draw: tuple[np.ndarray, tuple[int, ...]]) -> Batch:  # type: ignore[override]
        index_B, key = draw
        if self.sampler is None:
            return super().__getitem__(index_B)
        group = 1 + self.store.schema.label.negatives
        row_B = np.repeat(self.rows[index_B], group)
        user_B = self.store.user_E[row_B]
        item_B = self.sampler.sample(user_B, np.random.default_rng(key))
        item_B[::group] = self.store.item_E[row_B[::group]]
        label_B = np.zeros(len(row_B), dtype="float32")
        label_B[::group] = 1.0
        return self._make(user_B, item_B, row_B, label_B)


GROUP = 64  # blocks whose rows are shuffled together


class Shuffled(Sampler[tuple[np.ndarray, tuple[int, ...]]]):
    """A fresh permutation each epoch, cut into batches; `rank` of `world` takes its share of every global batch.

    With `block`, blocks of so many neighbouring rows are permuted, then the rows of every `GROUP` blocks among each
    other: only these are in use at a time, so that data larger than memory are read from disk in whole blocks, once an
    epoch.

    All ranks take the same number of steps. A last batch with fewer than two rows per rank is left out of the epoch:
    batch norm cannot use it, and the next epoch shuffles anew. `start` = (epoch, batch) leaves out the batches that
    a resumed run has had; the length is a whole epoch's all the same.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: tuple[int, int] = (0, 0),
        block: int | None = None,
    ) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world, self.start, self.block = rank, world, start, block
        self.epoch = start[0]

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.batch_size * self.world)
        return whole + (rest >= (2 if whole else 1) * self.world)

    def __iter__(self) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
        size = self.batch_size * self.world
        done = self.start[1] if self.epoch == self.start[0] else 0
        batches = _cut(self._order(done * size), size)
        for step, batch in zip(range(done, len(self)), batches, strict=False):
            yield batch[self.rank :: self.world], (self.seed, self.epoch, step, self.rank)

    def _order(self, skip: int) -> Iterator[np.ndarray]:
        """The epoch's order without its first `skip` rows, piece by piece."""
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.block is None:
            yield rng.permutation(self.count)[skip:]
            return
        first = rng.permutation(np.arange(0, self.count, self.block))
        for group in range(0, len(first), GROUP):
            starts = first[group : group + GROUP]
            lengths = np.minimum(self.block, self.count - starts)
            if skip < lengths.sum():
                rows = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
                yield np.random.default_rng((self.seed, self.epoch, group)).permutation(rows)[skip:]
            skip = max(0, skip - int(lengths.sum()))


def _cut(pieces: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The rows of all pieces, `size` at a time."""
    held = np.empty(0, dtype="int64")
    for piece in pieces:
        held = np.concatenate([held, piece])
        for start in range(0, len(held) - size + 1, size):
            yield held[start : start + size]
        held = held[len(held) // size * size :]
    if len(held):
        yield held


class InOrder(Sampler[np.ndarray]):
    """Every position exactly once, in order; each rank takes a contiguous run of the batches.

    The batches are the same however many ranks there are, so that scores are the same to the last bit. Units of `unit`
    positions (the candidates of a query) stay together: several in a batch, or one in several batches. All ranks take
    as many steps; a rank with fewer batches ends on empty ones.
    """

    def __init__(self, count: int, batch_size: int, *, unit: int = 1, rank: int = 0, world: int = 1) -> None:
        self.count, self.batch_size = count, batch_size
        self.block = max(1, batch_size // unit) * unit
        blocks = -(-count // self.block)
        self.first, self.last = (blocks * r // world for r in (rank, rank + 1))
        self.steps = -(-blocks // world) * -(-self.block // batch_size)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[np.ndarray]:
        yielded = 0
        for block in range(self.first, self.last):
            stop = min(self.count, (block + 1) * self.block)
            for start in range(block * self.block, stop, self.batch_size):
                yield np.arange(start, min(stop, start + self.batch_size))
                yielded += 1
        for _ in range(self.steps - yielded):
            yield np.arange(0)
