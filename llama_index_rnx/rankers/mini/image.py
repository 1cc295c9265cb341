"""The image side of rnx-mini: tower, projector, caption head and their calibrated score. Knows no text tower, no list.

Axes, named once: B images, Q queries, N candidates of one query, T word pieces, R regions, D image space, W word space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC; PIL itself is not imported here
_MEAN, _STD = 127.0, 128.0  # the TF-lite convention of the EfficientNet-Lite checkpoints: about -1 to 1
# kernel, stride, expansion, channels, repeats: EfficientNet-Lite2 (width 1.1, depth 1.2; stem and head are not scaled)
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 3),
    (5, 2, 6, 48, 3),
    (3, 2, 6, 88, 4),
    (5, 1, 6, 120, 4),
    (5, 2, 6, 208, 5),
    (3, 1, 6, 352, 1),
)
_MIDDLE = 15  # blocks before the last stride: what ends there has 16 x 16 cells of 120 channels
_CONSTANT, _NORM_SQUARED = 0.5, 1.2  # of the index vectors: room for a correction of up to .22


def preprocess(image: Any, size: int = 256) -> Tensor:
    """A PIL image as the tower's input [3, size, size]: squashed (aspect not kept), bicubic; transparency on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA").resize((size, size), _BICUBIC), dtype=np.float32)  # [H, W, 4]
        opacity = rgba[..., 3:] / 255.0
        pixels = rgba[..., :3] * opacity + 255.0 * (1.0 - opacity)  # [H, W, 3]
    else:
        pixels = np.asarray(image.convert("RGB").resize((size, size), _BICUBIC), dtype=np.float32)  # [H, W, 3]
    return torch.from_numpy((pixels - _MEAN) / _STD).permute(2, 0, 1).contiguous()  # [3, H, W]


class _Conv(nn.Module):
    """A convolution with its BatchNorm folded in and TensorFlow's SAME padding (more on the right, for stride 2)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        extra = kernel - stride  # for sides that the stride divides
        self.pad = (extra // 2, extra - extra // 2) * 2 if stride > 1 else None
        padding = 0 if stride > 1 else kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x if self.pad is None else F.pad(x, self.pad))
        return out


class _Block(nn.Module):
    """MBConv without squeeze and excitation: expand, filter each channel, project; added to its input where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = _Conv(inputs, width, 1) if expansion > 1 else None
        self.depthwise = _Conv(width, width, kernel, stride, groups=width)
        self.project = _Conv(width, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else F.relu6(self.expand(x))
        out: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return x + out if self.residual else out


class ImageTower(nn.Module):
    """EfficientNet-Lite2 (Tan and Le, arXiv 1905.11946) up to its last feature map, BatchNorm folded.

    `forward` is `last(middle(x))`: [B, 3, 256, 256] -> [B, 120, 16, 16] -> [B, 1280, 8, 8]; sides divide by 32.
    The cut is where training starts: middle maps are cached, the last blocks are tuned.
    """

    channels = 1280

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, 32, 3, 2)
        self.blocks = nn.ModuleList()
        inputs = 32
        for kernel, stride, expansion, outputs, repeats in _STAGES:
            for i in range(repeats):
                self.blocks.append(_Block(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.head = _Conv(inputs, self.channels, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def middle(self, x: Tensor) -> Tensor:
        """[B, 3, 256, 256] -> [B, 120, 16, 16]."""
        x = F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)))
        for block in self.blocks[:_MIDDLE]:
            x = block(x)
        return x

    def last(self, x: Tensor) -> Tensor:
        """[B, 120, 16, 16] -> [B, 1280, 8, 8]."""
        for block in self.blocks[_MIDDLE:]:
            x = block(x)
        return F.relu6(self.head(x))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 256, 256] -> [B, 1280, 8, 8]."""
        return self.last(self.middle(x))


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The shape of the image part. `dim` is 384 less the two coordinates of the hub correction in the index."""

    dim: int = 382
    word_dim: int = 128
    text_width: int = 384
    heads: int = 8  # of the attention pooling over cells
    head_dim: int = 96
    text_heads: int = 6
    bank: int = 2048  # caption vectors kept for the hub correction
    neighbours: int = 10
    dropout: float = 0.0  # training only


@dataclass(frozen=True, kw_only=True)
class ImageVectors:
    """What is kept of pictures. vector: [B, D] and regions: [B, 16, W], unit length; row by row from the upper left."""

    vector: Tensor
    regions: Tensor


@dataclass(frozen=True, kw_only=True)
class CaptionVectors:
    """A query on the image side. vector: [Q, D], words: [Q, T, W], unit length; weights: [Q, T] of sum 1, pads 0."""

    vector: Tensor
    words: Tensor
    weights: Tensor


class ImageProjector(nn.Module):
    """The last feature map -> one image vector and 16 region vectors (4 x 4 cells, each the mean of four)."""

    def __init__(self, config: ImageConfig, channels: int = ImageTower.channels) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attend = nn.Linear(channels, config.heads)
        self.values = nn.Parameter(torch.randn(config.heads, channels, config.head_dim) * channels**-0.5)
        self.mean = nn.Linear(channels, config.dim)
        self.out = nn.Linear(config.heads * config.head_dim, config.dim)
        self.region_in = nn.Linear(channels, 384)
        self.region_out = nn.Linear(384, config.word_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, maps: Tensor) -> ImageVectors:
        """[B, 1280, 8, 8] -> vectors [B, D], regions [B, 16, W]."""
        cells = self.norm(maps.flatten(2).transpose(1, 2))  # [B, 64, C]
        weights = self.attend(cells).softmax(1)  # [B, 64, H]
        pooled = self.dropout(weights.transpose(1, 2) @ cells)  # [B, H, C]
        heads = torch.einsum("bhc,hcd->bhd", pooled, self.values).flatten(1)  # [B, H * 96]
        vector = self.mean(self.dropout(cells.mean(1))) + self.out(self.dropout(F.gelu(heads)))  # [B, D]
        grid = F.avg_pool2d(cells.transpose(1, 2).unflatten(2, maps.shape[2:]), 2).flatten(2).transpose(1, 2)
        regions = self.region_out(self.dropout(F.gelu(self.region_in(self.dropout(grid)))))  # [B, 16, W]
        return ImageVectors(vector=F.normalize(vector.float(), dim=-1), regions=F.normalize(regions.float(), dim=-1))


class _Layer(nn.Module):
    """A pre-norm transformer layer. (torch's own has dropout inside attention, which costs the fast kernel: x4.)"""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[Q, T, width], bool [Q, T] -> [Q, T, width]."""
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [Q, H, T, 64]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])  # [Q, H, T, 64]
        x = x + self.out(attended.transpose(1, 2).flatten(2))  # [Q, T, width]
        added: Tensor = self.down(F.gelu(self.up(self.between(x))))
        return x + added


class CaptionHead(nn.Module):
    """The states of the frozen text tower -> the query on the image side; starts as the pooled vector itself."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        width = config.text_width
        self.layer = _Layer(width, config.text_heads)
        self.norm = nn.LayerNorm(width)
        self.weigh = nn.Linear(width, 2)  # how much a word counts: in the vector, in late interaction
        self.identity = nn.Linear(width, config.dim)
        self.added = nn.Linear(width, config.dim)
        self.words = nn.Linear(width, config.word_dim)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.eye_(self.identity.weight)
        for start in (self.identity.bias, self.added.weight, self.added.bias):
            nn.init.zeros_(start)

    def forward(self, states: Tensor, mask: Tensor, pooled: Tensor) -> CaptionVectors:
        """states [Q, T, 384], mask [Q, T] (1 where a word is), pooled [Q, 384] -> `CaptionVectors`."""
        hidden = self.norm(self.layer(states, mask.bool()))  # [Q, T, 384]
        logits = self.weigh(hidden).float().masked_fill(~mask.bool().unsqueeze(-1), -1e4)  # [Q, T, 2]
        shares = logits.softmax(1)  # [Q, T, 2]
        summary = (shares[..., :1].to(hidden.dtype).transpose(1, 2) @ hidden).squeeze(1)  # [Q, 384]
        vector = self.identity(pooled) + self.added(self.dropout(summary))  # [Q, D]
        words = F.normalize(self.words(self.dropout(hidden)).float(), dim=-1)  # [Q, T, W]
        return CaptionVectors(vector=F.normalize(vector.float(), dim=-1), words=words, weights=shares[..., 1])


def late_interaction(words: Tensor, weights: Tensor, regions: Tensor) -> Tensor:
    """Every word with its best region (ColBERT, arXiv 2004.12832): [T, W], [T], [N, R, W] -> [N]."""
    return torch.einsum("tw,nrw->ntr", words, regions).amax(-1) @ weights


def hubness(vectors: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """How near a picture is to captions in general: its mean cosine to the nearest of the bank. [B, D], [K, D] -> [B].

    CSLS's correction (Conneau et al., arXiv 1710.04087) of one side only, so that it needs no query.
    """
    return (vectors @ bank.T).topk(neighbours, dim=-1).values.mean(-1)


class ImagePart(nn.Module):
    """Everything of rnx-mini that pictures need beyond the two towers, and how their scores are put together.

    logit = exp(log_scale) * (cosine + late * late_interaction - hub * (hubness - hub_mean)) + bias; the scale is
    calibrated so that a softmax over 20 retrieved candidates is a probability, the bias so that a sigmoid is one.
    """

    bank: Tensor
    hub_mean: Tensor

    def __init__(self, config: ImageConfig = ImageConfig()) -> None:
        super().__init__()
        self.config = config
        self.projector = ImageProjector(config)
        self.caption = CaptionHead(config)
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        self.late = nn.Parameter(torch.tensor(1.0))
        self.hub = nn.Parameter(torch.tensor(0.0))
        self.bias = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("bank", torch.zeros(config.bank, config.dim))
        self.register_buffer("hub_mean", torch.tensor(0.0))

    def hubness(self, vectors: Tensor) -> Tensor:
        """[B, D] -> [B], by the bank that came with the weights."""
        return hubness(vectors, self.bank, self.config.neighbours)

    def score(self, query: Tensor, words: Tensor, weights: Tensor, images: Tensor, regions: Tensor, hubs: Tensor) -> Tensor:
        """One query [D], [T, W], [T] with candidates [N, D], [N, R, W], [N] -> logits [N]."""
        near = images @ query + self.late * late_interaction(words, weights, regions)  # [N]
        return self.log_scale.exp() * (near - self.hub * (hubs - self.hub_mean)) + self.bias

    def index_vector(self, vectors: Tensor, hubs: Tensor) -> Tensor:
        """[B, D], [B] -> unit [B, D + 2]: cosine with a `query_vector` falls with hubness, by as much as in `score`."""
        lowered = -self.hub / _CONSTANT * (hubs - self.hub_mean)  # [B]
        filler = (_NORM_SQUARED - 1 - lowered.square()).clamp_min(0).sqrt()  # [B], so that all are of one length
        return F.normalize(torch.cat([vectors, torch.stack([lowered, filler], -1)], -1), dim=-1)

    def query_vector(self, vectors: Tensor) -> Tensor:
        """[B, D] -> unit [B, D + 2]."""
        constants = torch.tensor([_CONSTANT, 0.0]).to(vectors).expand(*vectors.shape[:-1], 2)
        return F.normalize(torch.cat([vectors, constants], -1), dim=-1)


def image_score(
    part: ImagePart, query: Tensor, words: Tensor, weights: Tensor, images: Tensor, regions: Tensor, hubs: Tensor
) -> Tensor:
    """`part.score`, as a function."""
    return part.score(query, words, weights, images, regions, hubs)
