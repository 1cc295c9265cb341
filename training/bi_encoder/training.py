"""How the bi-encoder is trained: contrastively, over images and captions. It knows no files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.bi_encoder.model import (
    BiEncoder,
    BiEncoderSettings,
    encode_captions,
    encode_images,
    late_score_matrix,
    late_scores,
    owners,
    recalls,
    slice_captions,
)
from training.bi_encoder.source import CachedPairs, epoch_batch
from training.engine import ModuleTask, warmup_times_cosine
from training.losses import infonce

BETAS = (0.9, 0.98)
WARMUP_STEPS = 20
MAX_SCALE = 100.0  # of the cosines, whatever the temperature learns

# Tokens of a caption that are read: of photographs, whose captions are short, and of figures.
PHOTO_TOKENS = 24
FIGURE_TOKENS = 48

DEV_SPLITS = ("flickr_dev", "openstax_dev")


class BiEncoderTask(ModuleTask):
    """The bi-encoder on Flickr8k in every step and on OpenStax in some."""

    name = "bi-encoder"
    evaluate_every = 60
    max_grad_norm = 5.0

    def __init__(
        self, model: BiEncoder, data: Mapping[str, CachedPairs], settings: BiEncoderSettings
    ) -> None:
        super().__init__(model)
        self.model = model
        self.data = data
        self.settings = settings
        self.steps = settings.steps

    def build_optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        heads = [*self.model.part.parameters(), self.model.temperature]
        groups = [
            {
                "params": [p for p in heads if p.ndim > 1],
                "lr": settings.rate,
                "weight_decay": settings.decay,
            },
            {
                "params": [p for p in heads if p.ndim <= 1],
                "lr": settings.rate,
                "weight_decay": 0.0,
            },
            {
                "params": self.model.tuned(),
                "lr": settings.tower_rate,
                "weight_decay": settings.tower_decay,
            },
        ]
        return torch.optim.AdamW(groups, betas=BETAS)

    def learning_rate_factor(self, step: int) -> float:
        return warmup_times_cosine(step, WARMUP_STEPS, self.steps)

    def ema_decay(self, step: int) -> float:
        return min(self.settings.ema, step / (step + 10))

    def losses(self, step: int) -> Iterator[Tensor]:
        settings = self.settings
        self.model.train()
        is_tuned = step >= settings.frozen_steps and settings.tower_rate > 0
        for parameter in self.model.tuned():
            parameter.requires_grad_(is_tuned)

        rng = np.random.default_rng([settings.seed, step])
        torch.manual_seed(settings.seed * 100_003 + step)
        for name, rows in self._batches(step):
            yield batch_loss(self.model, self.data[name], rows, rng, settings)

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Return recalls in percent of the cosine, and of cosine + late interaction over all
        images, on both development splits.
        """
        self.model.eval()
        metrics: dict[str, float] = {}
        for split in DEV_SPLITS:
            for kind, scores, owner in _score_split(self.model, self.data[split]):
                values = recalls(scores, owner)
                metrics.update({f"{split} {kind} {name}": x for name, x in values.items()})
        return metrics

    def _batches(self, step: int) -> list[tuple[str, list[int]]]:
        """Return the sources of a step with their rows: Flickr8k always, OpenStax `openstax` times
        a step on average.
        """
        settings = self.settings
        flickr = epoch_batch(self.data["flickr_train"].rows, settings.batch, step, settings.seed)
        batches = [("flickr_train", flickr)]

        before = int(step * settings.openstax)
        after = int((step + 1) * settings.openstax)
        for _ in range(before, after):
            rows = epoch_batch(self.data["openstax"].rows, settings.batch, before, settings.seed)
            batches.append(("openstax", rows))
        return batches


def batch_loss(
    model: BiEncoder,
    source: CachedPairs,
    rows: list[int],
    rng: np.random.Generator,
    settings: BiEncoderSettings,
) -> Tensor:
    """Return the loss of a batch: InfoNCE of the cosine on all captions, plus InfoNCE with late
    interaction added on one caption per image.
    """
    shuffled = [list(rng.permutation(source.texts[row])) for row in rows]
    is_photographs = source.views > 2
    per_image = settings.captions if is_photographs else 1
    longest = PHOTO_TOKENS if is_photographs else FIGURE_TOKENS

    # The first caption of every image, then the others of all images.
    extra = [(i, text) for i, texts in enumerate(shuffled) for text in texts[1:per_image]]
    texts = [*(texts[0] for texts in shuffled), *(text for _, text in extra)]
    owner = torch.tensor([*range(len(rows)), *(i for i, _ in extra)])  # [Q]
    states, mask, pooled = source.caption_states(texts, longest)
    if settings.word_dropout:
        keep = torch.from_numpy(rng.random(mask.shape) >= settings.word_dropout)
        is_first = torch.arange(mask.shape[1]) == 0
        mask = mask & (keep | is_first)

    images = model.images(source.image_maps(rows, source.draw_views(len(rows), rng)))
    captions = model.captions(states, mask, pooled)
    scale = model.temperature.exp().clamp(max=MAX_SCALE)
    target = F.one_hot(owner, len(rows)).float()  # [Q, B]
    cosine = captions.vector @ images.vector.T  # [Q, B]

    count = len(rows)
    late = late_scores(slice_captions(captions, 0, count), images.regions)  # [B, B]
    joint = cosine[:count] + model.part.late * late
    return infonce(scale * cosine, target) + infonce(scale * joint, target[:count])


def _score_split(model: BiEncoder, source: CachedPairs) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield (kind, scores [Q, B], owner [Q]) of both kinds of score."""
    texts, owner = owners(source)
    images = encode_images(model, source, source.rows)
    captions = encode_captions(model.part.caption, source, texts)

    cosine = captions.vector @ images.vector.T
    yield "cosine", cosine, owner
    yield "joint", cosine + model.part.late * late_score_matrix(captions, images.regions), owner
