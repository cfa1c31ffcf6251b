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
