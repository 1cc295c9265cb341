"""The checkpoint of rnx-mini on disk: large matrices in int8 with a scale a row, the rest in fp16. It knows no network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = "::scale"  # the name of a matrix's scales is its own name with this behind it
LARGE = 16_384  # matrices with fewer entries stay in fp16: they are no weight on disk and the most sensitive


def pack(state: Mapping[str, Tensor], int8_prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """A state dict as it is stored: matrices of the named parts in int8 (scale: the row's largest / 127), else fp16."""
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(int8_prefixes) and tensor.ndim >= 2 and tensor.numel() >= LARGE:
            rows = tensor.float().flatten(1)  # [O, I]
            scale = rows.abs().amax(1).clamp_min(1e-12) / 127  # [O]
            packed[name] = (rows / scale.unsqueeze(1)).round().to(torch.int8).view_as(tensor).contiguous()
            packed[name + SCALE] = scale
        else:
            packed[name] = tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous()
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `pack` stored, as fp32."""
    return {name: _unpacked(packed, name) for name in packed if not name.endswith(SCALE)}


def _unpacked(packed: Mapping[str, Tensor], name: str) -> Tensor:
    tensor, scale = packed[name], packed.get(name + SCALE)
    if scale is None:
        return tensor.float() if tensor.is_floating_point() else tensor
    return (tensor.float().flatten(1) * scale.unsqueeze(1)).view_as(tensor)


def pack_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [T, D] of a memory -> int8 [T, D] and their scales [T] in fp16; the error of a cosine is about .001."""
    scale = (rows.abs().amax(-1).clamp_min(1e-6) / 127).half()  # [T]
    return (rows / scale.float().unsqueeze(-1)).round().clamp(-127, 127).to(torch.int8), scale


def unpack_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """int8 [T, D] and [T] -> [T, D]."""
    return rows.float() * scale.float().unsqueeze(-1)
