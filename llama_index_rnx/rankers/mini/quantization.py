"""The checkpoint of rnx-mini on disk: large matrices in int8 with a scale a row, the rest in fp16.
It knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SCALE = "::scale"  # the name of a matrix's scales is its own name with this behind it
# Matrices with fewer entries stay in fp16: they are no weight on disk and the most sensitive.
LARGE = 16_384


class WithoutInitialWeights(TorchFunctionMode):
    """Modules that are made in this context have weights of any value, which a checkpoint must
    replace.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if getattr(func, "__module__", "") == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


def quantize(state: Mapping[str, Tensor], int8_prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """A state dict as it is stored: matrices of the named parts in int8 (scale: the row's largest /
    127), else fp16.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(int8_prefixes) and tensor.ndim >= 2 and tensor.numel() >= LARGE:
            rows = tensor.float().flatten(1)  # [O, I]
            scale = rows.abs().amax(1).clamp_min(1e-12) / 127  # [O]
            packed[name] = (
                (rows / scale.unsqueeze(1)).round().to(torch.int8).view_as(tensor).contiguous()
            )
            packed[name + SCALE] = scale
        else:
            packed[name] = (
                tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous()
            )
    return packed


def dequantize(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `quantize` stored, as fp32."""
    return {name: _unpacked(packed, name) for name in packed if not name.endswith(SCALE)}


def _unpacked(packed: Mapping[str, Tensor], name: str) -> Tensor:
    tensor, scale = packed[name], packed.get(name + SCALE)
    if scale is None:
        return tensor.float() if tensor.is_floating_point() else tensor
    # By NumPy, on this thread alone: torch would share out each of 600 small products among
    # OpenMP's threads, which wait for one another. Beside a busy core that made a second of a
    # tenth.
    numbers = torch.empty(tensor.shape)
    rows, factors = tensor.flatten(1).numpy(), scale.float().unsqueeze(1).numpy()
    np.multiply(rows, factors, out=numbers.flatten(1).numpy(), dtype=np.float32)
    return numbers


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [T, D] of a memory -> int8 [T, D] and their scales [T] in fp16; the error of a cosine is
    about .001.
    """
    scale = (rows.abs().amax(-1).clamp_min(1e-6) / 127).half()  # [T]
    return (rows / scale.float().unsqueeze(-1)).round().clamp(-127, 127).to(torch.int8), scale


def dequantize_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """int8 [T, D] and [T] -> [T, D]."""
    return rows.float() * scale.float().unsqueeze(-1)
