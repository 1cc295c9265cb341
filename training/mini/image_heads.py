"""The image side of rnx-mini: heads on feature maps, caption heads and their calibrated score. It
knows no tower and no list.

Axes, named once: B images, Q queries, N candidates of one query, T word pieces, R regions, D image
space, W word space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_index_rnx.rankers.mini import ImageConfig
from training.mini.image_encoder import CHANNELS

# Of the index vectors: room for a correction of up to .22.
_CONSTANT = 0.5
_NORM_SQUARED = 1.2


@dataclass(frozen=True, kw_only=True)
class ImageVectors:
    """The vectors of images that a memory keeps.

    Attributes:
        vector: [B, D], unit length.
        regions: [B, 16, W], unit length; row by row from the upper left.
    """

    vector: Tensor
    regions: Tensor


@dataclass(frozen=True, kw_only=True)
class CaptionVectors:
    """A query on the image side.

    Attributes:
        vector: [Q, D], unit length.
        words: [Q, T, W], unit length.
        weights: [Q, T] of sum 1, zero for padding.
    """

    vector: Tensor
    words: Tensor
    weights: Tensor


class VectorHead(nn.Module):
    """Normed cells of a map -> one vector: of their mean, and of what several heads attend to."""

    def __init__(self, config: ImageConfig, dim: int, channels: int = CHANNELS) -> None:
        super().__init__()
        self.attend = nn.Linear(channels, config.heads)
        values = torch.randn(config.heads, channels, config.head_dim) * channels**-0.5
        self.values = nn.Parameter(values)
        self.mean = nn.Linear(channels, dim)
        self.out = nn.Linear(config.heads * config.head_dim, dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, cells: Tensor) -> Tensor:
        """[B, cells, C] -> unit length [B, D]."""
        weights = self.attend(cells).softmax(1)  # [B, cells, H]
        pooled = self.dropout(weights.transpose(1, 2) @ cells)  # [B, H, C]
        heads = torch.einsum("bhc,hcd->bhd", pooled, self.values).flatten(1)  # [B, H * 96]
        of_mean = self.mean(self.dropout(cells.mean(1)))  # [B, D]
        vector = of_mean + self.out(self.dropout(F.gelu(heads)))  # [B, D]
        return F.normalize(vector.float(), dim=-1)


class ImageProjector(nn.Module):
    """Turns the first map into one image vector and 16 region vectors (4 x 4 cells, each the mean
    of four).
    """

    def __init__(self, config: ImageConfig, channels: int = CHANNELS) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.vector = VectorHead(config, config.dim, channels)
        self.region_in = nn.Linear(channels, 384)
        self.region_out = nn.Linear(384, config.word_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, maps: Tensor) -> ImageVectors:
        """[B, 1280, 8, 8] -> vectors [B, D], regions [B, 16, W]."""
        cells = self.norm(maps.flatten(2).transpose(1, 2))  # [B, 64, C]
        normed_maps = cells.transpose(1, 2).unflatten(2, maps.shape[2:])  # [B, C, 8, 8]
        fours = F.avg_pool2d(normed_maps, 2).flatten(2).transpose(1, 2)  # [B, 16, C]
        hidden = F.gelu(self.region_in(self.dropout(fours)))  # [B, 16, 384]
        regions = self.region_out(self.dropout(hidden))  # [B, 16, W]
        return ImageVectors(vector=self.vector(cells), regions=F.normalize(regions.float(), dim=-1))


def grid(maps: Tensor) -> Tensor:
    """[B, 1280, 8, 8] -> [B, 16, 1280]: 4 x 4 cells, each the mean of four, normed. Training caches
    a quarter of what the maps would take.
    """
    cells = F.avg_pool2d(maps, 2).flatten(2).transpose(1, 2)  # [B, 16, 1280]
    return F.layer_norm(cells, (maps.shape[1],))


class AuxiliaryHead(nn.Module):
    """Another pair of vectors for the same image and caption: of another map, and of the pooled
    caption alone.

    Trained apart from the others, so that it errs elsewhere: together they find more than any of
    them.
    """

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.vector = VectorHead(config, config.text_width)
        self.caption = nn.Linear(config.text_width, config.text_width)
        nn.init.eye_(self.caption.weight)
        nn.init.zeros_(self.caption.bias)

    def images(self, cells: Tensor) -> Tensor:
        """[B, 16, 1280] of `grid` -> unit length [B, 384]."""
        vectors: Tensor = self.vector(cells)
        return vectors

    def captions(self, pooled: Tensor) -> Tensor:
        """[Q, 384] -> unit length [Q, 384]."""
        return F.normalize(self.caption(pooled).float(), dim=-1)


class TransformerLayer(nn.Module):
    """A pre-norm layer of self-attention. (Torch's own has dropout inside attention, which costs
    the fast kernel: four times slower.)
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.between = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[Q, T, width], bool [Q, T] -> [Q, T, width]."""
        qkv = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1))  # [Q, T, 3, H, 64]
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [Q, H, T, 64] each
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask[:, None, None, :],
        )  # [Q, H, T, 64]
        x = x + self.out(attended.transpose(1, 2).flatten(2))  # [Q, T, width]
        added: Tensor = self.down(F.gelu(self.up(self.between(x))))
        return x + added


class CaptionHead(nn.Module):
    """Turns the states of the frozen text encoder into the query on the image side; it starts as
    the pooled vector itself.
    """

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        width = config.text_width
        self.layer = TransformerLayer(width, config.text_heads)
        self.norm = nn.LayerNorm(width)

        # How much a word counts: in the vector, and in late interaction.
        self.weigh = nn.Linear(width, 2)

        self.identity = nn.Linear(width, config.dim)
        self.added = nn.Linear(width, config.dim)
        self.words = nn.Linear(width, config.word_dim)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.eye_(self.identity.weight)
        for parameter in (self.identity.bias, self.added.weight, self.added.bias):
            nn.init.zeros_(parameter)

    def forward(self, states: Tensor, mask: Tensor, pooled: Tensor) -> CaptionVectors:
        """states [Q, T, 384], mask [Q, T] (1 where a word is), pooled [Q, 384] ->
        `CaptionVectors`.
        """
        is_word = mask.bool()  # [Q, T]
        hidden = self.norm(self.layer(states, is_word))  # [Q, T, 384]
        logits = self.weigh(hidden).float()  # [Q, T, 2]
        logits = logits.masked_fill(~is_word.unsqueeze(-1), -1e4)
        shares = logits.softmax(1)  # [Q, T, 2]
        summary = (shares[..., :1].to(hidden.dtype).transpose(1, 2) @ hidden).squeeze(1)  # [Q, 384]
        vector = self.identity(pooled) + self.added(self.dropout(summary))  # [Q, D]
        words = F.normalize(self.words(self.dropout(hidden)).float(), dim=-1)  # [Q, T, W]
        return CaptionVectors(
            vector=F.normalize(vector.float(), dim=-1), words=words, weights=shares[..., 1]
        )


def late_interaction(words: Tensor, weights: Tensor, regions: Tensor) -> Tensor:
    """Compare every word with its best region (ColBERT, arXiv 2004.12832): [T, W], [T], [N, R, W]
    -> [N].
    """
    return torch.einsum("tw,nrw->ntr", words, regions).amax(-1) @ weights


def hubness(vectors: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """Return how near an image is to captions in general, its mean cosine to the nearest of the
    bank: [B, D], [K, D] -> [B].

    This is the correction of CSLS (Conneau et al., arXiv 1710.04087) of one side only, so that it
    needs no query.
    """
    return (vectors @ bank.T).topk(neighbours, dim=-1).values.mean(-1)


class ImageScorer(nn.Module):
    """All that images need beyond the two encoders, and how their scores are put together.

    logit = exp(log_scale) * (cosine + late * late_interaction - hub * (hubness - hub_mean)) + bias;
    the scale is calibrated so that a softmax over 20 retrieved candidates is a probability, the
    bias so that a sigmoid is one.
    """

    basis: Tensor
    bank: Tensor
    hub_mean: Tensor

    def __init__(self, config: ImageConfig = ImageConfig()) -> None:
        super().__init__()
        self.config = config
        self.projector = ImageProjector(config)
        self.caption = CaptionHead(config)
        self.more = nn.ModuleList(AuxiliaryHead(config) for _ in config.others)
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        self.late = nn.Parameter(torch.tensor(1.0))
        self.hub = nn.Parameter(torch.tensor(0.0))
        self.bias = nn.Parameter(torch.tensor(0.0))
        width = config.dim + len(config.others) * config.text_width
        self.register_buffer("basis", torch.eye(width, config.dim))
        self.register_buffer("bank", torch.zeros(config.bank, config.dim))
        self.register_buffer("hub_mean", torch.tensor(0.0))

    @property
    def heads(self) -> list[AuxiliaryHead]:
        """The heads beside the first."""
        return cast("list[AuxiliaryHead]", list(self.more))

    def images(self, maps: Tensor) -> ImageVectors:
        """One map a head, [B, 1 + E, 1280, 8, 8] -> `ImageVectors`."""
        cells = [grid(each) for each in maps[:, 1:].unbind(1)]  # [B, 16, 1280] each
        return self.joined_images(self.projector(maps[:, 0]), cells)

    def joined_images(self, first: ImageVectors, cells: Sequence[Tensor]) -> ImageVectors:
        """Join the vectors of the first head with those that the others make of their `grid` cells
        [B, 16, 1280].
        """
        vectors = [first.vector]
        for head, head_cells in zip(self.heads, cells, strict=True):
            vectors.append(head.images(head_cells))
        return ImageVectors(vector=self._joined(vectors), regions=first.regions)

    def captions(self, states: Tensor, mask: Tensor, pooled: Tensor) -> CaptionVectors:
        """states [Q, T, 384], mask [Q, T], pooled [Q, 384] -> `CaptionVectors`."""
        first = self.caption(states, mask, pooled)
        vectors = [first.vector, *(head.captions(pooled) for head in self.heads)]
        return CaptionVectors(
            vector=self._joined(vectors), words=first.words, weights=first.weights
        )

    def _joined(self, vectors: Sequence[Tensor]) -> Tensor:
        """[B, D] of every head -> [B, D]: the directions in which captions differ, so that little
        of any cosine is lost.
        """
        if not self.more:
            return vectors[0]
        return F.normalize(torch.cat(list(vectors), -1) @ self.basis, dim=-1)

    def hubness(self, vectors: Tensor) -> Tensor:
        """[B, D] -> [B], by the bank that came with the weights."""
        return hubness(vectors, self.bank, self.config.neighbours)

    def score(
        self,
        query: Tensor,
        words: Tensor,
        weights: Tensor,
        images: Tensor,
        regions: Tensor,
        hubs: Tensor,
    ) -> Tensor:
        """One query [D], [T, W], [T] with candidates [N, D], [N, R, W], [N] -> logits [N]."""
        near = images @ query + self.late * late_interaction(words, weights, regions)  # [N]
        return self.log_scale.exp() * (near - self.hub * (hubs - self.hub_mean)) + self.bias

    def index_vector(self, vectors: Tensor, hubs: Tensor) -> Tensor:
        """[B, D], [B] -> unit [B, D + 2]: cosine with a `query_vector` falls with hubness, by as
        much as in `score`.
        """
        lowered = -self.hub / _CONSTANT * (hubs - self.hub_mean)  # [B]

        # All vectors have one length before they are normalised, so the correction stays in scale.
        filler = (_NORM_SQUARED - 1 - lowered.square()).clamp_min(0).sqrt()  # [B]
        return F.normalize(torch.cat([vectors, torch.stack([lowered, filler], -1)], -1), dim=-1)

    def query_vector(self, vectors: Tensor) -> Tensor:
        """[B, D] -> unit [B, D + 2]."""
        constants = torch.tensor([_CONSTANT, 0.0]).to(vectors).expand(*vectors.shape[:-1], 2)
        return F.normalize(torch.cat([vectors, constants], -1), dim=-1)
