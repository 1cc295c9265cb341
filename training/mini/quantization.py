"""The checkpoint of rnx-mini on disk: large matrices in int8 with a scale a row, the rest in fp16.
It knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from llama_index_rnx.rankers.mini import SCALE, dequantize_matrix

# Matrices with fewer entries stay in fp16: they take no room on disk and are the most sensitive.
LARGE = 16_384


class WithoutInitialWeights(TorchFunctionMode):
    """A context in which modules are made with weights of any value, which a checkpoint must
    replace.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if getattr(func, "__module__", "") == "torch.nn.init":
            return keywords["tensor"] if "tensor" in keywords else args[0]
        return func(*args, **keywords)


def quantize(state: Mapping[str, Tensor], int8_prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return a state dict as it is stored: large matrices whose names have one of the prefixes in
    int8 (scale: the row's largest / 127), all else in fp16.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(int8_prefixes) and tensor.ndim >= 2 and tensor.numel() >= LARGE:
            rows = tensor.float().flatten(1)  # [O, I]
            scale = rows.abs().amax(1).clamp_min(1e-12) / 127  # [O]
            numbers = (rows / scale.unsqueeze(1)).round().to(torch.int8)
            packed[name] = numbers.view_as(tensor).contiguous()
            packed[name + SCALE] = scale
        elif tensor.is_floating_point():
            packed[name] = tensor.half().contiguous()
        else:
            packed[name] = tensor.contiguous()
    return packed


def dequantize(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `quantize` stored, as fp32."""
    weights: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        scale = packed.get(name + SCALE)
        if scale is not None:
            weights[name] = torch.from_numpy(dequantize_matrix(tensor.numpy(), scale.numpy()))
        elif not name.endswith(SCALE):
            weights[name] = tensor.float() if tensor.is_floating_point() else tensor
    return weights
