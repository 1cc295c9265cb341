"""Builds ONNX graphs that name their weights and hold none. It knows no model.

Axes are the caller's. A weight is declared as external data, which a session is handed under its
name; only numbers that are no weights are in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

# The oldest versions that have all operators; onnxruntime reads these and newer ones.
OPSET = 20
IR_VERSION = 10

# Where onnxruntime's own operators are: fused attention and normalization.
FUSED = "com.microsoft"

# Axes of any length have names; the others are numbers.
Shape = Sequence[int | str]


class GraphBuilder:
    """Collects the nodes of one graph. Values are the names of node outputs.

    Args:
        name: of the graph.
        shapes: of all weights, by their names in the checkpoint.
    """

    def __init__(self, name: str, shapes: Mapping[str, Sequence[int]]) -> None:
        self.name = name
        self.shapes = shapes
        self.weights: dict[str, TensorProto] = {}
        self._nodes: list[NodeProto] = []
        self._constants: dict[tuple[str, bytes], TensorProto] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    def input(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> str:
        """Declare an input and return its value."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, value: str, shape: Shape) -> None:
        """Name a value as the next output."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def weight(self, name: str) -> str:
        """Return a weight of the checkpoint, in fp32."""
        if name not in self.weights:
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=self.shapes[name])
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="model.safetensors")
            self.weights[name] = tensor
        return name

    def constant(self, value: NDArray[Any] | Sequence[int] | float) -> str:
        """Return a number in fp32, or a list of whole numbers in int64."""
        is_float = isinstance(value, float)
        array = np.array(value, np.float32 if is_float else np.int64)
        key = (f"{array.dtype}{array.shape}", array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = numpy_helper.from_array(array, name)
        return str(self._constants[key].name)

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node and return its first output."""
        return self.add_many(operator, 1, *inputs, domain=domain, **attributes)[0]

    def add_many(
        self, operator: str, count: int, *inputs: str, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node and return its outputs."""
        number = len(self._nodes)
        outputs = [f"{operator}_{number}_{index}" for index in range(count)]
        node = helper.make_node(
            operator, inputs, outputs, f"node_{number}", "", domain, **attributes
        )
        self._nodes.append(node)
        return outputs

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """Return a value in another shape; 0 keeps an axis, -1 is what is left."""
        return self.add("Reshape", value, self.constant(shape))

    def unsqueeze(self, value: str, axis: int) -> str:
        return self.add("Unsqueeze", value, self.constant([axis]))

    def squeeze(self, value: str, axis: int) -> str:
        return self.add("Squeeze", value, self.constant([axis]))

    def sum(self, value: str, axis: int, *, keepdims: bool = False) -> str:
        return self.add("ReduceSum", value, self.constant([axis]), keepdims=int(keepdims))

    def mean(self, value: str, axis: int, *, keepdims: bool = False) -> str:
        return self.add("ReduceMean", value, self.constant([axis]), keepdims=int(keepdims))

    def max(self, value: str, axis: int) -> str:
        return self.add("ReduceMax", value, self.constant([axis]), keepdims=0)

    def scale(self, value: str, factor: float, shift: float = 0.0) -> str:
        """Return value * factor + shift."""
        scaled = self.add("Mul", value, self.constant(factor)) if factor != 1.0 else value
        return self.add("Add", scaled, self.constant(shift)) if shift else scaled

    def relu6(self, value: str) -> str:
        return self.add("Clip", value, self.constant(0.0), self.constant(6.0))

    def normalize(self, value: str) -> str:
        """Return rows [..., D] of unit length."""
        return self.add("LpNormalization", value, axis=-1, p=2)

    def linear(self, value: str, layer: str, *, bias: bool = True) -> str:
        """Return a `torch.nn.Linear`: [..., I] -> [..., O]."""
        transposed = self.add("Transpose", self.weight(f"{layer}.weight"), perm=[1, 0])
        product = self.add("MatMul", value, transposed)
        return self.add("Add", product, self.weight(f"{layer}.bias")) if bias else product

    def layer_norm(self, value: str, layer: str, epsilon: float = 1e-5) -> str:
        """Return a `torch.nn.LayerNorm` over the last axis."""
        weight, bias = self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias")
        return self.add("LayerNormalization", value, weight, bias, axis=-1, epsilon=epsilon)

    def attention(self, query: str, key: str, value: str, heads: int) -> str:
        """Return multi-head attention without a mask: [B, T, W] each -> [B, T, W]."""
        return self.add("MultiHeadAttention", query, key, value, domain=FUSED, num_heads=heads)

    def build(self) -> bytes:
        """Return the graph as a file; the same calls give the same bytes."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            self._inputs,
            self._outputs,
            [*self.weights.values(), *self._constants.values()],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
        model: ModelProto = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="llama-index-rnx"
        )
        return bytes(model.SerializeToString(deterministic=True))
