"""The items of a shop inside a graph: found by key, each with its attributes as the model reads them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import spox.opset.ai.onnx.v20 as op
import torch
from spox import Var

from export.builder import GraphBuilder
from export.vocabularies import look_up
from recsys.data.batches import Batch
from recsys.data.cells import fill_missing
from recsys.data.encoders import Encoders
from recsys.data.store import Side, encode_side
from recsys.schema import FeatureSchema

UNKNOWN, MISSING = 0, -1  # places of keys that the catalogue does not hold, and of missing ones


def raw_keys(keys: pd.Series) -> np.ndarray:
    """A cleaned key column as graphs compare it, int64 or texts."""
    return keys.to_numpy(np.int64 if isinstance(keys.dtype, pd.Int64Dtype) else np.str_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The keys (I,) of all items, int64 or texts, and their encoded columns behind a first row, an unknown item's."""

    keys: np.ndarray
    side: Side

    @staticmethod
    def build(schema: FeatureSchema, encoders: Encoders, items: pd.DataFrame) -> "Catalogue":
        """From the cleaned items table (`Events.items`)."""
        keys = items[schema.item]
        frame = items.reindex([-1, *items.index])
        for column in (c for c in schema.columns if c.role == "item"):
            if column.fill is not None:
                frame[column.name] = fill_missing(frame[column.name], column.fill)
        return Catalogue(keys=raw_keys(keys), side=encode_side(schema, encoders, frame, "item"))

    def places(self, keys: Var) -> Var:
        """Where raw keys stand, int64, of their shape: 1 + position, `UNKNOWN` or `MISSING`."""
        return look_up(keys, self.keys, first=1, unseen=UNKNOWN, missing=MISSING)

    def batch(self, places: slice) -> Batch:
        """The items at some places as a batch of item columns."""
        side, count = self.side, len(self.side.ids[places])
        return Batch(
            torch.from_numpy(side.ids[places].astype("int64")),
            torch.from_numpy(side.numbers[places]),
            {name: torch.from_numpy(ids[places].astype("int64")) for name, ids in side.tags.items()},
            torch.zeros(count),
        )

    def ids(self, graph: GraphBuilder, places: Var) -> Var:
        """Rows of the shared table of the items at some places, int64, one more dimension (F)."""
        return op.cast(op.gather(graph.weight("catalogue/ids", self.side.ids), places), to=np.int64)

    def numbers(self, graph: GraphBuilder, places: Var) -> Var:
        """Their numbers, float32, one more dimension (N)."""
        return op.gather(graph.weight("catalogue/numbers", self.side.numbers), places)

    def tags(self, graph: GraphBuilder, name: str, places: Var) -> Var:
        """The rows of their tags, int64, one more dimension (T)."""
        return op.cast(op.gather(graph.weight(f"catalogue/{name}", self.side.tags[name]), places), to=np.int64)
