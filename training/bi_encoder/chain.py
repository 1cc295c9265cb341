"""All heads of the image side together, and the sources that each of them reads. It fits nothing.

Axes, named once: B images, Q captions, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from llama_index_rnx.rankers.mini import ImageConfig
from training.bi_encoder.model import IMAGES_AT_ONCE, BiEncoder, chunked, encode_captions
from training.bi_encoder.source import CachedPairs
from training.mini import CaptionVectors, ImageEncoder, ImageScorer, ImageTower, ImageVectors
from training.weights import LITE2_CHANNELS


@dataclass(frozen=True, kw_only=True)
class ImageSplit:
    """One set of images, as every head has it cached: the first head's source, then the others'."""

    first: CachedPairs
    others: tuple[CachedPairs, ...]

    @property
    def all_rows(self) -> list[int]:
        """Indices of all images, also of those of another split."""
        return list(range(len(self.first.items)))


class Chain:
    """All heads together: the tuned tower with its head, and the other heads on their towers.

    Args:
        model: the trained bi-encoder.
        towers: of the other heads, as ImageNet left them.
        heads: a folder with `head.safetensors` for each of the towers.
    """

    def __init__(
        self, model: BiEncoder, towers: Sequence[ImageTower], heads: Sequence[Path]
    ) -> None:
        self.first = model
        self.towers = towers
        names = tuple(_tower_name(tower) for tower in towers)
        self.scorer = ImageScorer(ImageConfig(others=names)).eval()

        # Basis and bank have another size with more heads; they are computed here.
        trained = {
            name: tensor
            for name, tensor in model.part.state_dict().items()
            if name not in ("basis", "bank")
        }
        self.scorer.load_state_dict(trained, strict=False)
        for head, folder in zip(self.scorer.heads, heads, strict=True):
            head.load_state_dict(load_file(folder / "head.safetensors"))

    @torch.inference_mode()
    def images(self, split: ImageSplit, rows: list[int]) -> ImageVectors:
        """Encode the whole images (their first view) of `rows`."""
        batches = [self._images(split, batch) for batch in chunked(rows, IMAGES_AT_ONCE)]
        return ImageVectors(
            vector=torch.cat([batch.vector for batch in batches]),
            regions=torch.cat([batch.regions for batch in batches]),
        )

    def captions(self, split: ImageSplit, texts: list[int]) -> CaptionVectors:
        """Encode any texts of a split."""
        return encode_captions(self.scorer.captions, split.first, texts)

    @torch.no_grad()
    def join(
        self, split: ImageSplit, texts: list[int], figures: ImageSplit, figure_texts: list[int]
    ) -> None:
        """Compute the basis: principal directions of the captions' vectors, with the vectors of all
        heads concatenated.
        """
        vectors = torch.cat(
            [self._concatenated(split, texts), self._concatenated(figures, figure_texts)]
        )  # [Q, D + E * 384]
        # Fewer captions than columns span no whole basis; the full one adds arbitrary directions.
        is_short = len(vectors) < vectors.shape[1]
        directions = torch.linalg.svd(vectors, full_matrices=is_short).Vh  # one a row
        self.scorer.basis.copy_(directions[: self.scorer.config.dim].T)

    def eyes(self) -> ImageEncoder:
        """Return the towers as they ship."""
        encoder = ImageEncoder(self.scorer.config.others)
        encoder.tower.load_state_dict(self.first.tower.state_dict())
        for target, tower in zip(encoder.others, self.towers, strict=True):
            # Another Lite2 shares the trunk, and ships its end alone.
            source: nn.Module = tower if isinstance(target, ImageTower) else tower.end
            target.load_state_dict(source.state_dict())
        return encoder

    def _images(self, split: ImageSplit, rows: list[int]) -> ImageVectors:
        cells = [source.image_maps(rows).float() for source in split.others]
        first = self.first.images(split.first.image_maps(rows))
        return self.scorer.joined_images(first, cells)

    def _concatenated(self, split: ImageSplit, texts: list[int]) -> Tensor:
        pooled = torch.from_numpy(split.first.pooled[texts]).float()
        first = encode_captions(self.scorer.caption, split.first, texts).vector
        return torch.cat([first, *(head.captions(pooled) for head in self.scorer.heads)], -1)


def draw_texts(split: ImageSplit, count: int, seed: int = 0) -> list[int]:
    """Draw one text each of `count` training images."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(split.first.rows, size=count, replace=False)
    return [int(rng.choice(split.first.texts[row])) for row in rows]


def _tower_name(tower: ImageTower) -> str:
    return "lite2" if tower.end.head.conv.in_channels == LITE2_CHANNELS else "lite1"
