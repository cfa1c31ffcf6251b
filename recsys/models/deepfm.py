"""DeepFM: a factorization machine and a deep network over the same embeddings."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from recsys.data.batches import Batch
from recsys.layers.embedding import FeatureEmbedding
from recsys.layers.fm import fm, fm_of_parts
from recsys.layers.mlp import MLP, Part, linear_of_parts
from recsys.models.base import Recommender, Training
from recsys.schema import CONTEXT, ITEM, FeatureSchema


class DeepFM(Recommender):
    """DeepFM (Guo et al. 2017, arXiv:1703.04247, eq. 1-4): first order + FM + MLP, one shared embedding.

    Numbers enter all three parts: the value times a learned weight or vector, as eq. 2 treats every feature.
    With `history`, the mean vector of a user's past items is one more column (Covington et al. 2016, sec. 3.2), without
    a first-order weight: it tells users apart whom training has not met.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        *,
        embedding_dim: int = 16,
        embedding_std: float = 0.1,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        embedding_l2: float = 0.0,
        history: bool = False,
        sparse: bool = False,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(schema, **training)
        self.embedding = FeatureEmbedding(
            self.schema, embedding_dim, std=embedding_std, sparse=sparse, l2=embedding_l2, history=history
        )
        self.first_order = FeatureEmbedding(self.schema, 1, std=1e-4, sparse=sparse, l2=embedding_l2)
        self.mlp = MLP(self.embedding.columns * embedding_dim, hidden, dropout=dropout, batch_norm=batch_norm)
        self.out = nn.Linear(self.mlp.out_features, 1, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (or ratings), float32 (B,)."""
        if self.training and self.embedding.number is not None:
            return self._logit_of_parts(batch, self.embedding.number)
        emb_BFD = self.embedding(batch)
        deep_B = self.out(self.mlp(emb_BFD.flatten(1))).squeeze(1)
        return self.bias + self.first_order(batch).sum((1, 2)) + fm(emb_BFD) + deep_B

    def _logit_of_parts(self, batch: Batch, number_ND: Tensor) -> Tensor:
        """The same without a vector per row and number: their part of each sum is taken out of it."""
        emb_BFD = self.embedding.looked_up(batch)
        first_B = self.first_order.sum(batch).squeeze(1)
        return self.bias + first_B + self._interactions(emb_BFD, batch.numbers_BN, number_ND)

    def _interactions(self, emb_BFD: Tensor, numbers_BN: Tensor, number_ND: Tensor) -> Tensor:
        """The deep network and the pairs (B,) of the looked-up vectors and of the numbers' vectors."""
        flat_B, width = emb_BFD.flatten(1), number_ND.numel()
        behind = range(flat_B.shape[1], flat_B.shape[1] + width)
        parts = [Part(flat_B, range(flat_B.shape[1])), Part(numbers_BN, behind, number_ND)]
        deep_B = linear_of_parts(self.out, self.mlp.forward_parts(parts)).squeeze(1)
        return fm_of_parts(emb_BFD, numbers_BN, number_ND) + deep_B

    def compile_layers(self, *, graphs: bool = True) -> None:
        """In training the pairs too, in one with the layers; with `graphs` a GPU is asked for all of them at once."""
        super().compile_layers(graphs=graphs)
        mode = "reduce-overhead" if graphs else "default"
        compiled = torch.compile(self._interactions, mode=mode, dynamic=False)
        self._interactions = compiled  # type: ignore[method-assign]

    def forward_candidates(self, context: Batch, items: Batch) -> Tensor:
        """Logits (N,) of N items for one user in one scene.

        The context's part of each term is computed once: FM's pairs lie in the context, in the item or across both.
        """
        shared_1FD, item_NFD = self.embedding(context, CONTEXT), self.embedding(items, ITEM)
        first_N = self.first_order(context, CONTEXT).sum((1, 2)) + self.first_order(items, ITEM).sum((1, 2))
        across_N = (item_NFD.sum(1) @ shared_1FD.sum(1).T).squeeze(1)
        parts = [
            Part(shared_1FD.flatten(1), self.embedding.flat_places(CONTEXT)),
            Part(item_NFD.flatten(1), self.embedding.flat_places(ITEM)),
        ]
        deep_N = linear_of_parts(self.out, self.mlp.forward_parts(parts)).squeeze(1)
        return self.bias + first_N + (fm(shared_1FD) + fm(item_NFD) + across_N) + deep_N
