"""Texts and images become memories of rnx-mini. It knows no query and no score.

Axes, named once: C chunks, S memory tokens, L distinct word pieces, D image space, V word space.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_rnx.candidates import ImageSource
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.mini.candidate_batch import distinct_pieces
from llama_index_rnx.rankers.mini.image_encoder import ImageEncoder, preprocess
from llama_index_rnx.rankers.mini.image_scorer import ImageScorer
from llama_index_rnx.rankers.mini.listwise_scorer import ListwiseScorer
from llama_index_rnx.rankers.mini.quantization import Floats, dequantize_rows, quantize_rows
from llama_index_rnx.rankers.mini.text_encoder import CHUNK_PIECES, EncodedText, TextEncoder

# An image is decoded at about this size, then squashed to the encoder's 256 x 256.
IMAGE_PIXELS = 512 * 512

# Images of one forward.
IMAGES_AT_ONCE = 16

# The version of a memory's layout: with another one, memories that were kept are made anew.
LAYOUT = "m2"

Arrays = dict[str, NDArray[Any]]


class MemoryEncoder:
    """Encodes what needs no query. `MiniRanker` says what a memory holds."""

    def __init__(
        self,
        text_encoder: TextEncoder,
        image_encoder: ImageEncoder,
        image_scorer: ImageScorer,
        listwise_scorer: ListwiseScorer,
        max_chunks: int,
    ) -> None:
        self._text_encoder = text_encoder
        self._image_encoder = image_encoder
        self._image_scorer = image_scorer
        self._listwise_scorer = listwise_scorer
        self._max_chunks = max_chunks

    def encode_texts(self, texts: list[str]) -> list[Arrays]:
        """Return one memory for each text."""
        encoded_texts = self._text_encoder.encode(texts, max_chunks=self._max_chunks)
        return [self._text_memory(encoded) for encoded in encoded_texts]

    def encode_images(self, images: list[ImageSource]) -> list[Arrays]:
        """Return one memory for each image, decoded side by side.

        Raises:
            ImageError: an image cannot be read.
        """
        if not images:
            return []

        # Every image is opened before the first forward: a broken one costs nothing.
        with ThreadPoolExecutor(max_workers=min(len(images), os.cpu_count() or 1)) as pool:
            pixels = list(pool.map(_pixels, images))

        memories: list[Arrays] = []
        for start in range(0, len(pixels), IMAGES_AT_ONCE):
            batch = np.stack(pixels[start : start + IMAGES_AT_ONCE])  # [B, 3, 256, 256]
            memories.extend(self._image_memories(batch))
        return memories

    def _text_memory(self, encoded: EncodedText) -> Arrays:
        scorer = self._listwise_scorer
        pieces, counts = distinct_pieces(encoded.ids, scorer.weights, scorer.config.lexicon)
        tokens, token_scales = quantize_rows(scorer.remember(encoded))
        chunks, chunk_scales = quantize_rows(encoded.chunks)

        # An image query sees a text by its first chunk, where a title or a caption stands.
        first_states = encoded.states[: CHUNK_PIECES + 2]  # [T, 384]
        caption = self._image_scorer.caption(first_states, encoded.chunks[0])
        return {
            "chunks": chunks,
            "chunk_scales": chunk_scales,
            "tokens": tokens,
            "token_scales": token_scales,
            "pieces": pieces.astype(np.int16),
            "counts": counts.astype(np.uint8),
            "caption": caption.vector.astype(np.float16),
        }

    def _image_memories(self, pixels: Floats) -> list[Arrays]:
        """[B, 3, 256, 256] -> B memories."""
        images = self._image_encoder.encode(pixels)
        memories: list[Arrays] = []
        for index in range(len(pixels)):
            regions, scales = quantize_rows(images.regions[index])
            memories.append(
                {
                    "vector": images.vectors[index].astype(np.float16),
                    "regions": regions,
                    "region_scales": scales,
                    "hub": images.hubs[index : index + 1],
                }
            )
        return memories


def chunk_vectors(memory: Memory) -> Floats:
    """Return the vectors of a remembered text, [C, 384]."""
    return dequantize_rows(memory["chunks"], memory["chunk_scales"])


def region_vectors(memories: Sequence[Memory]) -> Floats:
    """Return the regions of remembered images, [N, 16, V]."""
    return dequantize_rows(
        np.stack([memory["regions"] for memory in memories]),
        np.stack([memory["region_scales"] for memory in memories]),
    )


def _pixels(image: ImageSource) -> Floats:
    return preprocess(image.load(IMAGE_PIXELS))
