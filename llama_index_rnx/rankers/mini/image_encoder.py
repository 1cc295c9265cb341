"""Pixels in, the vectors of an image out. It knows no text, no query and no score.

Axes, named once: B images, H and W pixels, R regions, D image space, V word space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_index_rnx.rankers.mini.checkpoint import Checkpoint
from llama_index_rnx.rankers.mini.quantization import Floats

# PIL.Image.Resampling.BICUBIC; PIL itself is not imported here.
_BICUBIC = 3

# The TF-lite convention of the EfficientNet-Lite checkpoints: pixels of about -1 to 1.
_MEAN = 127.0
_STD = 128.0


@dataclass(frozen=True, kw_only=True)
class EncodedImages:
    """Images after the encoder and its heads.

    Attributes:
        vectors: [B, D], unit length.
        regions: [B, 16, V], unit length; row by row from the upper left.
        hubs: [B], how near an image is to captions in general.
    """

    vectors: Floats
    regions: Floats
    hubs: Floats


def preprocess(image: Any, size: int = 256) -> Floats:
    """Turn a PIL image into the encoder's input [3, size, size]: squashed (aspect not kept),
    bicubic; transparency on white.
    """
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        resized = image.convert("RGBA").resize((size, size), _BICUBIC)
        rgba = np.asarray(resized, dtype=np.float32)  # [H, W, 4]
        opacity = rgba[..., 3:] / 255.0
        pixels = rgba[..., :3] * opacity + 255.0 * (1.0 - opacity)  # [H, W, 3]
    else:
        resized = image.convert("RGB").resize((size, size), _BICUBIC)
        pixels = np.asarray(resized, dtype=np.float32)  # [H, W, 3]
    scaled = (pixels - np.float32(_MEAN)) / np.float32(_STD)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)  # [3, H, W]


class ImageEncoder:
    """Two EfficientNets (Tan and Le, arXiv 1905.11946) with the heads on their maps."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def encode(self, pixels: Floats) -> EncodedImages:
        """[B, 3, 256, 256] -> `EncodedImages`."""
        vectors, regions, hubs = self._checkpoint.run("image", {"pixels": pixels})
        return EncodedImages(vectors=vectors, regions=regions, hubs=hubs)
