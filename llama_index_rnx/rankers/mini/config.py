"""The shapes of rnx-mini that its checkpoint names. It knows no weights and no network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """The shape of the scorer. At the defaults a text costs at most 19.1 kB in int8: 112 x 128 + 8
    x 384 + 384 x 3.

    Attributes:
        slots: memory tokens of a text at most.
        lexicon: distinct word pieces of a text at most.
        query_tokens: word pieces of a query at most.
        width: of the cross-attention; `list_width` is that of the attention across candidates.
        picture_bias: on the logit of an image without text; fitted after training, when the image
            part has changed.
    """

    vocabulary: int = 30_522
    state_width: int = 384
    memory_width: int = 128
    slots: int = 112
    lexicon: int = 384
    query_tokens: int = 32
    width: int = 192
    heads: int = 6
    layers: int = 2
    list_width: int = 128
    list_heads: int = 4
    list_layers: int = 2
    picture_bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The shape of the image part.

    Attributes:
        dim: of the image space: 384 less the two coordinates of the hub correction in the index.
        heads: of the attention pooling over cells.
        others: the maps of the image encoder beside the first, with a head each; all share the
            vector by the basis.
        bank: how many caption vectors are kept for the hub correction.
        dropout: in training only.
    """

    dim: int = 382
    word_dim: int = 128
    text_width: int = 384
    heads: int = 8
    head_dim: int = 96
    text_heads: int = 6
    others: tuple[str, ...] = ()
    bank: int = 2048
    neighbours: int = 10
    dropout: float = 0.0
