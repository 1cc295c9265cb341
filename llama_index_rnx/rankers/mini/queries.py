"""Queries of rnx-mini, encoded once: a retriever and a reranker that ask the same share the work.
It knows no candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from llama_index_rnx.candidates import ImageSource, Query
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.mini.candidate_batch import QueryStates
from llama_index_rnx.rankers.mini.image_scorer import CaptionVectors, ImageScorer
from llama_index_rnx.rankers.mini.listwise_scorer import ListwiseScorer
from llama_index_rnx.rankers.mini.memories import MemoryEncoder
from llama_index_rnx.rankers.mini.text_encoder import TextEncoder


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

    def __init__(
        self,
        text_encoder: TextEncoder,
        image_scorer: ImageScorer,
        listwise_scorer: ListwiseScorer,
        memory_encoder: MemoryEncoder,
    ) -> None:
        self._text_encoder = text_encoder
        self._image_scorer = image_scorer
        self._listwise_scorer = listwise_scorer
        self._memory_encoder = memory_encoder
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

    def _encode_text(self, text: str) -> TextQuery:
        (encoded,) = self._text_encoder.encode([text], max_chunks=1)
        return TextQuery(
            states=self._listwise_scorer.query(encoded),
            caption=self._image_scorer.caption(encoded.states, encoded.vector),
        )

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
