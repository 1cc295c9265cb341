"""The image-caption bi-encoder of rnx-mini: its heads and its late interaction. It reads no files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_index_rnx.rankers.mini import (
    CaptionVectors,
    ImageConfig,
    ImageScorer,
    ImageTower,
    ImageVectors,
)
from training.bi_encoder.source import Source

CaptionsOf = Callable[
    [Tensor, Tensor, Tensor], CaptionVectors
]  # states, mask, pooled: `CaptionHead`, `ImageScorer.captions`


@dataclass(frozen=True, kw_only=True)
class BiEncoderSettings:
    """One run; defaults are those of the first run behind the weights in the package."""

    steps: int = 260
    batch: int = 256
    frozen_steps: int = 40  # the projector first finds its place, then the tower moves
    rate: float = 1e-3
    tower_rate: float = 1.5e-4
    decay: float = 0.05
    tower_decay: float = 0.01
    dropout: float = 0.3
    word_dropout: float = 0.1
    captions: int = 3  # of a Flickr picture a step
    openstax: float = 0.33  # OpenStax batches a Flickr batch
    ema: float = 0.97
    seed: int = 0


class BiEncoder(nn.Module):
    """The tunable end of the image tower and the image part."""

    def __init__(self, tower: ImageTower, settings: BiEncoderSettings) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False)
        self.part = ImageScorer(ImageConfig(dropout=settings.dropout))
        self.temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def tuned(self) -> list[nn.Parameter]:
        """The tower's pointwise convolutions after its last stride."""
        first, *rest = self.tower.end.blocks
        parts = [
            first.project,
            self.tower.end.head,
            *(p for block in rest for p in (block.expand, block.project)),
        ]
        return [p for part in parts for p in part.parameters()]

    def images(self, middle: Tensor) -> ImageVectors:
        """[B, 16, 16, 120] -> vectors and regions."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vectors: ImageVectors = self.part.projector(
                self.tower.end(middle.permute(0, 3, 1, 2).float())
            )
        return vectors

    def captions(self, states: Tensor, mask: Tensor, pooled: Tensor) -> CaptionVectors:
        """As `CaptionHead`."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vectors: CaptionVectors = self.part.caption(states, mask, pooled)
        return vectors


def all_late(captions: CaptionVectors, regions: Tensor) -> Tensor:
    """Late interaction of every caption with every picture: -> [Q, B]."""
    words, (count, cells, width) = captions.words, regions.shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = words.flatten(0, 1) @ regions.reshape(-1, width).T  # [Q * T, B * R]
    best = near.view(len(near), count, cells).amax(-1).view(*words.shape[:2], count)  # [Q, T, B]
    return torch.einsum("qtb,qt->qb", best.float(), captions.weights)


def late_matrix(captions: CaptionVectors, regions: Tensor) -> Tensor:
    """As `all_late`, in parts that fit the memory."""
    parts = [
        all_late(part_of(captions, i, i + 200), regions)
        for i in range(0, len(captions.vector), 200)
    ]
    return torch.cat(parts)


@torch.inference_mode()
def embed_images(model: BiEncoder, source: Source, rows: list[int]) -> ImageVectors:
    """The whole pictures (first view) of `rows`."""
    parts = [model.images(source.pictures(b, np.zeros(len(b), int))) for b in chunks(rows, 128)]
    return ImageVectors(
        vector=torch.cat([p.vector for p in parts]), regions=torch.cat([p.regions for p in parts])
    )


def owners(source: Source) -> tuple[list[int], Tensor]:
    """All texts of a split, and the owner [Q] of each: its picture's place among the split's rows."""
    texts = [t for r in source.rows for t in source.texts[r]]
    return texts, torch.tensor([i for i, r in enumerate(source.rows) for _ in source.texts[r]])


@torch.inference_mode()
def captions_of(head: CaptionsOf, source: Source, texts: list[int]) -> CaptionVectors:
    """Any texts of a source, in parts that fit the memory."""
    longest = int(max(source.starts[t + 1] - source.starts[t] for t in texts))
    found = [padded(head(*source.captions(b)), longest) for b in chunks(texts, 512)]
    return CaptionVectors(
        vector=torch.cat([c.vector for c in found]),
        words=torch.cat([c.words for c in found]),
        weights=torch.cat([c.weights for c in found]),
    )


def padded(captions: CaptionVectors, longest: int) -> CaptionVectors:
    """With zeros behind, up to `longest` words."""
    extra = longest - captions.words.shape[1]
    words, weights = F.pad(captions.words, (0, 0, 0, extra)), F.pad(captions.weights, (0, extra))
    return CaptionVectors(vector=captions.vector, words=words, weights=weights)


def chunks(rows: list[int], size: int) -> list[list[int]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def recalls(scores: Tensor, owner: Tensor) -> dict[str, float]:
    """Text to image R@1/5/10 and image to text R@1, in percent. scores: [Q, B]."""
    rank = (scores > scores.gather(1, owner[:, None])).sum(1)  # [Q]
    found = {f"R@{k}": 100 * float((rank < k).float().mean()) for k in (1, 5, 10)}
    found["i2t R@1"] = 100 * float(
        (owner[scores.argmax(0)] == torch.arange(scores.shape[1])).float().mean()
    )
    return {name: round(value, 1) for name, value in found.items()}


def part_of(captions: CaptionVectors, start: int, stop: int) -> CaptionVectors:
    """Queries `start` to `stop`."""
    return CaptionVectors(
        vector=captions.vector[start:stop],
        words=captions.words[start:stop],
        weights=captions.weights[start:stop],
    )
