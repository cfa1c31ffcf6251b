"""Whether a model's embedding tables, and what its optimizer remembers of them, fit where they are trained."""

import math
import os

import torch
from pytorch_lightning import Trainer
from torch import nn

from recsys.layers.embedding import Table
from recsys.models.base import Recommender
from recsys.optimizers import TABLES
from recsys.sharding import ShardedStrategy

GIB = 2**30


def check_tables_fit(model: Recommender, trainer: Trainer, memory: int | None = None) -> None:
    """Raise ValueError where the tables of `model` need more than a device's `memory`, in bytes; null: as it has.

    Counted are weights, the optimizer's state and dense gradients, divided by the number of processes where the trainer
    shares the tables out.
    """
    memory = device_memory(trainer) if memory is None else memory
    sharded = isinstance(trainer.strategy, ShardedStrategy)
    whole = table_bytes(model)
    need = whole / trainer.world_size if sharded else whole
    if need > memory:
        name = getattr(model.optimizer, "func", model.optimizer).__name__
        on_gpus = trainer.strategy.root_device.type == "cuda"
        share = "process(es)" if on_gpus else "machine(s)"
        least = math.ceil(whole / (memory if on_gpus else memory * trainer.num_devices))
        raise ValueError(
            f"the embedding tables with what {name} keeps of them take {need / GIB:,.2f} GiB of each process, whose "
            f"device has {memory / GIB:,.2f} GiB; share them out over at least {least} {share} "
            "with trainer=sharded, or take a smaller `model.embedding_dim` or optimizer=rowwise."
        )


def table_bytes(model: Recommender) -> int:
    """Bytes of all tables' weights, of their optimizer's state and, where those are dense, of their gradients."""
    tables = [module for module in model.modules() if isinstance(module, Table)]
    return sum(table.num_embeddings * _row_bytes(model, table) for table in tables)


def _row_bytes(model: Recommender, table: Table) -> int:
    """What one row takes, found by a step of the optimizer on a table of two rows."""
    weight = nn.Parameter(torch.zeros(2, table.embedding_dim))
    dense = torch.zeros_like(weight)
    weight.grad = dense.to_sparse(1) if table.sparse else dense
    optimizer = model.optimizer([{"params": [weight]} | ({TABLES: True} if table.sparse else {})])
    optimizer.step()
    kept = [x for x in optimizer.state[weight].values() if isinstance(x, torch.Tensor) and x.dim()]
    kept += [weight] if table.sparse else [weight, dense]
    return sum(x.numel() * x.element_size() for x in kept) // 2


def device_memory(trainer: Trainer) -> int:
    """Bytes of a process's device: the GPU's, or its share of the machine's main memory."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // trainer.num_devices
