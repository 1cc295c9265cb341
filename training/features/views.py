"""Random crops of an image at the encoder's size. It knows no model."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from llama_index_rnx.rankers.mini import preprocess


def views(image: Image.Image, count: int, seed: int, flip: bool) -> list[Tensor]:
    """The whole picture, then random crops of 60 to 100 % of the area; every second view mirrored
    if `flip`.
    """
    rng = np.random.default_rng(seed)
    image = image.convert("RGB")
    made = [preprocess(image)]  # [3, H, W]
    for i in range(1, count):
        share = 1.0 if i == 1 and flip else rng.uniform(0.6, 1.0)
        width, height = (max(8, round(side * share**0.5)) for side in image.size)
        left = int(rng.integers(image.width - width + 1)) if image.width >= width else 0
        top = int(rng.integers(image.height - height + 1)) if image.height >= height else 0
        view = preprocess(image.crop((left, top, left + width, top + height)))
        made.append(view.flip(-1) if flip and i % 2 else view)
    return made
