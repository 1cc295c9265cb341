"""Texts and images become memories of rnx-mini, and stored memories become tensors again. It knows
no query and no score.

Axes, named once: C chunks, S memory tokens, L distinct word pieces, D image space, W word space.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from llama_index_rnx.candidates import ImageSource
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.mini.candidate_batch import TextMemory
from llama_index_rnx.rankers.mini.image_encoder import preprocess
from llama_index_rnx.rankers.mini.model import MiniModel
from llama_index_rnx.rankers.mini.quantization import dequantize_rows, quantize_rows
from llama_index_rnx.rankers.mini.text_encoder import CHUNK_PIECES, EncodedText

# An image is decoded at about this size, then squashed to the encoder's 256 x 256.
IMAGE_PIXELS = 512 * 512

# Images of one forward.
IMAGES_AT_ONCE = 16

# The version of a memory's layout: with another one, memories that were kept are made anew.
LAYOUT = "m2"


class MemoryEncoder:
    """Encodes what needs no query. `MiniRanker` says what a memory holds."""

    def __init__(self, model: MiniModel, device: str, dtype: torch.dtype, max_chunks: int) -> None:
        self._model = model
        self._device = device
        self._dtype = dtype
        self._max_chunks = max_chunks

    def encode_texts(self, texts: list[str]) -> list[dict[str, Tensor]]:
        """Return one memory for each text, encoded in batches of similar length."""
        encoded_texts = self._model.text.encode(texts, max_chunks=self._max_chunks)
        return [self._text_memory(encoded) for encoded in encoded_texts]

    def encode_images(self, images: list[ImageSource]) -> list[dict[str, Tensor]]:
        """Return one memory for each image, decoded side by side.

        Raises:
            ImageError: an image cannot be read.
        """
        if not images:
            return []

        # Every image is opened before the first forward: a broken one costs nothing.
        with ThreadPoolExecutor(max_workers=min(len(images), os.cpu_count() or 1)) as pool:
            pixels = list(pool.map(_pixels, images))

        memories: list[dict[str, Tensor]] = []
        for start in range(0, len(pixels), IMAGES_AT_ONCE):
            batch = torch.stack(pixels[start : start + IMAGES_AT_ONCE])  # [B, 3, 256, 256]
            memories.extend(self._image_memories(batch))
        return memories

    def _text_memory(self, encoded: EncodedText) -> dict[str, Tensor]:
        text: TextMemory = self._model.reader.remember(
            encoded.states, encoded.ids.to(self._device), encoded.chunks
        )
        tokens, token_scales = quantize_rows(text.tokens)
        chunks, chunk_scales = quantize_rows(text.chunks)
        memory = {
            "chunks": chunks,
            "chunk_scales": chunk_scales,
            "tokens": tokens,
            "token_scales": token_scales,
            "pieces": text.pieces.to(torch.int16),
            "counts": text.counts.to(torch.uint8),
            "caption": self._caption(encoded).half(),
        }
        return {name: tensor.cpu().contiguous() for name, tensor in memory.items()}

    def _caption(self, encoded: EncodedText) -> Tensor:
        """Return how an image query sees a text, [D]: by its first chunk, where a title or a
        caption stands.
        """
        states = encoded.states[: CHUNK_PIECES + 2].unsqueeze(0).to(self._device)  # [1, T, 384]
        mask = torch.ones(states.shape[:2], device=self._device)
        vector: Tensor = self._model.image.captions(states, mask, encoded.chunks[:1]).vector[0]
        return vector

    def _image_memories(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        """[B, 3, 256, 256] -> B memories."""
        maps = self._model.eyes(pixels.to(self._device, self._dtype)).float()
        images = self._model.image.images(maps)
        hubs = self._model.image.hubness(images.vector)  # [B]
        regions, scales = quantize_rows(images.regions)
        return [
            {
                "vector": images.vector[index].half().cpu(),
                "regions": regions[index].cpu(),
                "region_scales": scales[index].cpu(),
                "hub": hubs[index : index + 1].cpu(),
            }
            for index in range(len(pixels))
        ]


def text_memories(memories: Sequence[Memory]) -> list[TextMemory | None]:
    """Return what each memory holds of a text, dequantized, or None.

    All are dequantized together, as a hundred small calls cost more than their arithmetic.
    """
    with_text = [memory for memory in memories if "chunks" in memory]
    if not with_text:
        return [None] * len(memories)

    unpacked = _unpack_texts(with_text)
    return [next(unpacked) if "chunks" in memory else None for memory in memories]


def _unpack_texts(memories: Sequence[Memory]) -> Iterator[TextMemory]:
    tokens = _dequantize(memories, "tokens", "token_scales")
    chunks = _dequantize(memories, "chunks", "chunk_scales")
    for index, memory in enumerate(memories):
        yield TextMemory(
            tokens=tokens[index],
            chunks=chunks[index],
            pieces=memory["pieces"],
            counts=memory["counts"],
        )


def _dequantize(memories: Sequence[Memory], rows: str, scales: str) -> Sequence[Tensor]:
    """Return the named rows of each memory, [*, D]."""
    joined = dequantize_rows(
        torch.cat([memory[rows] for memory in memories]),
        torch.cat([memory[scales] for memory in memories]),
    )
    return torch.split(joined, [len(memory[rows]) for memory in memories])


def chunk_vectors(memory: Memory) -> Tensor:
    """Return the vectors of a remembered text, [C, 384]."""
    return dequantize_rows(memory["chunks"], memory["chunk_scales"])


def _pixels(image: ImageSource) -> Tensor:
    return preprocess(image.load(IMAGE_PIXELS))
