"""Embedding tables whose gradients hold the looked-up rows only, trained by several processes as by one.

DDP is not asked to reduce such gradients, for NCCL cannot. The processes exchange rows and values of a step instead, by
collectives that NCCL and gloo both have. Letters: W processes, U rows of a gradient, D dimension.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.layers.embedding import Table
from recsys.optimizers import coalesce


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def keep_from_ddp(model: nn.Module) -> None:
    """Have DDP leave alone the tables with sparse gradients, and those of which every process holds a part.

    Nor is it to send what is in no checkpoint, since every process has made the same: else, before each step, a number
    per table row of DIN's.
    """
    tables = {name: module for name, module in model.named_modules() if isinstance(module, Table)}
    ignored = [f"{name}.weight" for name, table in tables.items() if table.sparse or not table.replicated]
    saved = model.state_dict()
    ignored += [name for name, _ in model.named_buffers() if name not in saved]
    model._ddp_params_and_buffers_to_ignore = ignored  # type: ignore[assignment]


def _ours(model: nn.Module) -> list[Table]:
    """The tables that all processes hold, with sparse gradients."""
    return [module for module in model.modules() if isinstance(module, Table) and module.sparse and module.replicated]


def start_alike(model: nn.Module) -> None:
    """Give every process the tables of the first."""
    if processes() > 1:
        for table in _ours(model):
            dist.broadcast(table.weight.detach(), src=0)


def add_up_gradients(model: nn.Module) -> None:
    """Replace every table's gradient by the mean of those of all processes, once per step of the optimizer."""
    if processes() > 1:
        tables = [table for table in _ours(model) if table.weight.grad is not None]
        for table, grad in zip(tables, coalesce([t.weight.grad for t in tables]), strict=True):  # type: ignore[misc]
            table.weight.grad = _mean(grad)


def total_norm(model: nn.Module) -> Tensor:
    """The norm of all gradients together, also of those of which every process holds a part; sparse ones coalesced."""
    parts = {id(m.weight) for m in model.modules() if isinstance(m, Table) and not m.replicated}
    found: dict[bool, list[Tensor]] = {False: [], True: []}
    for parameter in model.parameters():
        if parameter.grad is not None:
            found[id(parameter) in parts].append(values_of(parameter.grad))
    norm, own = (torch.nn.utils.get_total_norm(found[is_part]) for is_part in (False, True))
    if not parts:
        return norm
    square = own.square()
    dist.all_reduce(square)
    return (norm.square() + square).sqrt()


def values_of(grad: Tensor) -> Tensor:
    """A gradient's values, which may be changed in place; a sparse one must be coalesced."""
    return grad.values() if grad.is_sparse else grad


def _mean(grad: Tensor) -> Tensor:
    """The mean of every process's sparse gradient (R, D), not coalesced; shorter shares are padded to travel."""
    rows_U, value_UD = grad._indices()[0], grad._values()
    count_W = _gather(torch.tensor([len(rows_U)], device=rows_U.device))
    longest = int(count_W.max())
    real_WU = torch.arange(longest, device=rows_U.device) < count_W
    rows = _gather(_padded(rows_U, longest))[real_WU]
    value = _gather(_padded(value_UD, longest))[real_WU] / processes()
    return torch.sparse_coo_tensor(rows.unsqueeze(0), value, grad.shape, check_invariants=False)


def _padded(x: Tensor, length: int) -> Tensor:
    """`x` with zeros behind it."""
    return torch.cat([x, x.new_zeros(length - len(x), *x.shape[1:])])


def _gather(x: Tensor) -> Tensor:
    """Every process's `x`, all of one shape, as (W, ...)."""
    everyone = x.new_empty(processes() * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(everyone, x)
    return everyone.view(processes(), *x.shape)
