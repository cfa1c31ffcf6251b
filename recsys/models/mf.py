"""Matrix factorization with biases."""

from typing import Unpack

import torch
from torch import Tensor

from recsys.data.batches import Batch
from recsys.layers.embedding import PairEmbedding
from recsys.models.base import Recommender, Training
from recsys.schema import FeatureSchema


class MF(Recommender):
    """Matrix factorization (Koren et al. 2009, doi:10.1109/MC.2009.263, eq. 4): mu + b_u + b_i + <p_u, q_i>."""

    def __init__(
        self,
        schema: FeatureSchema,
        *,
        embedding_dim: int = 32,
        embedding_std: float = 0.1,
        embedding_l2: float = 0.0,
        sparse: bool = False,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(schema, **training)
        self.factors = PairEmbedding(self.schema, embedding_dim, std=embedding_std, sparse=sparse, l2=embedding_l2)
        self.biases = PairEmbedding(self.schema, 1, std=0.01, sparse=sparse, l2=embedding_l2)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (or ratings), float32 (B,)."""
        user_BD, item_BD = self.factors(batch).unbind(1)
        return self.bias + self.biases(batch).sum((1, 2)) + torch.linalg.vecdot(user_BD, item_BD)

    @property
    def separable(self) -> bool:
        """Always: [p_u, mu + b_u, 1] . [q_i, 1, b_i]."""
        return True

    def user_vector(self, context: Batch) -> Tensor:
        """[p_u, mu + b_u, 1], (1, D + 2)."""
        bias_B1 = self.biases.user(context)
        return torch.cat([self.factors.user(context), self.bias + bias_B1, torch.ones_like(bias_B1)], 1)

    def item_vectors(self, items: Batch) -> Tensor:
        """[q_i, 1, b_i], (N, D + 2)."""
        bias_B1 = self.biases.item(items)
        return torch.cat([self.factors.item(items), torch.ones_like(bias_B1), bias_B1], 1)
