"""What depends on weights alone is computed before a graph is written."""

from onnxscript.optimizer import fold_constants, remove_unused_nodes
from torch.onnx import ONNXProgram

ANY_SIZE = 2**62


def fold_weights(program: ONNXProgram) -> None:
    """Replace every node that reads constants only by its result, whatever its size.

    The exporter itself folds small constants only, which leaves the cutting of a layer's weight into its user part and
    its item part (see `recsys.layers.mlp.linear_of_parts`) to every run.
    """
    fold_constants(program.model, input_size_limit=ANY_SIZE, output_size_limit=ANY_SIZE)
    remove_unused_nodes(program.model)
