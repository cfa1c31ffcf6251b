"""Neural collaborative filtering: GMF, MLP and their fusion NeuMF."""

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from recsys.data.batches import Batch
from recsys.declare import nearest
from recsys.layers.embedding import PairEmbedding
from recsys.layers.mlp import MLP, Part, linear_of_parts
from recsys.models.base import Recommender, Training
from recsys.schema import FeatureSchema

Branch = Literal["neumf", "gmf", "mlp"]


class NCF(Recommender):
    """Neural collaborative filtering (He et al. 2017, arXiv:1708.05031).

    GMF: h . (p_u * q_i) (eq. 9); MLP: h . layers([p_u, q_i]) (eq. 10); NeuMF: both side by side, each with
    embeddings of its own (eq. 12). `branch` keeps one of them or both; `hidden` are the widths of the MLP's
    layers and `mlp_embedding_dim` the width of each of its two inputs. GMF's part of h starts at 1, where GMF is a
    matrix factorization (sec. 3.2): from small random numbers, weight decay would pull the product of three to zero.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        *,
        branch: Branch = "neumf",
        embedding_dim: int = 16,
        mlp_embedding_dim: int = 32,
        embedding_std: float = 0.1,
        hidden: Sequence[int] = (64, 32, 16),
        dropout: float = 0.0,
        embedding_l2: float = 0.0,
        sparse: bool = False,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(schema, **training)
        if branch not in get_args(Branch):
            raise ValueError(f"`branch` got {branch!r}: {nearest(branch, get_args(Branch))}")
        width = 0
        self.gmf = self.pair = self.mlp = None
        if branch != "mlp":
            self.gmf = PairEmbedding(self.schema, embedding_dim, std=embedding_std, sparse=sparse, l2=embedding_l2)
            width += embedding_dim
        if branch != "gmf":
            self.pair = PairEmbedding(self.schema, mlp_embedding_dim, std=embedding_std, sparse=sparse, l2=embedding_l2)
            self.mlp = MLP(2 * mlp_embedding_dim, hidden, dropout=dropout)
            width += self.mlp.out_features
        self.out = nn.Linear(width, 1, bias=False)
        if self.gmf is not None:
            nn.init.ones_(self.out.weight[:, :embedding_dim])

    def start_from(self, models: Sequence[Recommender]) -> None:
        """Take over a trained GMF and a trained MLP, in any order; their output layers count half each (eq. 13)."""
        found = {model.hparams["branch"]: model for model in models if isinstance(model, NCF)}
        if self.gmf is None or self.pair is None or set(found) != {"gmf", "mlp"}:
            raise ValueError(
                "`pretrained` takes two checkpoints, one of model.branch=gmf and one of model.branch=mlp, and starts "
                "model=ncf model.branch=neumf from them."
            )
        for name, model in found.items():
            if model.schema != self.schema:
                raise ValueError(f"`pretrained`: the {name} checkpoint was trained on other data.")
            weights = {k: v for k, v in model.state_dict().items() if k not in ("bias", "out.weight")}
            try:
                self.load_state_dict(weights, strict=False)
            except RuntimeError:
                raise ValueError(
                    f"`pretrained`: the {name} checkpoint has other layer widths than the model."
                ) from None
        gmf, mlp = found["gmf"], found["mlp"]
        with torch.no_grad():
            self.out.weight.copy_(torch.cat([gmf.out.weight, mlp.out.weight], 1) / 2)
            self.bias.copy_((gmf.bias + mlp.bias) / 2)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (or ratings), float32 (B,)."""
        parts = []
        if self.gmf is not None:
            parts.append(self.gmf(batch).prod(1))
        if self.pair is not None and self.mlp is not None:
            parts.append(self.mlp(self.pair(batch).flatten(1)))
        return self.bias + self.out(torch.cat(parts, 1)).squeeze(1)

    @property
    def separable(self) -> bool:
        """GMF alone is: [h * p_u, mu] . [q_i, 1]."""
        return self.gmf is not None and self.pair is None

    def user_vector(self, context: Batch) -> Tensor:
        """[h * p_u, mu], (1, D + 1), for branch=gmf."""
        if self.gmf is None or self.pair is not None:
            return super().user_vector(context)
        return torch.cat([self.out.weight * self.gmf.user(context), self.bias.view(1, 1)], 1)

    def item_vectors(self, items: Batch) -> Tensor:
        """[q_i, 1], (N, D + 1), for branch=gmf."""
        if self.gmf is None or self.pair is not None:
            return super().item_vectors(items)
        item_ND = self.gmf.item(items)
        return torch.cat([item_ND, torch.ones_like(item_ND[:, :1])], 1)

    def forward_candidates(self, context: Batch, items: Batch) -> Tensor:
        """Logits (N,) of N items for one user; the user's part of the MLP's first layer is computed once."""
        if self.pair is None or self.mlp is None:
            return super().forward_candidates(context, items)
        user_1D, item_ND = self.pair.user(context), self.pair.item(items)
        dim = item_ND.shape[1]
        parts = self.mlp.forward_parts([Part(user_1D, range(dim)), Part(item_ND, range(dim, 2 * dim))])
        if self.gmf is not None:
            product_ND = self.gmf.user(context) * self.gmf.item(items)
            width = product_ND.shape[1]
            parts = [
                Part(product_ND, range(width)),
                *(Part(part.x, [width + place for place in part.places]) for part in parts),
            ]
        return self.bias + linear_of_parts(self.out, parts).squeeze(1)
