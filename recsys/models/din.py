"""Deep interest network: the user's past, weighted by what it says about the candidate."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from recsys.data.batches import Batch
from recsys.data.store import row_counts
from recsys.layers.attention import LocalActivationUnit
from recsys.layers.embedding import FeatureEmbedding, HistoryEmbedding
from recsys.layers.mlp import MLP, Part, linear_of_parts
from recsys.models.base import Recommender, Training
from recsys.schema import CONTEXT, ITEM, FeatureSchema


class DIN(Recommender):
    """Deep interest network (Zhou et al. 2018, arXiv:1706.06978, eq. 3).

    All columns' vectors beside the attention-weighted history enter an MLP. History columns share the rows of
    the columns they repeat, and one attention weight per past item serves all of them. `activation` (relu, prelu
    or dice) is used in the MLP and in the attention; `softmax` normalises the attention weights, which the paper
    leaves out. `minibatch_aware_l2` is the paper's regularisation (eq. 6): rows pay only in batches that hold them,
    each once, and the less the more often they occur in the training data.
    """

    row_counts: Tensor

    def __init__(
        self,
        schema: FeatureSchema,
        *,
        embedding_dim: int = 16,
        embedding_std: float = 0.1,
        hidden: Sequence[int] = (200, 80),
        attention_hidden: Sequence[int] = (64, 16),
        activation: str = "dice",
        softmax: bool = False,
        dropout: float = 0.0,
        embedding_l2: float = 0.0,
        minibatch_aware_l2: float = 0.0,
        sparse: bool = False,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(schema, **training)
        if not minibatch_aware_l2 >= 0:
            raise ValueError(f"`minibatch_aware_l2` must not be negative, got {minibatch_aware_l2}.")
        self.minibatch_aware_l2 = minibatch_aware_l2
        self.register_buffer("row_counts", torch.ones(self.schema.rows), persistent=False)
        self.history = HistoryEmbedding(self.schema)
        self.embedding = FeatureEmbedding(self.schema, embedding_dim, std=embedding_std, sparse=sparse, l2=embedding_l2)
        interest = embedding_dim * len(self.history.columns)
        self.attention = LocalActivationUnit(interest, attention_hidden, activation=activation, softmax=softmax)
        width = self.embedding.columns * embedding_dim + 2 * interest
        self.mlp = MLP(width, hidden, activation=activation, dropout=dropout)
        self.out = nn.Linear(self.mlp.out_features, 1, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (or ratings), float32 (B,)."""
        query_BD, key_BLD, mask_BL = self.history(batch, self.embedding.table)
        logit_B = self.logits(batch, query_BD, self.attention(query_BD, key_BLD, mask_BL))
        if self.training and self.minibatch_aware_l2:
            self.embedding.table.penalty = self.embedding.table.penalty + self._minibatch_aware_penalty(batch)
        return logit_B

    def logits(self, batch: Batch, query_BD: Tensor, interest_BD: Tensor) -> Tensor:
        """Logits (or ratings), float32 (B,), of candidates with the users' interest in them."""
        profile_BD = self.embedding(batch).flatten(1)
        deep_BD = self.mlp(torch.cat([profile_BD, interest_BD, interest_BD * query_BD], 1))
        return self.bias + self.out(deep_BD).squeeze(1)

    def forward_candidates(self, context: Batch, items: Batch) -> Tensor:
        """Logits (N,) of N items for one user in one scene; the history is looked up and projected once."""
        query_ND = self.history.candidates(items, self.embedding.table)
        interest_ND = self.attention(query_ND, *self.history.past(context, self.embedding.table))
        item_ND = self.embedding(items, ITEM).flatten(1)
        width = self.embedding.columns * self.embedding.table.embedding_dim
        behind = range(width, width + 2 * interest_ND.shape[1])
        parts = [
            Part(self.embedding(context, CONTEXT).flatten(1), self.embedding.flat_places(CONTEXT)),
            Part(
                torch.cat([item_ND, interest_ND, interest_ND * query_ND], 1),
                [*self.embedding.flat_places(ITEM), *behind],
            ),
        ]
        return self.bias + linear_of_parts(self.out, self.mlp.forward_parts(parts)).squeeze(1)

    def on_fit_start(self) -> None:
        """Learn how often each table row occurs in the training data (n_j of eq. 6)."""
        if self.minibatch_aware_l2:
            counts = row_counts(self.trainer.datamodule.store)  # type: ignore[attr-defined]
            self.row_counts = torch.from_numpy(counts).float().clamp(min=1).to(self.device)

    def _minibatch_aware_penalty(self, batch: Batch) -> Tensor:
        """(l2 / 2) * sum of ||w_j||^2 / n_j over the distinct rows j of the batch."""
        used_R = torch.cat([ids.flatten() for ids in (batch.ids_BF, *batch.lists.values())]).unique()
        vector_RD = self.embedding.table.fetch(used_R)
        return 0.5 * self.minibatch_aware_l2 * (vector_RD.square().sum(1) / self.row_counts[used_R]).sum()
