"""DeepFM: a factorization machine and a deep network over the same embeddings."""

from collections.abc import Callable, Sequence
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

    _compiled: Callable[..., tuple[Tensor, Tensor]] | None = None

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
        interactions = self._compiled if self.training and self._compiled else self._interactions
        if self.training and self.embedding.number is not None:  # without a vector per row and number
            emb_BFD, first_B = self.embedding.looked_up(batch), self.first_order.sum(batch).squeeze(1)
            pairs_B, deep_B = interactions(emb_BFD, batch.numbers_BN, self.embedding.number)
        else:
            emb_BFD, first_B = self.embedding(batch), self.first_order(batch).sum((1, 2))
            pairs_B, deep_B = interactions(emb_BFD)
        return self.bias + first_B + pairs_B + deep_B

    def _interactions(
        self, emb_BFD: Tensor, numbers_BN: Tensor | None = None, number_ND: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """FM's pairs and the deep network, (B,) each, of vectors and, where they are given, of numbers times theirs."""
        flat_B = emb_BFD.flatten(1)
        if numbers_BN is None or number_ND is None:
            return fm(emb_BFD), self.out(self.mlp(flat_B)).squeeze(1)
        width = flat_B.shape[1]
        parts = [Part(flat_B, range(width)), Part(numbers_BN, range(width, width + number_ND.numel()), number_ND)]
        deep_B = linear_of_parts(self.out, self.mlp.forward_parts(parts)).squeeze(1)
        return fm_of_parts(emb_BFD, numbers_BN, number_ND), deep_B

    def compile_layers(self, *, graphs: bool = True) -> None:
        """In training the layers are compiled together with FM's pairs; with `graphs`, into CUDA graphs on a GPU."""
        super().compile_layers(graphs=graphs)
        if len(self.mlp):
            mode = "reduce-overhead" if graphs else "default"
            self._compiled = torch.compile(self._interactions, mode=mode, dynamic=False)

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
