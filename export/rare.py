"""Shorter tables: rare values share the row of unseen ones."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from export.prune import rebuild
from recsys.data.encoders import Encoder, Encoders, Vocabulary
from recsys.layers.embedding import FeatureEmbedding, PairEmbedding
from recsys.models.base import Recommender
from recsys.schema import PADDING, FeatureSchema


def prune_rows(model: Recommender, encoders: Encoders, min_count: int) -> tuple[Recommender, Encoders]:
    """The model and its encoders with all values of fewer than `min_count` training rows counted as unseen.

    The scores of other values stay as they are. The rows of unseen values stay, too: the mean of the rare values in
    their place would also be what truly new values get, and cost more there than it won (on MovieLens-100k by time).

    Raises ValueError when `min_count` is below 1, or the encoders are not those of the model.
    """
    if min_count < 1:
        raise ValueError(f"`min_count` must be at least 1, got {min_count}.")
    if encoders.fingerprint != model.schema.encoders:
        raise ValueError("`encoders` are not the model's own; take encoders.json from the folder of its run.")
    fewer = Encoders(columns={name: _raise_min_count(e, min_count) for name, e in encoders.columns.items()})
    schema = model.schema.fitted(sizes=fewer.sizes(), label_mean=model.schema.label_mean, encoders=fewer.fingerprint)
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, FeatureEmbedding | PairEmbedding):
            columns = _columns(module, schema)
            state[f"{name}.table.weight"] = _shorten(module.table.weight.detach(), columns, encoders, min_count)
    return rebuild(model, schema, state), fewer


def min_count_for(encoders: Encoders, rows: int) -> int:
    """The least `min_count` with which the shared table has at most `rows` rows.

    Raises ValueError when even the rows that always stay (padding, unseen values, buckets) are more.
    """
    counts = [_counts(e) for e in encoders.columns.values() if isinstance(e, Vocabulary)]
    count_V = np.sort(np.concatenate([np.empty(0, "int64"), *counts]))[::-1]
    always = PADDING + 1 + sum(encoders.sizes().values()) - len(count_V)
    if rows < always:
        raise ValueError(f"`rows` must be at least {always}: padding, unseen values and buckets stay; got {rows}.")
    left = rows - always
    return 1 if left >= len(count_V) else int(count_V[left]) + 1


def _counts(vocabulary: Vocabulary) -> np.ndarray:
    """The counts of the values that have rows, in the rows' order."""
    count_V = np.asarray(vocabulary.counts, dtype="int64")
    return count_V[count_V >= vocabulary.min_count]


def _raise_min_count(encoder: Encoder, min_count: int) -> Encoder:
    if not isinstance(encoder, Vocabulary):
        return encoder
    return dataclasses.replace(encoder, min_count=max(encoder.min_count, min_count))


def _columns(module: FeatureEmbedding | PairEmbedding, schema: FeatureSchema) -> list[str]:
    """The columns whose rows a table holds, in order, behind the padding row."""
    if isinstance(module, PairEmbedding):
        return [schema.user, schema.item]
    return [c.name for c in (*schema.fields, *schema.tags)]


def _shorten(table_RD: Tensor, columns: Sequence[str], encoders: Encoders, min_count: int) -> Tensor:
    parts, start = [table_RD[: PADDING + 1]], PADDING + 1
    for name in columns:
        encoder = encoders.columns[name]
        rows_RD = table_RD[start : start + encoders.sizes()[name]]
        start += len(rows_RD)
        if isinstance(encoder, Vocabulary):
            stays_R = np.concatenate([[True], _counts(encoder) >= min_count])  # the unseen row first
            rows_RD = rows_RD[torch.from_numpy(stays_R)]
        parts.append(rows_RD)
    return torch.cat(parts)
