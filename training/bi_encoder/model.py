"""The image-caption bi-encoder of rnx-mini: its heads and its late interaction. It reads no files.

Axes, named once: B images, Q captions, T tokens, R regions, D width of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_index_rnx.rankers.mini import ImageConfig
from training.bi_encoder.source import CachedPairs
from training.mini import CaptionVectors, ImageScorer, ImageTower, ImageVectors

# States, mask and pooled in, vectors out: `CaptionHead` or `ImageScorer.captions`.
CaptionEncoder = Callable[[Tensor, Tensor, Tensor], CaptionVectors]

IMAGES_AT_ONCE = 128
TEXTS_AT_ONCE = 512

# Captions per call of the late interaction, which bounds its memory.
LATE_AT_ONCE = 200


@dataclass(frozen=True, kw_only=True)
class BiEncoderSettings:
    """The settings of one run; defaults are those of the first run behind the weights in the
    package. Every field is an option of `training.train_retriever`.

    Args:
        steps: optimizer steps.
        batch: images per batch.
        frozen_steps: steps before the tower is tuned; the projector finds its place first.
        rate: peak learning rate of the heads. tower_rate: of the tower; 0 freezes it.
        decay, tower_decay: weight decay of matrices, and of the tower.
        dropout: in the heads. word_dropout: share of a caption's tokens that is masked.
        captions: captions per Flickr8k image and step.
        openstax: OpenStax batches per Flickr8k batch.
        ema: share of the moving average that stays at a step.
        seed: of everything that is drawn.
    """

    steps: int = 260
    batch: int = 256
    frozen_steps: int = 40
    rate: float = 1e-3
    tower_rate: float = 1.5e-4
    decay: float = 0.05
    tower_decay: float = 0.01
    dropout: float = 0.3
    word_dropout: float = 0.1
    captions: int = 3
    openstax: float = 0.33
    ema: float = 0.97
    seed: int = 0


class BiEncoder(nn.Module):
    """The tunable end of the image tower, and the image heads."""

    def __init__(self, tower: ImageTower, settings: BiEncoderSettings) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False)
        self.part = ImageScorer(ImageConfig(dropout=settings.dropout))
        self.temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def tuned(self) -> list[nn.Parameter]:
        """Return the pointwise convolutions of the tower after its last stride."""
        first, *rest = self.tower.end.blocks
        modules = [first.project, self.tower.end.head]
        for block in rest:
            modules += [block.expand, block.project]
        return [p for module in modules for p in cast("nn.Module", module).parameters()]

    def images(self, middle: Tensor) -> ImageVectors:
        """[B, 16, 16, 120] -> vectors [B, D] and regions [B, R, W]."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            last = self.tower.end(middle.permute(0, 3, 1, 2).float())  # [B, 1280, 8, 8]
            vectors: ImageVectors = self.part.projector(last)
        return vectors

    def captions(self, states: Tensor, mask: Tensor, pooled: Tensor) -> CaptionVectors:
        """Encode captions as `CaptionHead` does: states [Q, T, 384], mask [Q, T], pooled
        [Q, 384].
        """
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vectors: CaptionVectors = self.part.caption(states, mask, pooled)
        return vectors


def late_scores(captions: CaptionVectors, regions: Tensor) -> Tensor:
    """Return the late interaction of every caption with every image, [Q, B]; regions: [B, R, W]."""
    words = captions.words  # [Q, T, W]
    count, cells, width = regions.shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarity = words.flatten(0, 1) @ regions.reshape(-1, width).T  # [Q * T, B * R]

    best = similarity.view(len(similarity), count, cells).amax(-1)  # [Q * T, B]
    best = best.view(*words.shape[:2], count)  # [Q, T, B]
    return torch.einsum("qtb,qt->qb", best.float(), captions.weights)


def late_score_matrix(captions: CaptionVectors, regions: Tensor) -> Tensor:
    """Return `late_scores` of any number of captions, computed in chunks that fit the memory."""
    starts = range(0, len(captions.vector), LATE_AT_ONCE)
    chunks = [
        late_scores(slice_captions(captions, start, start + LATE_AT_ONCE), regions)
        for start in starts
    ]
    return torch.cat(chunks)


@torch.inference_mode()
def encode_images(model: BiEncoder, source: CachedPairs, rows: list[int]) -> ImageVectors:
    """Encode the whole images (their first view) of `rows`."""
    batches = [model.images(source.image_maps(batch)) for batch in chunked(rows, IMAGES_AT_ONCE)]
    return ImageVectors(
        vector=torch.cat([batch.vector for batch in batches]),
        regions=torch.cat([batch.regions for batch in batches]),
    )


@torch.inference_mode()
def encode_captions(
    encoder: CaptionEncoder, source: CachedPairs, texts: list[int]
) -> CaptionVectors:
    """Encode any texts of a source, in batches that fit the memory."""
    longest = int(max(source.starts[text + 1] - source.starts[text] for text in texts))
    batches = [
        pad_captions(encoder(*source.caption_states(batch)), longest)
        for batch in chunked(texts, TEXTS_AT_ONCE)
    ]
    return CaptionVectors(
        vector=torch.cat([batch.vector for batch in batches]),
        words=torch.cat([batch.words for batch in batches]),
        weights=torch.cat([batch.weights for batch in batches]),
    )


def owners(source: CachedPairs) -> tuple[list[int], Tensor]:
    """Return all texts of a split, and the owner [Q] of each: the position of its image among the
    split's rows.
    """
    texts = [text for row in source.rows for text in source.texts[row]]
    owner = [position for position, row in enumerate(source.rows) for _ in source.texts[row]]
    return texts, torch.tensor(owner)


def pad_captions(captions: CaptionVectors, longest: int) -> CaptionVectors:
    """Pad with zeros up to `longest` words."""
    extra = longest - captions.words.shape[1]
    return CaptionVectors(
        vector=captions.vector,
        words=F.pad(captions.words, (0, 0, 0, extra)),
        weights=F.pad(captions.weights, (0, extra)),
    )


def slice_captions(captions: CaptionVectors, start: int, stop: int) -> CaptionVectors:
    """Return captions `start` to `stop`."""
    return CaptionVectors(
        vector=captions.vector[start:stop],
        words=captions.words[start:stop],
        weights=captions.weights[start:stop],
    )


def chunked(rows: list[int], size: int) -> list[list[int]]:
    """Split a list into lists of at most `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def recalls(scores: Tensor, owner: Tensor) -> dict[str, float]:
    """Return text-to-image R@1/5/10 and image-to-text R@1, in percent; scores: [Q, B]."""
    owner_scores = scores.gather(1, owner[:, None])  # [Q, 1]
    rank = (scores > owner_scores).sum(1)  # [Q], 0 is best
    values = {f"R@{k}": (rank < k).float().mean() for k in (1, 5, 10)}

    best_caption = owner[scores.argmax(0)]  # [B]
    values["i2t R@1"] = (best_caption == torch.arange(scores.shape[1])).float().mean()
    return {name: round(100 * float(value), 1) for name, value in values.items()}
