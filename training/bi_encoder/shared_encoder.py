"""One small transformer as bi-encoder and as cross-encoder: it takes the cells of an image, the
words of a caption, or both. It knows no data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.mini import TransformerLayer

VECTOR_DIM = 256


class SharedEncoder(nn.Module):
    """A transformer over cells [N, 16, 1280], words [N, T, 384], or both."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.cells = nn.Linear(1280, width)
        self.words = nn.Linear(384, width)
        self.layers = nn.ModuleList(TransformerLayer(width, 4) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.vector = nn.Linear(width, VECTOR_DIM)

        # The cross-encoder's score begins as the cosine of the two vectors that attend to one
        # another.
        self.score = nn.Parameter(torch.full((VECTOR_DIM,), 20.0))
        self.temperature = nn.Parameter(torch.tensor(math.log(20.0)))

    def images(self, cells: Tensor) -> Tensor:
        """Encode images alone: unit vectors [N, 256]."""
        return self._encode(self._embed_cells(cells))[0]

    def captions(self, states: Tensor, mask: Tensor) -> Tensor:
        """Encode captions alone: unit vectors [N, 256]."""
        return self._encode(self._embed_words(states, mask))[0]

    def together(self, cells: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Score how well each image fits the caption beside it: [N], about -20 to 20."""
        image, caption = self._encode(self._embed_cells(cells), self._embed_words(states, mask))
        # Not a `Linear`: bfloat16 would tie half of a list.
        return (image * caption * self.score).sum(-1)

    def _embed_cells(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.ones(cells.shape[:2], dtype=torch.bool)
        return self.cells(self.dropout(cells)), mask

    def _embed_words(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.words(self.dropout(states)), mask

    def _encode(self, *inputs: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Let all inputs (states [N, T, width], mask [N, T]) attend to one another, and return a
        unit vector [N, 256] of each.
        """
        x = torch.cat([states for states, _ in inputs], 1)  # [N, sum T, width]
        mask = torch.cat([mask for _, mask in inputs], 1)  # [N, sum T]
        for layer in self.layers:
            x = layer(x, mask)

        lengths = [states.shape[1] for states, _ in inputs]
        states = torch.split(self.norm(x), lengths, 1)
        masks = torch.split(mask.unsqueeze(-1), lengths, 1)
        return [self._pool(*pair) for pair in zip(states, masks, strict=True)]

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        mean = (states * mask).sum(1) / mask.sum(1)  # [N, width]
        return F.normalize(self.vector(mean).float(), dim=-1)
