"""The whole dataset on the training device: a batch is a few gathers there, and what travels are row numbers.

Letters: B rows of a batch, L list length, H history entries.
"""

from collections.abc import Container, Sequence

import numpy as np
import torch
from torch import Tensor

from recsys.data.batches import Batch
from recsys.data.store import Side, Store
from recsys.schema import PADDING, ROLES, history_name


class Resident:
    """A store's encoded columns as tensors on a device; makes the batches that `make_batch` makes.

    Raises ValueError where a GPU's free memory does not hold them.
    """

    def __init__(self, store: Store, device: torch.device) -> None:
        events = (store.user_E, store.item_E, store.label_E)
        arrays = [a for side in store.sides.values() for a in (side.ids, side.numbers, *side.tags.values())]
        size = sum(array.nbytes for array in (*arrays, *events, store.history_H))
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else size
        if size > free:
            raise ValueError(
                f"`on_device` needs {size / 2**30:.1f} GiB for the dataset, but {device} has {free / 2**30:.1f} GiB "
                "free; set `on_device=false`."
            )
        self.store, self.device = store, device
        self.user_E, self.item_E, self.label_E = map(self._moved, events)
        self.ids = {role: self._moved(side.ids) for role, side in store.sides.items()}
        self.numbers = {role: self._moved(side.numbers) for role, side in store.sides.items()}
        self.tags = {role: self._moved_tags(side) for role, side in store.sides.items()}
        self.history_H = self._moved(store.history_H if len(store.history_H) else np.zeros(1, dtype="int32"))

    def _moved(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def _sent(self, array: np.ndarray) -> Tensor:
        """A part of a batch on the device; a GPU is not waited for."""
        part = torch.from_numpy(array)
        return (part.pin_memory() if self.device.type == "cuda" else part).to(self.device, non_blocking=True)

    def _moved_tags(self, side: Side) -> dict[str, Tensor]:
        return {name: self._moved(ids) for name, ids in side.tags.items()}

    def events(self, row_B: np.ndarray, reads: Container[str] | None = None) -> Batch:
        """The batch of events with the users, items and labels that they have in the store."""
        at_B = self._sent(row_B)
        return self._joined((self.user_E[at_B], self.item_E[at_B], at_B), self.label_E[at_B], row_B, reads)

    def batch(
        self,
        user_B: np.ndarray,
        item_B: np.ndarray,
        row_B: np.ndarray,
        label_B: np.ndarray,
        reads: Container[str] | None = None,
    ) -> Batch:
        """What `make_batch` makes of the same arguments, on the device."""
        positions = [self._sent(position_B) for position_B in (user_B, item_B, row_B)]
        return self._joined(positions, self._sent(np.asarray(label_B, dtype="float32")), row_B, reads)

    def _joined(
        self, positions: Sequence[Tensor], label_B: Tensor, row_B: np.ndarray, reads: Container[str] | None
    ) -> Batch:
        at = dict(zip(ROLES, (position_B.long() for position_B in positions), strict=True))
        tags = {
            name: ids[at[role]].long()
            for role in ROLES
            for name, ids in self.tags[role].items()
            if reads is None or name in reads
        }
        return Batch(
            torch.cat([self.ids[role][at[role]] for role in ROLES], 1).long(),
            torch.cat([self.numbers[role][at[role]] for role in ROLES], 1),
            tags | self._history_lists(row_B, reads),
            label_B,
        )

    def _history_lists(self, row_B: np.ndarray, reads: Container[str] | None) -> dict[str, Tensor]:
        """The history columns of events, as wide as the longest history of the batch (at least 1)."""
        schema = self.store.schema
        columns = [c for c in schema.histories if reads is None or history_name(c.name) in reads]
        if not columns:
            return {}
        start_B, stop_B = self.store.start_E[row_B], self.store.stop_E[row_B]
        width = max(1, int((stop_B - start_B).max(initial=0)))
        at_BL = self._sent(start_B)[:, None] + torch.arange(width, device=self.device)
        valid_BL = at_BL < self._sent(stop_B)[:, None]
        item_BL = self.history_H[at_BL.clamp(max=len(self.history_H) - 1)].long()
        fields = [c.name for c in schema.fields if c.role == "item"]
        lists = {}
        for column in columns:
            if column.is_field:
                ids, valid = self.ids["item"][:, fields.index(column.name)][item_BL], valid_BL
            else:
                ids, valid = self.tags["item"][column.name][item_BL], valid_BL[:, :, None]
            lists[history_name(column.name)] = ids.long().masked_fill(~valid, PADDING)
        return lists
