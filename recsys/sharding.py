"""`trainer=sharded`: every process holds a block of each embedding table's rows, by TorchRec; the layers are DDP's.

Letters: W processes, R rows of a table, P rows of a block, N ids, D embedding dimension.

TorchRec's row-wise distribution carries ids to the processes that hold their rows, and vectors and gradients back. The
rows themselves are an ordinary parameter, not one of its tables with a fused optimizer: those step inside the backward
pass, so a gradient could be neither clipped nor accumulated, and a table that a model reads several times would take
several steps for one. FBGEMM's way out, `OptimType.NONE`, exists for CUDA alone.
"""

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from recsys.distributed import keep_from_ddp
from recsys.layers.embedding import Table
from recsys.schema import PADDING

CHUNK = 2**20  # rows that travel to the first process at once
ID = "id"


class ShardedTable(Table):
    """The block of a table's rows that this process holds, on `device`; looked up like the whole table.

    Blocks are equally long, ceil(R / W); rows behind the last one of the table are never read. All processes look up at
    the same time, as many ids as each has.
    """

    replicated = False

    def __init__(self, table: Table, device: torch.device) -> None:
        block = own_block(table.weight.detach(), _block(table.num_embeddings)).to(device, copy=True)
        nn.Embedding.__init__(self, len(block), table.embedding_dim, sparse=table.sparse, _weight=block)
        self.l2, self.penalty, self.rows = table.l2, 0.0, table.num_embeddings
        self._travel = _Travel(self.rows, device)

    def fetch(self, ids: Tensor, *, padded: bool = True) -> Tensor:
        """Vectors (..., D) of ids (...), from wherever their rows are."""
        asked_N, context = self._travel.to_owners(ids.reshape(-1).contiguous())  # FBGEMM ignores strides
        padding = PADDING if padded and dist.get_rank() == 0 else None
        vector_ND = F.embedding(asked_N, self.weight, padding, sparse=self.sparse)
        return self._travel.back(vector_ND, context).view(*ids.shape, self.embedding_dim)

    def sum(self, ids_BF: Tensor) -> Tensor:
        """The sum of vectors (B, D) over the last dimension of `ids_BF`, none of which is padding."""
        return self(ids_BF, padded=False).sum(1)


class _Travel:
    """TorchRec's row-wise distribution of one table; no module, for its buffers are not the model's.

    On the way back TorchRec divides gradients by W, so what a block gets is the gradient of the mean loss.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        from torchrec.distributed.sharding.rw_sequence_sharding import RwSequenceEmbeddingDist
        from torchrec.distributed.sharding.rw_sharding import RwSparseFeaturesDist

        group = dist.group.WORLD
        self._there = RwSparseFeaturesDist(group, 1, [rows], device=device, is_sequence=True)
        self._back = RwSequenceEmbeddingDist(group, 1, device)

    def to_owners(self, id_N: Tensor) -> tuple[Tensor, Any]:
        """The ids that all processes ask of this one, counted from its first row, and what the way back needs."""
        from torchrec.distributed.sharding.sequence_sharding import SequenceShardingContext
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        lengths = torch.tensor([len(id_N)], device=id_N.device)
        sent = self._there(KeyedJaggedTensor([ID], id_N, lengths=lengths)).wait()
        asked = sent.wait()
        context = SequenceShardingContext(
            input_splits=sent._input_splits["values"],
            output_splits=sent._output_splits["values"],
            unbucketize_permute_tensor=self._there.unbucketize_permute_tensor,
            lengths_after_input_dist=asked.lengths().view(-1, asked.stride()),
        )
        return asked.values(), context

    def back(self, vector_ND: Tensor, context: Any) -> Tensor:
        """The vectors of the ids that this process sent, in their order."""
        return self._back(vector_ND, context).wait()


class ShardedStrategy(DDPStrategy):
    """DDP, but for embedding tables, of which every process holds a block of rows (`ShardedTable`).

    Checkpoints hold whole tables, and what the optimizer remembers of them whole, as those of any other strategy; any
    number of processes can load them. After an evaluation the model has its whole tables again. After `fit` it
    keeps its blocks; load a checkpoint for a whole model. While starting, a process holds the whole tables in its main
    memory. Raises ValueError where TorchRec is not installed.
    """

    def __init__(self, **options: Any) -> None:
        if not importlib.util.find_spec("torchrec"):
            raise ValueError("trainer=sharded needs TorchRec; install it with pip install 'recsys[sharded]'.")
        before = logging.root.manager.disable
        logging.disable(logging.INFO)  # FBGEMM announces each of its libraries on the root logger
        try:
            importlib.import_module("torchrec")
        finally:
            logging.disable(before)
        super().__init__(**options)
        self._whole: list[tuple[nn.Module, str, Table]] = []

    def setup(self, trainer: pl.Trainer) -> None:
        """Share out the tables before the model moves to the device."""
        assert self.lightning_module is not None
        whole = shard_tables(self.lightning_module, self.root_device)
        self._whole = [] if trainer.state.fn == TrainerFn.FITTING else whole
        keep_from_ddp(self.lightning_module)
        super().setup(trainer)

    def teardown(self) -> None:
        """Put whole tables back where no training changed them."""
        for parent, name, table in self._whole:
            setattr(parent, name, table)
        self._whole = []
        super().teardown()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The model's state with whole tables, on the first process."""
        assert self.lightning_module is not None
        tables = {f"{name}.weight": table for name, table in _sharded(self.lightning_module).items()}
        state = super().lightning_module_state_dict()
        return {name: gathered(x, tables[name].rows) if name in tables else x for name, x in state.items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state for whole tables, on the first process."""
        content, tables = super().optimizer_state(optimizer), self._tables_of(optimizer)
        state = dict(content["state"])
        for place, table in tables.items():
            state[place] = {n: gathered(x, table.rows) if x.dim() else x for n, x in state.get(place, {}).items()}
        return {**content, "state": state}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's blocks of the state of whole tables."""
        own = []
        for optimizer, content in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            state = dict(content["state"])
            for place, table in self._tables_of(optimizer).items():
                state[place] = {
                    n: own_block(x, len(table.weight)) if x.dim() else x for n, x in state.get(place, {}).items()
                }
            own.append({**content, "state": state})
        super().load_optimizer_state_dict({"optimizer_states": own})

    def _tables_of(self, optimizer: Optimizer) -> dict[int, ShardedTable]:
        """The blocks among the optimizer's parameters, by their place in its state."""
        assert self.lightning_module is not None
        by_weight = {id(table.weight): table for table in _sharded(self.lightning_module).values()}
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        return {place: by_weight[id(w)] for place, w in enumerate(weights) if id(w) in by_weight}


def shard_tables(model: nn.Module, device: torch.device) -> list[tuple[nn.Module, str, Table]]:
    """Replace every whole table of a model by this process's block of it; returns where each whole one stood."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, Table) and child.replicated
    ]
    for parent, name, table in found:
        setattr(parent, name, ShardedTable(table, device).train(table.training))
    return found


def _sharded(model: nn.Module) -> dict[str, ShardedTable]:
    return {name: module for name, module in model.named_modules() if isinstance(module, ShardedTable)}


def _block(rows: int) -> int:
    """P, as TorchRec has it."""
    return -(-rows // dist.get_world_size())


def own_block(whole: Tensor, length: int) -> Tensor:
    """This process's rows (P, ...) of a tensor (R, ...), with zeros behind the last one."""
    block = whole[dist.get_rank() * length :][:length]
    return torch.cat([block, block.new_zeros(length - len(block), *block.shape[1:])])


def gathered(block: Tensor, rows: int) -> Tensor:
    """The whole (R, ...) of every process's block (P, ...), in main memory of the first; others keep their block."""
    first, length = dist.get_rank() == 0, len(block)
    whole = torch.empty(length * dist.get_world_size(), *block.shape[1:], dtype=block.dtype) if first else block
    for start in range(0, length, CHUNK):
        chunk = block[start : start + CHUNK].contiguous()
        everyone = [torch.empty_like(chunk) for _ in range(dist.get_world_size())] if first else None
        dist.gather(chunk, everyone)
        for rank, part in enumerate(everyone or ()):
            whole[rank * length + start :][: len(part)] = part
    return whole[:rows]


def check_precision(model: nn.Module, trainer: pl.Trainer) -> None:
    """Raise ValueError where processes would skip steps of their own: float16 scales a loss by what each one saw."""
    apart = isinstance(trainer.strategy, ShardedStrategy) or any(
        module.sparse for module in model.modules() if isinstance(module, Table)
    )
    if trainer.precision == "16-mixed" and trainer.world_size > 1 and apart:
        raise ValueError(
            "`trainer.precision`: with 16-mixed, processes that exchange rows of tables would skip different steps; "
            "take trainer.precision=bf16-mixed, or trainer=ddp with model.sparse=false."
        )
