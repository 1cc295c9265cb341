"""The mean of several checkpoints."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from training.engine import strip_prefix


def weights_of(path: Path) -> dict[str, Tensor]:
    """The weights in either kind of file."""
    found = load_file(path)
    return strip_prefix(found, "average") or found
