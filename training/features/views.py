"""Random crops of an image at the encoder's size. It knows no model."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llama_index_rnx.rankers.mini import preprocess

SMALLEST = 8  # pixels of a side


def views(image: Image.Image, count: int, seed: int, flip: bool) -> list[Tensor]:
    """Return `count` views [3, H, W]: the whole image, then random crops of 60 to 100 % of its
    area; with `flip` every second view is mirrored.
    """
    rng = np.random.default_rng(seed)
    image = image.convert("RGB")
    tensors = [torch.from_numpy(preprocess(image))]  # [3, H, W]
    for index in range(1, count):
        # With `flip` the second view is the whole image, mirrored.
        share = 1.0 if index == 1 and flip else rng.uniform(0.6, 1.0)
        view = torch.from_numpy(preprocess(_crop(image, share, rng)))
        tensors.append(view.flip(-1) if flip and index % 2 else view)
    return tensors


def _crop(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Cut out a random part of the image's shape; share: of its area."""
    width, height = (max(SMALLEST, round(side * share**0.5)) for side in image.size)
    x = int(rng.integers(image.width - width + 1)) if image.width >= width else 0
    y = int(rng.integers(image.height - height + 1)) if image.height >= height else 0
    return image.crop((x, y, x + width, y + height))
