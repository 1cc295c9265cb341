"""Candidates and queries -> tokens and image features, batched and cached; memories -> prompts. It
knows no scores.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from cachetools import LRUCache
from torch import Tensor

from llama_index_rnx.candidates import Candidate, ImageSource, Query, pad_to_aspect
from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.vlm.backbone import Backbone, ImageFeatures, PromptTokens
from llama_index_rnx.rankers.vlm.packing import MEMORY_DTYPES, pack, unpack
from llama_index_rnx.rankers.vlm.prompts import QUERY, Segment
from llama_index_rnx.rankers.vlm.runtime import Runtime
from llama_index_rnx.rankers.vlm.settings import VLMSettings
from llama_index_rnx.ranking import (
    TooLargeError,
    batches_of_equal_shape,
    halve_on_oom,
    prefetch,
)

# How many texts of templates and how many queries stay in the caches.
CACHED_LITERALS = 1_024
CACHED_QUERIES = 64

# How many images wait for the vision tower, cut into patches; one of 512 tokens takes 10 MB.
PREPARED_IMAGES = 32

# The patches of an image of 512 visual tokens.
PATCHES_PER_IMAGE = 2_048

# The most threads that cut images into patches.
THREADS = 8

# An entry holds the tensor of the memory, too: as long as it does, no other tensor takes its id.
CachedImage = tuple[Tensor, ImageFeatures]


class Encoder:
    """Prepares texts and images for a backbone, and lays memories into prompts.

    Rankers with other prompts, read-outs or calibrations over the same weights share one.
    """

    def __init__(self, backbone: Backbone, settings: VLMSettings) -> None:
        self.backbone = backbone
        self.runtime = Runtime(settings.name, backbone.device.type)
        self.max_text_tokens = settings.max_text_tokens
        self.fingerprint = (
            f"{backbone.fingerprint()}/{settings.max_text_tokens}/{settings.memory_dtype}"
        )
        self._memory_dtype = MEMORY_DTYPES[settings.memory_dtype]
        self._literals: LRUCache[str, Tensor] = LRUCache(CACHED_LITERALS)
        self._queries: LRUCache[str, Memory] = LRUCache(CACHED_QUERIES)
        self._images: LRUCache[int, CachedImage] = LRUCache(
            self.runtime.image_cache_bytes, getsizeof=lambda entry: entry[1].nbytes
        )

    @property
    def images_at_once(self) -> int:
        """How many images of full size fill the vision tower; at least 1."""
        return max(1, self.runtime.patch_budget // PATCHES_PER_IMAGE)

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """Return one memory for each candidate. Threads open images and cut them into patches while
        the vision tower works.

        Raises:
            ImageError: an image cannot be read.
            RNXError: the vision tower runs out of memory on a single image.
        """
        memories: list[dict[str, Tensor]] = [{} for _ in candidates]

        texts = {i: candidate.text for i, candidate in enumerate(candidates) if candidate.text}
        for i, ids in zip(texts, self._encode_texts(list(texts.values())), strict=True):
            memories[i]["text"] = ids

        images = {
            i: candidate.image
            for i, candidate in enumerate(candidates)
            if candidate.image is not None
        }
        for i, features in zip(images, self._encode_images(list(images.values())), strict=True):
            memories[i].update(pack(features, self._memory_dtype))
        return list(memories)

    def query_memory(self, query: Query) -> Memory:
        """Return the memory of a query. The last ones are cached, so that an image goes through the
        tower once.
        """
        candidate = Candidate(id="query", text=query.text, image=query.image)
        with self.runtime.lock:
            memory = self._queries.get(candidate.digest)
            if memory is None:
                (memory,) = self.remember([candidate])
                self._queries[candidate.digest] = memory
        return memory

    def build_prompt(
        self, segments: Sequence[Segment], query: Memory, memories: Sequence[Memory]
    ) -> PromptTokens:
        """Tokenise a prompt and fill its slots from the memories of query and candidates."""
        ids: list[Tensor] = []
        images: list[ImageFeatures] = []
        for segment in segments:
            if isinstance(segment, str):
                ids.append(self.literal_ids(segment))
                continue
            memory = query if segment.owner == QUERY else memories[segment.owner]
            if segment.modality == "text":
                ids.append(memory["text"].long())
                continue
            features = self._image_features(memory)
            images.append(features)
            ids.append(torch.full((len(features.tokens),), self.backbone.image_token))
        return PromptTokens(ids=torch.cat(ids), images=images)

    def literal_ids(self, text: str) -> Tensor:
        """Return the ids [T] of a template's own text, its special tokens recognised."""
        with self.runtime.lock:
            ids = self._literals.get(text)
            if ids is None:
                encoded = self.backbone.tokenizer.encode(text, add_special_tokens=False)
                ids = torch.tensor(encoded, dtype=torch.long)
                self._literals[text] = ids
        return ids

    def literal_tokens(self, text: str) -> list[int]:
        """The same as a list of Python numbers."""
        tokens: list[int] = self.literal_ids(text).tolist()
        return tokens

    def release_images(self) -> None:
        """Drop the images that stay on the device, so that their memory is free."""
        self._images.clear()

    def _encode_texts(self, texts: Sequence[str]) -> list[Tensor]:
        """Return the ids [T] int32 of each text, at most `max_text_tokens`. What looks like a
        special token in a text is plain text.
        """
        if not texts:
            return []
        # A tokenizer switches its treatment of special tokens for all its threads.
        with self.runtime.lock:
            encoded = self.backbone.tokenizer(
                list(texts), add_special_tokens=False, split_special_tokens=True
            )["input_ids"]

        limit = self.max_text_tokens
        too_long = [len(ids) for ids in encoded if len(ids) > limit]
        if too_long:
            self.runtime.warn_once(
                "cut",
                f"{len(too_long)} of {len(encoded)} texts were cut to {limit} tokens (the longest "
                f"had {max(too_long)}); raise max_text_tokens or index smaller pieces.",
            )
        return [torch.tensor(ids[:limit], dtype=torch.int32) for ids in encoded]

    def _encode_images(self, sources: Sequence[ImageSource]) -> list[ImageFeatures]:
        """Return the features of images. While the tower encodes a batch, threads cut the next
        images into patches.
        """
        features: list[ImageFeatures] = []
        with ThreadPoolExecutor(max_workers=min(THREADS, os.cpu_count() or 1)) as workers:
            images = prefetch(workers, self._load_patches, sources, PREPARED_IMAGES)
            batches = batches_of_equal_shape(
                images, lambda image: len(image[0]), lambda: self.runtime.patch_budget
            )
            for batch in batches:
                features += self._encode_batch(batch)
        return features

    def _encode_batch(self, batch: Sequence[tuple[Tensor, Tensor]]) -> list[ImageFeatures]:
        try:
            with self.runtime.lock:
                return halve_on_oom(batch, self.backbone.encode_images, self._shrink_patch_budget)
        except TooLargeError as error:
            raise RNXError(
                f"{self.runtime.name}: out of memory on one image; lower max_pixels."
            ) from error

    def _shrink_patch_budget(self) -> None:
        self.release_images()
        self.runtime.shrink_patch_budget()

    def _load_patches(self, source: ImageSource) -> tuple[Tensor, Tensor]:
        """Open an image and cut it into patches; an error names the image."""
        backbone = self.backbone
        try:
            image = source.load(backbone.max_pixels)
            sheet = pad_to_aspect(image, backbone.max_pixels, backbone.max_aspect)
            return backbone.extract_patches(sheet)
        except ImageError as error:
            message = str(error)
            if source.label not in message:
                message = f"{source.label}: {message}"
            raise ImageError(message) from error

    def _image_features(self, memory: Memory) -> ImageFeatures:
        """Return the image of a memory, on the device. The last ones stay there: windows overlap,
        and good pages come again.

        A hundred images of 512 tokens are 160 MB in bfloat16 (Qwen3-VL: 840 MB), which take 10 to
        100 ms on the way to a GPU.
        """
        image = memory["image"]
        with self.runtime.lock:
            cached = self._images.get(id(image))
            if cached is not None:
                return cached[1]
            features = unpack(self._on_device(memory))
            if features.nbytes <= self._images.maxsize:
                self._images[id(image)] = (image, features)
        return features

    def _on_device(self, memory: Memory) -> Memory:
        """Return the image tensors of a memory on the device; the grid is read on the CPU."""
        device = self.backbone.device
        return {
            name: tensor if name == "grid" else tensor.to(device)
            for name, tensor in memory.items()
            if name != "text"
        }
