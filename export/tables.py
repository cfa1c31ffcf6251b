"""Embedding tables in the form that a graph stores small and looks up quickly.

Letters: R rows, D embedding dimension.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.layers.embedding import Table
from recsys.models.base import Recommender
from recsys.schema import PADDING

LARGEST = 127  # of int8, used symmetrically


def mean_by_products(table: "Table | Int8Table | ScalarTable", ids_BT: Tensor) -> Tensor:
    """`Table.mean` as products with ones, which ONNX Runtime computes several times as fast as sums of short lists."""
    dim, tags = table.embedding_dim, ids_BT.shape[-1]
    count_BD = (ids_BT != PADDING).float() @ torch.ones(tags, dim)
    total_BD = table(ids_BT).flatten(-2) @ torch.eye(dim).repeat(tags, 1)
    return total_BD / count_BD.clamp(min=1)


class FloatTable(Table):
    """A table for scoring."""

    mean = mean_by_products


class Int8Table(nn.Module):
    """A table whose rows are int8 with one float16 scale each: vector = scale * row, off by half a scale at most.

    One scale for all rows would be that of the largest row and leave rare values, whose rows are small, with few
    distinct numbers. In a graph: GatherND, GatherElements, Cast, DequantizeLinear.
    """

    row_RD: Tensor
    scale_R: Tensor
    mean = mean_by_products
    l2 = 0.0

    def __init__(self, weight_RD: Tensor) -> None:
        super().__init__()
        self.embedding_dim = weight_RD.shape[1]
        exact_R = weight_RD.abs().amax(1) / LARGEST
        scale_R = exact_R.half()
        scale_R = torch.where(
            scale_R.float() < exact_R, torch.nextafter(scale_R, scale_R.new_tensor(torch.inf)), scale_R
        )
        steps_RD = weight_RD / scale_R.float().clamp(min=torch.finfo(torch.float16).tiny * 2**-10).unsqueeze(1)
        self.register_buffer("row_RD", steps_RD.round().clamp(-LARGEST, LARGEST).to(torch.int8))
        self.register_buffer("scale_R", scale_R)

    def forward(self, ids: Tensor, *, padded: bool = True) -> Tensor:  # noqa: ARG002 - as `Table`
        """Vectors (..., D) of ids (...)."""
        flat = ids.flatten()
        row_ND, scale_N = F.embedding(flat, self.row_RD), torch.gather(self.scale_R, 0, flat).float()
        if torch.onnx.is_in_onnx_export():  # one node for what would be three, of which one is slow
            vector_ND = torch.onnx.ops.symbolic(
                "DequantizeLinear", (row_ND, scale_N), {"axis": 0}, dtype=torch.float32, shape=row_ND.shape
            )
        else:
            vector_ND = row_ND.float() * scale_N.unsqueeze(1)
        return vector_ND.view(*ids.shape, self.embedding_dim)


class ScalarTable(nn.Module):
    """A table of one number per row, of any floating type: a vector, for GatherElements is far quicker than Gather."""

    value_R: Tensor
    mean = mean_by_products
    l2 = 0.0
    embedding_dim = 1

    def __init__(self, value_R: Tensor) -> None:
        super().__init__()
        self.register_buffer("value_R", value_R)

    def forward(self, ids: Tensor, *, padded: bool = True) -> Tensor:  # noqa: ARG002 - as `Table`
        """Numbers (..., 1) of ids (...)."""
        return torch.gather(self.value_R, 0, ids.flatten()).float().view(*ids.shape, 1)


def quantize_tables(model: Recommender) -> Recommender:
    """A copy for scoring whose tables are int8 with a scale per row; tables of single numbers become float16."""
    small = copy_sharing(model)
    for name, table in _tables(small):
        weight_RD = table.weight.detach()
        small.set_submodule(
            name, Int8Table(weight_RD) if table.embedding_dim > 1 else ScalarTable(weight_RD[:, 0].half())
        )
    return small


def _tables(model: nn.Module) -> list[tuple[str, Table]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Table)]


def copy_sharing(model: Recommender) -> Recommender:
    """A copy in evaluation mode that shares the weights themselves: its layers may be replaced, but not changed."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())}).eval()
