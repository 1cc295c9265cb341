"""More heads for the bi-encoder: pairs of vectors on frozen maps and pooled captions. It knows no
files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_index_rnx.rankers.mini import ImageConfig
from training.bi_encoder.model import IMAGES_AT_ONCE, chunked, recalls
from training.bi_encoder.source import CachedPairs, epoch_batch
from training.bi_encoder.training import BETAS, DEV_SPLITS, MAX_SCALE, WARMUP_STEPS
from training.engine import ModuleTask, warmup_times_cosine
from training.losses import infonce
from training.mini import AuxiliaryHead


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The settings of one head; defaults are those of the weights in the package. Every field is an
    option of `training.train_heads`.

    Args:
        steps: optimizer steps; 400 are 33 epochs of photographs, and figures go on gaining after
            photographs have stopped.
        batch: photographs per step.
        figures: OpenStax images of a step that has some. openstax: the share of such steps.
        rate: peak learning rate. decay: weight decay of matrices.
        dropout: in the head. ema: share of the moving average that stays at a step.
        seed: of everything that is drawn.
    """

    steps: int = 400
    batch: int = 512
    figures: int = 256
    openstax: float = 0.34
    rate: float = 1e-3
    decay: float = 0.05
    dropout: float = 0.3
    ema: float = 0.98
    seed: int = 0


class Head(nn.Module):
    """An `AuxiliaryHead`, and the temperature it is trained with."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.pair = AuxiliaryHead(ImageConfig(dropout=settings.dropout))
        self.temperature = nn.Parameter(torch.tensor(math.log(20.0)))

    def loss(self, cells: Tensor, pooled: Tensor, owner: Tensor) -> Tensor:
        """Return InfoNCE of all captions of a batch; cells [B, 16, 1280], pooled [Q, 384], owner
        [Q].
        """
        with torch.autocast("cpu", dtype=torch.bfloat16):
            images = self.pair.images(cells.bfloat16())  # [B, D]
            captions = self.pair.captions(pooled)  # [Q, D]
        scale = self.temperature.exp().clamp(max=MAX_SCALE)
        return infonce(scale * (captions @ images.T), F.one_hot(owner, len(cells)).float())


class HeadTask(ModuleTask):
    """A head on Flickr8k in every step and on OpenStax in some."""

    name = "head"
    evaluate_every = 100
    max_grad_norm = 5.0

    def __init__(self, head: Head, data: Mapping[str, CachedPairs], settings: HeadSettings) -> None:
        super().__init__(head)
        self.head = head
        self.data = data
        self.settings = settings
        self.steps = settings.steps

    def build_optimizer(self) -> torch.optim.Optimizer:
        parameters = list(self.head.parameters())
        groups = [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": self.settings.decay,
            },
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.settings.rate, betas=BETAS)

    def learning_rate_factor(self, step: int) -> float:
        return warmup_times_cosine(step, WARMUP_STEPS, self.steps)

    def ema_decay(self, step: int) -> float:
        return min(self.settings.ema, step / (step + 10))

    def losses(self, step: int) -> Iterator[Tensor]:
        self.head.train()
        rng = np.random.default_rng([self.settings.seed, step])
        torch.manual_seed(self.settings.seed * 100_003 + step)
        for source, rows in self._batches(step):
            cells = source.image_maps(rows, source.draw_views(len(rows), rng))
            yield self.head.loss(cells, *pooled_captions(source, rows))

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Return recalls in percent of the head alone, on both development splits."""
        metrics: dict[str, float] = {}
        for split in DEV_SPLITS:
            source = self.data[split]
            images = encode_images(self.head.pair, source, source.rows)
            pooled, owner = pooled_captions(source, source.rows)
            values = recalls(self.head.pair.captions(pooled) @ images.T, owner)
            metrics.update({f"{split} cosine {name}": x for name, x in values.items()})
        return metrics

    def _batches(self, step: int) -> list[tuple[CachedPairs, list[int]]]:
        """Return photographs in every step, and figures in a share of them."""
        settings = self.settings
        photos = self.data["flickr_train"]
        batches = [(photos, epoch_batch(photos.rows, settings.batch, step, settings.seed))]

        before = int(step * settings.openstax)
        after = int((step + 1) * settings.openstax)
        if after > before:
            figures = self.data["openstax"]
            rows = epoch_batch(figures.rows, settings.figures, before, settings.seed)
            batches.append((figures, rows))
        return batches


def pooled_captions(source: CachedPairs, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Return the pooled captions [Q, 384] of some images, and the owner [Q] of each: the position
    of its image in `rows`.
    """
    texts = [text for row in rows for text in source.texts[row]]
    owner = [position for position, row in enumerate(rows) for _ in source.texts[row]]
    return torch.from_numpy(source.pooled[texts]).float(), torch.tensor(owner)


@torch.inference_mode()
def encode_images(head: AuxiliaryHead, source: CachedPairs, rows: list[int]) -> Tensor:
    """Return vectors [B, D] of whole images."""
    head.eval()
    batches = chunked(rows, IMAGES_AT_ONCE)
    return torch.cat([head.images(source.image_maps(batch).float()) for batch in batches])
