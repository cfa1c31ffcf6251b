"""One optimizer for tables and layers: a step costs what its batch touches, never what the vocabulary holds.

Letters: N looked-up rows, U distinct rows of a batch, R rows of a table, D embedding dimension.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.declare import nearest

TABLES = "tables"  # the key that marks a parameter group of embedding tables with sparse gradients
MOMENTS = ("exp_avg", "exp_avg_sq")


class RowWise(torch.optim.AdamW):
    """Embedding tables by rows, everything else by fused AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).

    Parameter groups marked `"tables": True` hold tables with sparse gradients; only the rows of the batch are read and
    written, so all other rows, and what is remembered of them, stay as they are to the last bit. `table_rule`:

    - `adagrad`: row-wise Adagrad with one number per row (Mudigere et al. 2022, arXiv:2104.05158, sec. 4.1.4),
      h_r += mean_d(g_rd^2), w_r -= table_lr * g_r / (sqrt(h_r) + eps).
    - `adam`: lazy Adam, whose moments move only for rows of the batch, as those of `torch.optim.SparseAdam`.

    `lr` and `table_lr` are separate, for Adagrad's steps shrink with use and bear a larger one. `weight_decay` is
    decoupled; a row of a table pays lr * weight_decay of itself in every step that touches it.

    Raises ValueError for options out of range, and where no group holds tables.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.001,
        table_lr: float = 0.02,
        table_rule: str = "adagrad",
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if table_rule not in RULES:
            raise ValueError(f"`table_rule` got {table_rule!r}: {nearest(table_rule, RULES)}")
        if not table_lr >= 0:
            raise ValueError(f"`table_lr` must not be negative, got {table_lr}.")
        self.table_lr, self._rule = table_lr, RULES[table_rule]
        beta1, beta2 = betas
        super().__init__(params, lr, (beta1, beta2), eps, weight_decay, fused=True)
        self._step_supports_amp_scaling = False  # else Lightning refuses to clip in mixed precision
        if not any(group[TABLES] for group in self.param_groups):
            raise ValueError(
                "RowWise needs embedding tables with sparse gradients, and got none; set `model.sparse=true`, "
                "or take optimizer=adamw."
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; tables start at `table_lr`, and their steps are counted in main memory, where they are read."""
        own = {"lr": self.table_lr, "fused": False} if param_group.get(TABLES) else {}
        super().add_param_group({TABLES: False, **own, **param_group})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the layers, then of the tables. Raises ValueError for a table whose gradient is dense."""
        loss = super().step(closure)
        tables = [(p, group) for group in self.param_groups if group[TABLES] for p in group["params"]]
        tables = [(table, group) for table, group in tables if table.grad is not None]
        grads = coalesce([_sparse(table) for table, _ in tables])
        for (table, group), grad in zip(tables, grads, strict=True):
            rows_U, grad_UD = grad._indices()[0], grad._values()
            step_UD = self._rule(rows_U, grad_UD, self._state_of(table), group)
            row_UD = table.index_select(0, rows_U)
            if group["weight_decay"]:
                row_UD.mul_(1 - group["lr"] * group["weight_decay"])
            table.index_copy_(0, rows_U, row_UD.sub_(step_UD, alpha=group["lr"]))
        return loss

    def _state_of(self, table: Tensor) -> dict[str, Tensor]:
        """What is remembered of a table, with its step counted."""
        state = self.state[table]
        if not state:
            shapes = {"row_sum": table.shape[:1]} if self._rule is _adagrad else dict.fromkeys(MOMENTS, table.shape)
            state |= {"step": torch.zeros(())} | {name: table.new_zeros(shape) for name, shape in shapes.items()}
        state["step"] += 1
        return state

    def _init_group(self, group: dict[str, Any], *lists: Any) -> bool:
        """AdamW sees no tables."""
        return False if group[TABLES] else super()._init_group(group, *lists)


def _adagrad(rows_U: Tensor, grad_UD: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    """The step (U, D) of row-wise Adagrad."""
    sum_U = state["row_sum"].index_select(0, rows_U) + grad_UD.square().mean(1)
    state["row_sum"].index_copy_(0, rows_U, sum_U)
    return grad_UD / sum_U.sqrt_().add_(group["eps"]).unsqueeze(1)


def _adam(rows_U: Tensor, grad_UD: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    """The step (U, D) of Adam (Kingma and Ba 2015, arXiv:1412.6980, end of sec. 2)."""
    beta1, beta2 = group["betas"]
    first_UD = state["exp_avg"].index_select(0, rows_U).lerp_(grad_UD, 1 - beta1)
    second_UD = state["exp_avg_sq"].index_select(0, rows_U).lerp_(grad_UD.square(), 1 - beta2)
    state["exp_avg"].index_copy_(0, rows_U, first_UD)
    state["exp_avg_sq"].index_copy_(0, rows_U, second_UD)
    step = float(state["step"])
    return first_UD / second_UD.sqrt_().add_(group["eps"]) * ((1 - beta2**step) ** 0.5 / (1 - beta1**step))


RULES = {"adagrad": _adagrad, "adam": _adam}


def _sparse(table: Tensor) -> Tensor:
    """A table's gradient."""
    assert table.grad is not None
    if not table.grad.is_sparse:
        raise ValueError("the gradient of a table is dense, RowWise needs it sparse; set `model.sparse=true`.")
    return table.grad


class _Bags(NamedTuple):
    """Where each distinct row of a gradient stands in it: `order_N[start_U[u]:start_U[u + 1]]` for `rows_U[u]`."""

    rows_U: Tensor
    order_N: Tensor
    start_U: Tensor

    @staticmethod
    def of(rows_N: Tensor) -> "_Bags":
        """Sort looked-up rows; torch sorts 32-bit integers by radix, in half the time of 64 bits."""
        sorted_N, order_N = rows_N.int().sort(stable=True)
        first_N = torch.ones_like(sorted_N, dtype=torch.bool)
        torch.ne(sorted_N[1:], sorted_N[:-1], out=first_N[1:])
        start_U = first_N.nonzero().squeeze(1)
        return _Bags(sorted_N[start_U].long(), order_N.int(), start_U.int())

    def sums(self, value_ND: Tensor) -> Tensor:
        """The sum of each row's values, (U, D)."""
        return F.embedding_bag(self.order_N, value_ND, self.start_U, mode="sum")


class _Places(NamedTuple):
    """Which of the distinct rows each entry of a gradient is: `rows_U[place_N]`.

    For GPUs, where a single thread would add up a bag, and that of a frequent row holds much of a batch.
    """

    rows_U: Tensor
    place_N: Tensor

    @staticmethod
    def of(rows_N: Tensor) -> "_Places":
        """Find the distinct rows."""
        return _Places(*rows_N.unique(return_inverse=True))

    def sums(self, value_ND: Tensor) -> Tensor:
        """The sum of each row's values, (U, D)."""
        return value_ND.new_zeros(len(self.rows_U), value_ND.shape[1]).index_add_(0, self.place_N, value_ND)


def coalesce(grads: Sequence[Tensor]) -> list[Tensor]:
    """Sparse gradients (R, D) with every row once, in ascending order, values summed; coalesced ones as they came.

    The same as `Tensor.coalesce`, on a CPU about ten times as fast: an integer sort instead of a comparison sort, one
    kernel for all sums, and gradients of the same look-ups (a model's first-order weights and its vectors) share the
    sort.
    """
    known: list[tuple[Tensor, _Bags | _Places]] = []
    return [grad if grad.is_coalesced() else _coalesce(grad, known) for grad in grads]


def _coalesce(grad: Tensor, known: list[tuple[Tensor, _Bags | _Places]]) -> Tensor:
    rows_N, value_ND = grad._indices()[0], grad._values()
    if not len(rows_N):
        return grad.coalesce()
    found = next((found for rows, found in known if torch.equal(rows, rows_N)), None)
    if found is None:
        found = (_Bags if rows_N.device.type == "cpu" else _Places).of(rows_N)
        known.append((rows_N, found))
    return torch.sparse_coo_tensor(
        found.rows_U.unsqueeze(0), found.sums(value_ND), grad.shape, is_coalesced=True, check_invariants=False
    )
