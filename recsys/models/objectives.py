"""What training minimises. Each objective states the label kinds it fits."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


class Objective(nn.Module):
    """A loss over a batch: `forward(logit_B, label_B, negatives)` returns a scalar.

    For implicit data the rows come in groups of 1 + `negatives`, the positive first.
    """

    kinds: ClassVar[frozenset[str]]

    def forward(self, logit_B: Tensor, label_B: Tensor, negatives: int) -> Tensor:
        """The mean loss, a scalar."""
        raise NotImplementedError


class Logistic(Objective):
    """Binary cross entropy on the logits."""

    kinds = frozenset({"binary", "threshold", "implicit"})

    def forward(self, logit_B: Tensor, label_B: Tensor, negatives: int) -> Tensor:  # noqa: ARG002
        """-mean(y log p + (1 - y) log(1 - p))."""
        return F.binary_cross_entropy_with_logits(logit_B, label_B)


class SquaredError(Objective):
    """Mean squared error on ratings."""

    kinds = frozenset({"rating"})

    def forward(self, logit_B: Tensor, label_B: Tensor, negatives: int) -> Tensor:  # noqa: ARG002
        """mean((score - rating)^2)."""
        return F.mse_loss(logit_B, label_B)


class BPR(Objective):
    """Bayesian personalised ranking (Rendle et al. 2009, arXiv:1205.2618, eq. 4 without the prior)."""

    kinds = frozenset({"implicit"})

    def forward(self, logit_B: Tensor, label_B: Tensor, negatives: int) -> Tensor:  # noqa: ARG002
        """-mean(log sigmoid(positive - negative)) over all pairs of a group."""
        logit_GK = logit_B.view(-1, 1 + negatives)
        return -F.logsigmoid(logit_GK[:, :1] - logit_GK[:, 1:]).mean()


class SampledSoftmax(Objective):
    """Cross entropy of the positive among its sampled negatives.

    Negatives are drawn uniformly, so the usual correction by the sampling probability is a constant and cancels.
    """

    kinds = frozenset({"implicit"})

    def forward(self, logit_B: Tensor, label_B: Tensor, negatives: int) -> Tensor:  # noqa: ARG002
        """-mean(log softmax(group)[positive])."""
        logit_GK = logit_B.view(-1, 1 + negatives)
        return (logit_GK.logsumexp(-1) - logit_GK[:, 0]).mean()
