"""A memory of a vision-language model as tensors on disk, in half or a quarter of their size."""

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
    """`text`, `image` or `both`: what a memory holds."""
    return (
        "both"
        if "text" in memory and "image" in memory
        else "image"
        if "image" in memory
        else "text"
    )


def pack(seen: ImageFeatures, dtype: torch.dtype) -> dict[str, Tensor]:
    """A picture as the tensors of a memory, on the CPU."""
    memory = {"grid": seen.grid.to(torch.int32).cpu(), **_packed("image", seen.tokens, dtype)}
    return memory if seen.deep is None else {**memory, **_packed("deep", seen.deep, dtype)}


def unpack(memory: Memory) -> ImageFeatures:
    """The picture of a memory."""
    deep = _unpacked("deep", memory) if "deep" in memory else None
    return ImageFeatures(tokens=_unpacked("image", memory), grid=memory["grid"].long(), deep=deep)


def _packed(name: str, rows: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    if dtype != torch.int8:
        return {name: rows.to(dtype, copy=True).cpu()}  # a view would keep its whole batch alive
    scale = rows.float().abs().amax(-1).clamp_min(1e-12) / 127  # [V] or [D, V]
    small = (rows.float() / scale.unsqueeze(-1)).round().to(torch.int8)
    return {name: small.cpu().contiguous(), f"{name}_scale": scale.cpu().contiguous()}


def _unpacked(name: str, memory: Memory) -> Tensor:
    rows, scale = memory[name], memory.get(f"{name}_scale")
    return rows if scale is None else rows.float() * scale.unsqueeze(-1)
