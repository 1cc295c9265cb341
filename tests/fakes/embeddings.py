"""An embedding that can be computed by hand."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import MultiModalEmbedding
from PIL import Image

from fakes.colours import colour_of, words

DIMENSIONS = 1_024


class FakeEmbedding(MultiModalEmbedding):
    """Buckets of words; an image is the word of its colour. Counts what it embeds."""

    model_name: str = "fake-embedding"
    _texts: list[str] = PrivateAttr(default_factory=list)
    _images: list[Any] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "FakeEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return _buckets(words(query))

    def _get_text_embedding(self, text: str) -> list[float]:
        self._texts.append(text)
        return _buckets(words(text))

    def _get_image_embedding(self, img_file_path: Any) -> list[float]:
        self._images.append(img_file_path)
        with Image.open(img_file_path) as image:
            return _buckets([colour_of(image)])

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    async def _aget_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._get_image_embedding(img_file_path)


def _buckets(found: Sequence[str]) -> list[float]:
    vector = [0.01] * DIMENSIONS
    for word in found:
        vector[zlib.crc32(word.encode()) % DIMENSIONS] += 1.0
    return vector
