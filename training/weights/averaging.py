"""The mean of several checkpoints. It trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_index_rnx.system import atomic_write
from training.engine import strip_prefix


def load_weights(path: Path) -> dict[str, Tensor]:
    """Load a file of weights, or the moving average in a `checkpoint.safetensors`."""
    tensors = load_file(path)
    return strip_prefix(tensors, "average") or tensors


def average_weights(paths: Sequence[Path], to: Path) -> None:
    """Write the mean of the weights in several files; every file holds the same names."""
    checkpoints = [load_weights(path) for path in paths]
    mean = {
        name: torch.stack([weights[name] for weights in checkpoints]).mean(0)
        for name in checkpoints[0]
    }
    with atomic_write(to) as partial:
        save_file(mean, partial)
