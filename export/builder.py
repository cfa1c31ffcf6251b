"""An ONNX graph put together from raw inputs, a model's exported core and weights, by spox."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import spox
from onnx import TensorProto, numpy_helper
from spox import Tensor, Var

from export.look_ups import use_gather_nd

OPSET = 20


class GraphBuilder:
    """Collects the inputs and weights of a graph under construction.

    Weights take the place of inputs until the graph is whole, so that no step copies or serialises large tables.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Var] = {}
        self._weights: dict[str, tuple[Var, TensorProto]] = {}

    def input(self, name: str, dtype: npt.DTypeLike, shape: Sequence[str | int]) -> Var:
        """The graph input `name`, added when it is first asked for."""
        if name not in self.inputs:
            self.inputs[name] = spox.argument(Tensor(dtype, tuple(shape)))
        return self.inputs[name]

    def weight(self, name: str, value: np.ndarray | TensorProto) -> Var:
        """A constant that is kept as the weight `name`, added when it is first asked for."""
        if name not in self._weights:
            tensor = value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value))
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            self._weights[name] = spox.argument(Tensor(dtype, tuple(tensor.dims))), tensor
        return self._weights[name][0]

    def inline(self, core: onnx.ModelProto, feeds: Mapping[str, Var]) -> dict[str, Var]:
        """The outputs of an exported graph for these inputs; its weights become weights of this graph."""
        bare = onnx.ModelProto(ir_version=core.ir_version, opset_import=core.opset_import)
        graph = core.graph
        bare.graph.name = graph.name
        bare.graph.node.extend(graph.node)
        bare.graph.input.extend(graph.input)
        bare.graph.output.extend(graph.output)
        weights = {}
        for tensor in graph.initializer:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            weights[tensor.name] = self.weight(f"model/{tensor.name}", tensor)
        read = {i.name for i in graph.input}
        return spox.inline(bare)(**{name: var for name, var in feeds.items() if name in read}, **weights)

    def build(self, outputs: Mapping[str, Var]) -> onnx.ModelProto:
        """The whole graph; inputs that it does not read are left out."""
        weights = {name: var for name, (var, _) in self._weights.items()}
        model = spox.build({**self.inputs, **weights}, dict(outputs), drop_unused_inputs=True)
        read = {i.name: i for i in model.graph.input}
        del model.graph.input[:]
        model.graph.input.extend(read[name] for name in self.inputs if name in read)
        for name in (name for name in weights if name in read):
            model.graph.initializer.append(self._weights[name][1])
            model.graph.initializer[-1].name = name
        use_gather_nd(model.graph)
        return model
