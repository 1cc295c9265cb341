"""Queries of rnx-mini, encoded once: a retriever and a reranker that ask the same share the work.
It knows no candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from llama_index_rnx.candidates import ImageSource, Query
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.mini.candidate_batch import QueryStates
from llama_index_rnx.rankers.mini.image_heads import CaptionVectors
from llama_index_rnx.rankers.mini.memories import MemoryEncoder
from llama_index_rnx.rankers.mini.model import MiniModel


@dataclass(frozen=True, kw_only=True)
class TextQuery:
    """A text query after the text encoder.

    Attributes:
        states: what texts are scored by.
        caption: what images are scored by.
    """

    states: QueryStates
    caption: CaptionVectors


@dataclass(frozen=True, kw_only=True)
class EncodedQuery:
    """The two sides of a query.

    Attributes:
        text: None for a query without text.
        image: the memory of the image; None for a query without image.
    """

    text: TextQuery | None
    image: Memory | None


class QueryEncoder:
    """Encodes queries, and keeps the last 256 texts and 64 images."""

    def __init__(self, model: MiniModel, memory_encoder: MemoryEncoder, device: str) -> None:
        self._model = model
        self._memory_encoder = memory_encoder
        self._device = device
        self._cached_text = lru_cache(maxsize=256)(self._encode_text)
        self._cached_image = lru_cache(maxsize=64)(self._encode_image)

    def encode(self, query: Query) -> EncodedQuery:
        """Encode the text and the image of a query.

        Raises:
            ImageError: the image cannot be read.
        """
        return EncodedQuery(
            text=self._cached_text(query.text) if query.text else None,
            image=self._cached_image(_ImageKey(query.image)) if query.image is not None else None,
        )

    @torch.inference_mode()
    def _encode_text(self, text: str) -> TextQuery:
        (encoded,) = self._model.text.encode([text], max_chunks=1)
        states = encoded.states.unsqueeze(0)  # [1, T, 384]
        mask = torch.ones(states.shape[:2], device=self._device)
        return TextQuery(
            states=self._model.reader.query(
                encoded.states, encoded.ids.to(self._device), encoded.vector
            ),
            caption=self._model.image.captions(states, mask, encoded.vector.unsqueeze(0)),
        )

    @torch.inference_mode()
    def _encode_image(self, key: _ImageKey) -> Memory:
        return self._memory_encoder.encode_images([key.source])[0]


class _ImageKey:
    """An image source that equals another one with the same content, as a cache needs it."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __eq__(self, key: object) -> bool:
        return isinstance(key, _ImageKey) and key.source.digest == self.source.digest

    def __hash__(self) -> int:
        return hash(self.source.digest)
