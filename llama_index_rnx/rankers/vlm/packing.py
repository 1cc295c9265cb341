"""A memory of a vision-language model as tensors on disk, in half or a quarter of their size. It
knows no model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.vlm.backbone import ImageFeatures
from llama_index_rnx.rankers.vlm.prompts import Kind

MEMORY_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "int8": torch.int8,
}


def kind_of(memory: Memory) -> Kind:
    """Return `text`, `image` or `both`: what a memory holds."""
    if "image" not in memory:
        return "text"
    return "both" if "text" in memory else "image"


def pack(features: ImageFeatures, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the features of an image as the tensors of a memory, on the CPU: `image` [V, H],
    `grid` [3] int32 and perhaps `deep` [D, V, H]; as int8 also their scales [V] and [D, V].
    """
    grid = features.grid.to(torch.int32).cpu()
    memory = {"grid": grid, **_quantize("image", features.tokens, dtype)}
    if features.deep is not None:
        memory |= _quantize("deep", features.deep, dtype)
    return memory


def unpack(memory: Memory) -> ImageFeatures:
    """Return the image of a memory, with int8 rows scaled back to float32."""
    deep = _dequantize("deep", memory) if "deep" in memory else None
    tokens = _dequantize("image", memory)
    return ImageFeatures(tokens=tokens, grid=memory["grid"].long(), deep=deep)


def _quantize(name: str, rows: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    if dtype != torch.int8:
        # A view would keep the whole batch of the vision tower alive, so the rows are copied.
        return {name: rows.to(dtype, copy=True).cpu()}
    scale = rows.float().abs().amax(-1).clamp_min(1e-12) / 127  # [V] or [D, V]
    small = (rows.float() / scale.unsqueeze(-1)).round().to(torch.int8)
    return {name: small.cpu().contiguous(), f"{name}_scale": scale.cpu().contiguous()}


def _dequantize(name: str, memory: Memory) -> Tensor:
    rows: Tensor = memory[name]
    scale = memory.get(f"{name}_scale")
    return rows if scale is None else rows.float() * scale.unsqueeze(-1)
