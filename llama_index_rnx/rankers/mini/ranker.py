"""rnx-mini: the embedded ranker. Two frozen encoders remember, a small listwise scorer scores; no
GPU, no download.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.mini.candidate_batch import collate
from llama_index_rnx.rankers.mini.dense_vectors import DenseVectors
from llama_index_rnx.rankers.mini.image_heads import CaptionVectors
from llama_index_rnx.rankers.mini.listwise_scorer import ScorerOutput
from llama_index_rnx.rankers.mini.memories import LAYOUT, MemoryEncoder, text_memories
from llama_index_rnx.rankers.mini.model import NAME, MiniModel, model_folder, read_mini
from llama_index_rnx.rankers.mini.quantization import dequantize_rows
from llama_index_rnx.rankers.mini.queries import QueryEncoder, TextQuery
from llama_index_rnx.rankers.mini.text_encoder import CHUNK_PIECES, MAX_CHUNKS
from llama_index_rnx.ranking import ScorePlan, fast_cpu_dtype, resolve_device, resolve_dtype

# Candidates that attend to one another; the scorer was trained on lists of up to 100.
WINDOW = 128

# Candidates of one step of a list; smaller steps cost more than they share out.
CANDIDATES_A_STEP = 50

# Two photographs of one thing have about this cosine; unrelated ones about .3.
SAME_IMAGE = 0.7


class MiniRanker:
    """The `Ranker` of the embedded model.

    A memory holds, of a text: `chunks` [C, 384] and `tokens` [S, 128] in int8, each with scales a
    row, `pieces` and `counts` [L], `caption` [D] fp16 (how an image query sees it); of an image:
    `vector` [D] fp16, `regions` [16, W] int8 with `region_scales` [16], `hub` [1]. At most 23 kB;
    about 10 kB for a passage of MS MARCO, 3 kB for an image.

    Attributes:
        dimensions: of a dense vector, 768.
        image_calibration: scale and bias that turn the cosine of the dense vectors of a text query
            and an image into the logit of its relevance.
    """

    name = NAME
    window = WINDOW

    def __init__(
        self,
        model: MiniModel,
        config: Mapping[str, Any],
        device: str,
        dtype: torch.dtype,
        max_text_tokens: int,
        folder: Path | None = None,
    ) -> None:
        self._loaded_from = (folder, device, dtype, max_text_tokens)

        # On one core an image takes 47 ms in bf16, 121 in fp32; the results are the same.
        self._model = model.eval().to(device)
        self._model.text.to(dtype)
        self._model.eyes.to(dtype)
        self._device = device

        max_chunks = max(1, min(MAX_CHUNKS, -(-max_text_tokens // CHUNK_PIECES)))
        self._fingerprint = f"{NAME}/{config['digest']}/{max_chunks}/{LAYOUT}"
        self.image_calibration: tuple[float, float] = tuple(config["retrieval"])

        # The image half has two more coordinates, for the hub correction.
        image_config = model.image.config
        self.dimensions = image_config.text_width + image_config.dim + 2

        self._memory_encoder = MemoryEncoder(self._model, device, dtype, max_chunks)
        self._query_encoder = QueryEncoder(self._model, self._memory_encoder, device)
        self._dense_vectors = DenseVectors(self._model, device)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def __reduce__(self) -> tuple[Any, ...]:
        """Give copies and pickles no weights: they are loaded where the copy arrives, once for the
        process.
        """
        if self._loaded_from[0] is None:
            raise RNXError(
                f"this {NAME} was made in memory; save it into a folder and load it from there to "
                "copy or pickle it."
            )
        return _load, self._loaded_from

    @property
    def max_concurrency(self) -> int:
        """How many threads may score at once: scoring keeps no state, and torch lets other threads
        in while it computes.
        """
        if self._device != "cpu" or not hasattr(os, "sched_getaffinity"):
            return 1
        return len(os.sched_getaffinity(0))

    @torch.inference_mode()
    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """Return one memory for each candidate. Texts are encoded in batches of similar length,
        images are decoded side by side.

        Raises:
            ImageError: an image cannot be read.
        """
        images = {i: each.image for i, each in enumerate(candidates) if each.image is not None}
        texts = {i: each.text for i, each in enumerate(candidates) if each.text}
        encoded_images = self._memory_encoder.encode_images(list(images.values()))
        encoded_texts = self._memory_encoder.encode_texts(list(texts.values()))

        memories: list[dict[str, Tensor]] = [{} for _ in candidates]
        for index, memory in zip(images, encoded_images, strict=True):
            memories[index].update(memory)
        for index, memory in zip(texts, encoded_texts, strict=True):
            memories[index].update(memory)
        return list(memories)

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """Return scores in (0, 1): the logistic of the listwise logit; of a query with text and
        image, of the mean of both logits.

        Raises:
            ImageError: the image of the query cannot be read.
        """
        return self.plan(query, memories).run() if memories else []

    def plan(self, query: Query, memories: Sequence[Memory]) -> ScorePlan:
        """Return the same in steps of about `CANDIDATES_A_STEP` candidates, which several threads
        may run side by side.

        The steps depend on the list alone and not on the threads that run them. (OpenMP's threads
        move a score by 1e-6 at most.)
        """
        encoded = self._query_encoder.encode(query)
        finish = partial(self._compare, image=encoded.image, memories=memories)
        if encoded.text is None:
            return ScorePlan(steps=[], finish=finish)

        number = -(-len(memories) // CANDIDATES_A_STEP)
        size = -(-len(memories) // number)
        steps = [
            partial(self._score_each, encoded.text, memories[start : start + size])
            for start in range(0, len(memories), size)
        ]
        return ScorePlan(steps=steps, finish=finish)

    @torch.inference_mode()
    def query_vector(self, query: Query) -> list[float]:
        """Return the query in the dense space of `text_vector` and `image_vector`: 768 numbers of
        unit length.

        Raises:
            ImageError: the image of the query cannot be read.
        """
        encoded = self._query_encoder.encode(query)
        vector: list[float] = self._dense_vectors.query_vector(encoded).tolist()
        return vector

    @torch.inference_mode()
    def text_vector(self, memory: Memory) -> list[float] | None:
        """Return the dense vector of a remembered text: 384 numbers of gte-small, then 384 of the
        image space; None without text.
        """
        vector = self._dense_vectors.text_vector(memory)
        return None if vector is None else vector.tolist()

    @torch.inference_mode()
    def image_vector(self, memory: Memory) -> list[float] | None:
        """Return the dense vector of a remembered image: 384 zeros, then 384 numbers of the image
        space; None without image.
        """
        vector = self._dense_vectors.image_vector(memory)
        return None if vector is None else vector.tolist()

    def dense_vectors(
        self, memories: Sequence[Memory]
    ) -> list[tuple[list[float] | None, list[float] | None]]:
        """Return the `text_vector` and the `image_vector` of each memory."""
        return [(self.text_vector(memory), self.image_vector(memory)) for memory in memories]

    @torch.inference_mode()
    def _score_each(self, query: TextQuery, memories: Sequence[Memory]) -> ScorerOutput:
        """Score each candidate by itself, for a text query."""
        has_image = torch.tensor(["vector" in memory for memory in memories])  # [N]
        image_logit = torch.zeros(len(memories))
        with_image = [memory for memory in memories if "vector" in memory]
        if with_image:
            image_logit[has_image] = self._image_logits(query.caption, with_image).cpu()

        scorer = self._model.reader
        batch = collate(text_memories(memories), scorer.config, has_image, image_logit)
        output: ScorerOutput = scorer.score_each(query.states, batch.to(self._device))
        return output

    @torch.inference_mode()
    def _compare(
        self, outputs: Sequence[ScorerOutput], image: Memory | None, memories: Sequence[Memory]
    ) -> list[float]:
        """Compare the candidates with one another, by what the steps gave for the text of the query
        and by its image.
        """
        logits: list[Tensor] = []
        if outputs:
            logits.append(self._model.reader.compare(ScorerOutput.join(outputs)).cpu())
        if image is not None:
            logits.append(self._logits_by_image(image, memories))
        scores: list[float] = torch.stack(logits).mean(0).double().sigmoid().tolist()  # [N]
        return scores

    def _image_logits(self, caption: CaptionVectors, memories: Sequence[Memory]) -> Tensor:
        """Return the logits of images for a text query, [N]."""
        vectors = torch.stack([memory["vector"] for memory in memories]).float()  # [N, D]
        regions = dequantize_rows(
            torch.stack([memory["regions"] for memory in memories]),
            torch.stack([memory["region_scales"] for memory in memories]),
        )  # [N, 16, W]
        hubs = torch.cat([memory["hub"] for memory in memories])  # [N]
        return self._model.image.score(
            caption.vector[0],
            caption.words[0],
            caption.weights[0],
            vectors.to(self._device),
            regions.to(self._device),
            hubs.to(self._device),
        )

    def _logits_by_image(self, query: Memory, memories: Sequence[Memory]) -> Tensor:
        """Return the logits for an image query, [N]: of images by their cosine with it, of texts as
        captions of it, of both by the better of the two.
        """
        head = self._model.image
        scale = head.log_scale.exp().cpu()
        low = head.hub.cpu() * (query["hub"] - head.hub_mean.cpu())
        bias = head.bias.cpu()
        vector = query["vector"].float()  # [D]

        logits: list[Tensor] = []
        for memory in memories:
            sides: list[Tensor] = []
            if "vector" in memory:
                sides.append(scale * (memory["vector"].float() @ vector - SAME_IMAGE))
            if "caption" in memory:
                cosine = memory["caption"].float() @ vector
                sides.append((scale * (cosine - low) + bias).squeeze())
            logits.append(torch.stack(sides).max())
        return torch.stack(logits)


def load_mini(
    device: str | None = None,
    dtype: str | None = None,
    max_text_tokens: int | None = None,
    folder: Path | None = None,
) -> MiniRanker:
    """Load the embedded model, once for the process and these settings.

    So a retriever and a reranker share one model, and a query that was retrieved is encoded
    already.

    Args:
        device: the CPU by default: the whole model takes less time there than a transfer of its
            memories.
        dtype: of the encoders, `float32`, `bfloat16` or `float16`; by default bf16 where the
            processor multiplies it (equal scores, a third of the time), else fp32.
        max_text_tokens: word pieces of a text that are read; at most 2,032, the default.
        folder: of a model that training wrote; by default the one that ships with the package.

    Raises:
        RNXError: an unknown dtype or device, or weights that are missing or damaged.
    """
    return _load(
        folder or model_folder(),
        resolve_device(device or "cpu"),
        fast_cpu_dtype() if dtype is None else resolve_dtype(dtype),
        max_text_tokens or MAX_CHUNKS * CHUNK_PIECES,
    )


@lru_cache(maxsize=4)
def _load(folder: Path, device: str, dtype: torch.dtype, max_text_tokens: int) -> MiniRanker:
    model, config = read_mini(folder)
    model.requires_grad_(False)
    return MiniRanker(model, config, device, dtype, max_text_tokens, folder)
