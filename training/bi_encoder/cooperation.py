"""Bi-encoder and cross-encoder, separate (SEP) or with shared weights (JOINT): how they are trained
together. Source: Retrieve Fast, Rerank Smart, arXiv 2103.11920.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.bi_encoder.model import IMAGES_AT_ONCE, TEXTS_AT_ONCE, chunked, owners
from training.bi_encoder.shared_encoder import SharedEncoder
from training.bi_encoder.source import CachedPairs, epoch_batch
from training.bi_encoder.training import BETAS, MAX_SCALE
from training.engine import ModuleTask, warmup_times_cosine
from training.losses import hard_triplet, infonce

WORDS = 24  # of a caption; longer ones are cut

# Captions whose hard negatives are mined at once; all of them would fill a gigabyte.
MINED_AT_ONCE = 1_000


@dataclass(frozen=True, kw_only=True)
class CooperationSettings:
    """The settings of one run of all three models. Every field is an option of
    `training.cooperation`.

    Args:
        rounds: of one step each of the bi-encoder, of the cross-encoder, or of both in turn.
        pictures: images of a bi-encoder batch. captions: of each of them.
        lists: of a cross-encoder batch: a caption, its image and wrong ones.
        length: images of a list.
        nearest: hard negatives are drawn from that many that the bi-encoder puts first.
        hard: hard negatives of a list; the others are drawn from all images. With hard ones alone
            the loss never leaves log(length).
        mine_every: rounds; the bi-encoder of the moment mines anew (ANCE, arXiv 2007.00808).
        rate: peak learning rate. decay: weight decay.
        dropout, width, layers: of the shared encoder.
        loss: of the bi-encoder, "infonce" or "hard_triplet".
        queries: captions whose scores over all images the cross-encoder computes.
        seed: of everything that is drawn.
    """

    rounds: int = 300
    pictures: int = 256
    captions: int = 2
    lists: int = 24
    length: int = 8
    nearest: int = 50
    hard: int = 2
    mine_every: int = 60
    rate: float = 5e-4
    decay: float = 0.05
    dropout: float = 0.2
    width: int = 128
    layers: int = 2
    loss: str = "infonce"
    queries: int = 500
    seed: int = 0


class CooperationTask(ModuleTask):
    """A shared encoder in training on one source of photographs: as bi-encoder, as cross-encoder,
    or as both in turn.

    Args:
        encoder: the weights to train.
        source: photographs with `grid` maps.
        settings: of the run.
        turns: "bi", "cross" or both; a step has one loss per turn, each with a batch of its own.
            Losses are never added up: every turn moves the weights.
        miner: the bi-encoder that mines hard negatives; by default the encoder itself.
    """

    max_grad_norm = 1.0
    updates_after_each_loss = True

    def __init__(
        self,
        encoder: SharedEncoder,
        source: CachedPairs,
        settings: CooperationSettings,
        turns: Sequence[str],
        miner: SharedEncoder | None = None,
    ) -> None:
        super().__init__(encoder)
        self.encoder = encoder
        self.source = source
        self.settings = settings
        self.turns = tuple(turns)
        self.miner = miner or encoder

        self.name = "+".join(turns)
        self.steps = settings.rounds
        self.evaluate_every = settings.mine_every
        self._hard_negatives = torch.empty(0, dtype=torch.long)  # [texts, nearest]

    def build_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.encoder.parameters(),
            lr=self.settings.rate,
            weight_decay=self.settings.decay,
            betas=BETAS,
        )

    def learning_rate_factor(self, step: int) -> float:
        return warmup_times_cosine(step, 0.1 * self.steps, self.steps)

    def ema_decay(self, step: int) -> float:
        """Average nothing: the run ends with the last weights."""
        return 0.0

    def losses(self, step: int) -> Iterator[Tensor]:
        if "cross" in self.turns and step % self.settings.mine_every == 0:
            self._hard_negatives = mine_hard_negatives(
                self.miner, self.source, self.settings.nearest
            )

        rng = np.random.default_rng([self.settings.seed, step])
        torch.manual_seed(self.settings.seed * 100_003 + step)
        self.encoder.train()
        for turn in self.turns:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = self._bi_loss(step, rng) if turn == "bi" else self._cross_loss(step, rng)
            # Outside of autocast, which must not reach the backward pass.
            yield loss

    def state(self) -> dict[str, Tensor]:
        """Return the mined negatives: the weights that mined them are gone."""
        return {"hard_negatives": self._hard_negatives} if len(self._hard_negatives) else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._hard_negatives = state.get("hard_negatives", self._hard_negatives)

    def _bi_loss(self, step: int, rng: np.random.Generator) -> Tensor:
        """Return the loss with in-batch negatives."""
        settings = self.settings
        rows = epoch_batch(self.source.rows, settings.pictures, step, settings.seed)
        chosen = [rng.permutation(self.source.texts[row])[: settings.captions] for row in rows]
        owner = torch.tensor([i for i, texts in enumerate(chosen) for _ in texts])  # [Q]
        texts = [int(text) for texts in chosen for text in texts]

        states, mask, _ = self.source.caption_states(texts, WORDS)
        cells = self.source.image_maps(rows, self.source.draw_views(len(rows), rng)).float()
        cosine = self.encoder.captions(states, mask) @ self.encoder.images(cells).T  # [Q, B]
        if settings.loss == "hard_triplet":
            return hard_triplet(cosine, owner)
        scale = self.encoder.temperature.exp().clamp(max=MAX_SCALE)
        return infonce(scale * cosine, F.one_hot(owner, len(rows)).float())

    def _cross_loss(self, step: int, rng: np.random.Generator) -> Tensor:
        """Return the cross-entropy of lists: a caption's image first, then mined wrong ones."""
        settings = self.settings
        rows = epoch_batch(self.source.rows, settings.lists, step, settings.seed + 1)
        texts = [int(rng.choice(self.source.texts[row])) for row in rows]
        images = [
            image
            for row, text in zip(rows, texts, strict=True)
            for image in (row, *self._negatives(row, text, rng))
        ]
        cells = self.source.image_maps(images, self.source.draw_views(len(images), rng)).float()

        states, mask, _ = self.source.caption_states(texts, WORDS)
        states = states.repeat_interleave(settings.length, 0)
        mask = mask.repeat_interleave(settings.length, 0)
        scores = self.encoder.together(cells, states, mask).view(len(rows), settings.length)
        return F.cross_entropy(scores, torch.zeros(len(rows), dtype=torch.long))

    def _negatives(self, row: int, text: int, rng: np.random.Generator) -> list[int]:
        """Draw wrong images of a caption: some hard ones, then some of all others."""
        settings = self.settings
        hard = rng.choice(self._hard_negatives[text].numpy(), settings.hard, replace=False)
        random = rng.choice(self.source.rows, settings.length, replace=False)
        negatives = [*map(int, hard), *(int(image) for image in random if image != row)]
        return negatives[: settings.length - 1]


def new_encoder(settings: CooperationSettings) -> SharedEncoder:
    """Return an untrained shared encoder; the same at every call."""
    torch.manual_seed(settings.seed)
    return SharedEncoder(settings.width, settings.layers, settings.dropout)


@torch.inference_mode()
def encode_split(encoder: SharedEncoder, source: CachedPairs) -> tuple[Tensor, Tensor, Tensor]:
    """Return all captions [Q, 256] and whole images [B, 256] of a source, and the owner of each
    caption [Q].
    """
    encoder.eval()
    texts, owner = owners(source)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = [
            encoder.images(source.image_maps(rows).float())
            for rows in chunked(source.rows, IMAGES_AT_ONCE)
        ]
        captions = [
            encoder.captions(*source.caption_states(batch, WORDS)[:2])
            for batch in chunked(texts, TEXTS_AT_ONCE)
        ]
    return torch.cat(captions), torch.cat(images), owner


def mine_hard_negatives(miner: SharedEncoder, source: CachedPairs, nearest: int) -> Tensor:
    """Return the `nearest` wrong images of every caption by a bi-encoder: [texts, nearest]."""
    captions, images, owner = encode_split(miner, source)
    chunks = []
    for start in range(0, len(captions), MINED_AT_ONCE):
        stop = start + MINED_AT_ONCE
        cosine = captions[start:stop] @ images.T
        others = cosine.scatter(1, owner[start:stop, None], -torch.inf)
        chunks.append(others.topk(nearest, dim=1).indices)
    return torch.tensor(source.rows)[torch.cat(chunks)]
