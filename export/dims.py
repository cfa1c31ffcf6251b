"""Shorter embedding vectors: the dimensions that matter least are taken out, and the rest is fitted to do without them.

Letters: B rows, D embedding dimension.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.func import functional_call

from export.prune import blank, narrower
from recsys.data.batches import Batch
from recsys.layers.embedding import FeatureEmbedding
from recsys.models.base import Recommender

TABLE, NUMBERS = "embedding.table.weight", "embedding.number"


def prune_dims(model: Recommender, batches: Iterable[Batch], keep: float) -> Recommender:
    """A model with the share `keep` of the dimensions of its features' vectors, ready to be taught by the whole one.

    Their number becomes a multiple of 8, at least 8. Dimensions go one after the other, each time the one without which
    the logits of `batches` move least; a thousand rows are enough. Layers lose the weights that read a dimension that
    goes; the objective, optimizer and schedule carry over.

    Raises ValueError when `keep` is not in (0, 1], the model has no vectors of features or `batches` is empty.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"`keep` must be a share of the embedding dimensions in (0, 1], got {keep}.")
    if not has_feature_vectors(model):
        raise ValueError(f"{type(model).__name__} has no vectors of features that could be shortened.")
    batches = list(batches)
    if not batches:
        raise ValueError("`batches` is empty: dimensions are ranked by what they do on data; give a few rows.")
    model = model.eval()
    state = dict(model.state_dict())
    dim = state[TABLE].shape[1]
    kept = _dims_that_matter(model, batches, narrower(dim, keep))
    pruned = blank(model, model.schema, embedding_dim=len(kept))
    for name, shorter in pruned.state_dict().items():
        if shorter.shape != state[name].shape:  # the vectors, and layers that read some of them one behind the other
            state[name] = state[name].unflatten(-1, (-1, dim))[..., kept].flatten(-2)
    pruned.load_state_dict(state)
    return pruned.eval()


def has_feature_vectors(model: Recommender) -> bool:
    """Whether there is anything that `prune_dims` could shorten."""
    return isinstance(getattr(model, "embedding", None), FeatureEmbedding)


@torch.no_grad()
def _dims_that_matter(model: Recommender, batches: list[Batch], count: int) -> list[int]:
    """The `count` dimensions that stay, in order."""
    vectors = {name: tensor for name, tensor in model.named_parameters() if name in (TABLE, NUMBERS)}

    def logits(without: list[int]) -> Tensor:
        gone = torch.tensor(without, dtype=torch.int64)
        changed = {name: tensor.index_fill(1, gone, 0.0) for name, tensor in vectors.items()}
        return torch.cat([functional_call(model, changed, (batch,)) for batch in batches])

    whole_B, gone, left = logits([]), list[int](), list(range(vectors[TABLE].shape[1]))
    while len(left) > count:
        moved = {dim: float((logits([*gone, dim]) - whole_B).square().sum()) for dim in left}
        gone.append(min(moved, key=moved.__getitem__))
        left.remove(gone[-1])
    return left
