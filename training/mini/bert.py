"""BERT's encoder (Devlin et al., arXiv 1810.04805) in plain torch. It knows no text and no
tokenizer.

`transformers.BertModel` computes the same, bit for bit (a test compares them), but it imports
torch's compiler, SciPy and SymPy: half of the time of a first search. The modules have its names,
so that the same checkpoints load.

Axes, named once: B texts, T word pieces, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

EPSILON = 1e-12
INITIAL_RANGE = 0.02


class BertEncoder(nn.Module):
    """Turns word pieces into states, without a pooler, and without dropout: it is never trained
    here.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        intermediate: int,
        positions: int,
    ) -> None:
        super().__init__()
        self.embeddings = _Embeddings(vocabulary, width, positions)
        self.encoder = _Layers(layers, width, heads, intermediate)
        self.apply(_initialise)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: [B, T] -> states [B, T, D]."""
        states: Tensor = self.encoder(self.embeddings(ids), _attention_mask(mask))
        return states


class _Embeddings(nn.Module):
    def __init__(self, vocabulary: int, width: int, positions: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, D]."""
        words = self.word_embeddings(ids)  # [B, T, D]
        first_kind = self.token_type_embeddings.weight[0]  # [D]
        positions = self.position_embeddings.weight[: ids.shape[1]]  # [T, D]
        states: Tensor = self.LayerNorm(words + first_kind + positions)
        return states


class _Layers(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(width, heads, intermediate) for _ in range(layers))

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layer:
            states = layer(states, mask)
        return states


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, intermediate)})
        self.output = _AddAndNorm(intermediate, width)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        states = self.attention(states, mask)
        inner = gelu(self.intermediate["dense"](states))
        out: Tensor = self.output(inner, states)
        return out


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self = _SelfAttention(width, heads)
        self.output = _AddAndNorm(width, width)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.output(self.self(states, mask), states)
        return out


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, D / H]
            for project in (self.query, self.key, self.value)
        )
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).flatten(2)  # [B, T, D]


class _AddAndNorm(nn.Module):
    """A projection, added to what went in, and normalised."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        states: Tensor = self.LayerNorm(self.dense(inner) + residual)
        return states


def _attention_mask(mask: Tensor) -> Tensor | None:
    """[B, T] -> [B, 1, T, T], True where to attend; None without padding, as that is faster.

    A graph that is traced must not depend on the values of one example, so it always has a mask.
    """
    is_tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    if not is_tracing and bool(mask.all()):
        return None
    rows, length = mask.shape
    return mask.bool()[:, None, None, :].expand(rows, 1, length, length)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_RANGE)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
