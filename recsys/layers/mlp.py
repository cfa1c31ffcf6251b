"""Fully connected layers, and the adaptive activation Dice."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.declare import nearest

Activation = Literal["relu", "prelu", "dice"]


class Dice(nn.Module):
    """Data-adaptive activation (Zhou et al. 2018, arXiv:1706.06978, eq. 3).

    f(s) = p(s) * s + (1 - p(s)) * alpha * s with p(s) = sigmoid((s - E[s]) / sqrt(Var[s] + eps)). In training the
    moments are those of the batch, later the running ones.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, *, eps: float = 1e-8, momentum: float = 0.1) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """`x`: (..., width); in training (N, width)."""
        mean, var = self._moments(x) if self.training and len(x) else (self.running_mean, self.running_var)
        p = torch.sigmoid((x - mean) * torch.rsqrt(var + self.eps))
        return x * (p + (1 - p) * self.alpha)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x, dim=0, correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), self.momentum)
        return mean, var


class PReLU(nn.Module):
    """max(0, s) + alpha * min(0, s) with one alpha per channel, the last dimension (He et al. 2015, eq. 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((width,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """`x`: (..., width)."""
        return torch.where(x > 0, x, self.alpha * x)


def activation_layer(activation: str, width: int) -> nn.Module:
    """A fresh activation layer. Raises ValueError naming the nearest valid name."""
    if activation == "relu":
        return nn.ReLU()
    if activation == "prelu":
        return PReLU(width)
    if activation == "dice":
        return Dice(width)
    raise ValueError(f"`activation` got {activation!r}: {nearest(activation, get_args(Activation))}")


def check_hidden(hidden: Sequence[int], name: str = "hidden") -> None:
    """Raise ValueError unless `hidden` is a list of positive widths."""
    if isinstance(hidden, str) or not hasattr(hidden, "__len__"):
        raise ValueError(f"`{name}` must be a list of layer widths such as [200,80], got {hidden!r}.")
    for width in hidden:
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise ValueError(f"`{name}` must be positive integers such as [200,80], got {list(hidden)!r}.")


class Part(NamedTuple):
    """Some columns of a layer's input: `x` (B, P), or (1, P) where all rows share them, and their P `places` in it.

    With `times_PD`, the part is P * D columns wide: `x[:, p] * times_PD[p, d]` for every p and d.
    """

    x: Tensor
    places: Sequence[int]
    times_PD: Tensor | None = None


def linear_of_parts(linear: nn.Linear, parts: Sequence[Part]) -> Tensor:
    """What `linear` makes of an input that comes in parts, (B, out): each part times its columns of the weight.

    W x + b = sum_p W_p x_p + b, so that what all rows share is multiplied once. The bias goes with the first part.
    The products of a part with `times_PD` are never made: sum_d W_pd (x_p t_pd) = (sum_d W_pd t_pd) x_p.
    """
    biases = [linear.bias, *(None for _ in parts[1:])]
    first, *others = [F.linear(p.x, _columns(linear.weight, p), b) for p, b in zip(parts, biases, strict=True)]
    return sum(others, first)


def _columns(weight: Tensor, part: Part) -> Tensor:
    """The part's columns of a weight, (out, P)."""
    if isinstance(part.places, range):
        columns = weight[:, part.places.start : part.places.stop]
    else:
        columns = weight.index_select(1, torch.tensor(part.places, dtype=torch.int64, device=weight.device))
    return columns if part.times_PD is None else (columns.unflatten(1, part.times_PD.shape) * part.times_PD).sum(-1)


class MLP(nn.Sequential):
    """Linear, (batch norm), activation, (dropout) for each width of `hidden`: (B, width) -> (B, out_features)."""

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        check_hidden(hidden)
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), got {dropout!r}.")
        layers: list[nn.Module] = []
        for size in hidden:
            layers.append(nn.Linear(width, size))
            if batch_norm:
                layers.append(nn.BatchNorm1d(size))
            layers.append(activation_layer(activation, size))
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = size
        super().__init__(*layers)
        self.out_features = width

    def forward(self, x: Any) -> Any:
        """(B, width) -> (B, out_features), or parts to parts, so that `compile` compiles both."""
        return self._forward_parts(x) if isinstance(x, list) else super().forward(x)

    def forward_parts(self, parts: Sequence[Part]) -> list[Part]:
        """The output as the parts of the next layer's input: (B, out_features) in one; without layers, as they came."""
        return self(list(parts)) if len(self) else list(parts)

    def _forward_parts(self, parts: Sequence[Part]) -> list[Part]:
        first, *others = self
        assert isinstance(first, nn.Linear)
        x = linear_of_parts(first, parts)
        for layer in others:
            x = layer(x)
        return [Part(x, range(self.out_features))]
