"""The numbers of rnx-mini on disk: matrices and memories in int8 with a scale a row. It knows no
network.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The name of a matrix's scales is its own name with this behind it.
SCALE = "::scale"

# The least number whose share, a 127th, is not zero in fp16.
_SMALLEST = 1e-5

Floats = NDArray[np.float32]


def dequantize_matrix(tensor: NDArray[Any], scale: NDArray[Any] | None) -> Floats:
    """Return a stored tensor as fp32: int8 rows [O, ...] times their scale [O], or fp16."""
    if scale is None:
        return tensor.astype(np.float32)
    factors = scale.astype(np.float32).reshape(-1, *[1] * (tensor.ndim - 1))  # [O, 1, ...]
    weights: Floats = np.multiply(tensor, factors, dtype=np.float32)
    return weights


def quantize_rows(rows: Floats) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Return rows [T, D] of a memory as int8 [T, D], and their scales [T] in fp16; the error of a
    cosine is about .001.
    """
    largest = np.abs(rows).max(-1).clip(_SMALLEST)  # [T]
    scale = (largest / 127).astype(np.float16)
    numbers = np.rint(rows / scale.astype(np.float32)[:, None]).clip(-127, 127)
    return numbers.astype(np.int8), scale


def dequantize_rows(rows: NDArray[Any], scale: NDArray[Any]) -> Floats:
    """int8 [..., T, D] and [..., T] -> [..., T, D]."""
    return rows.astype(np.float32) * scale.astype(np.float32)[..., None]


def normalize(vectors: Floats) -> Floats:
    """[..., D] -> unit length [..., D]; zeros stay zeros."""
    lengths = np.sqrt(np.square(vectors).sum(-1, keepdims=True))
    unit: Floats = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit
