"""rnx-mini: the embedded ranker. Two frozen encoders remember, a small listwise scorer scores; no
GPU, no download.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import SettingsError, StorageError
from llama_index_rnx.memory import Framework, Memory
from llama_index_rnx.rankers.mini.candidate_batch import collate
from llama_index_rnx.rankers.mini.checkpoint import NAME, Checkpoint, cpu_count, model_folder
from llama_index_rnx.rankers.mini.config import ImageConfig, ScorerConfig
from llama_index_rnx.rankers.mini.dense_vectors import DenseVectors
from llama_index_rnx.rankers.mini.image_encoder import ImageEncoder
from llama_index_rnx.rankers.mini.image_scorer import CaptionVectors, ImageScorer
from llama_index_rnx.rankers.mini.listwise_scorer import ListwiseScorer, ScorerOutput
from llama_index_rnx.rankers.mini.memories import LAYOUT, MemoryEncoder, region_vectors
from llama_index_rnx.rankers.mini.quantization import Floats
from llama_index_rnx.rankers.mini.queries import QueryEncoder, TextQuery
from llama_index_rnx.rankers.mini.text_encoder import CHUNK_PIECES, MAX_CHUNKS, TextEncoder
from llama_index_rnx.ranking import ScorePlan

# Candidates that attend to one another; the scorer was trained on lists of up to 100.
WINDOW = 128

# Candidates of one step of a list; smaller steps cost more than they share out.
CANDIDATES_A_STEP = 50

# The precisions of other models, which are taken here as well: all mean fp32.
DTYPES = ("float32", "bfloat16", "float16")


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
    framework: Framework = "np"

    def __init__(self, folder: Path, device: str, max_text_tokens: int) -> None:
        self._loaded_from = (folder, device, max_text_tokens)
        self._device = device

        checkpoint = Checkpoint(folder, device)
        image_config, scorer_config = _configs(checkpoint)
        max_chunks = max(1, min(MAX_CHUNKS, -(-max_text_tokens // CHUNK_PIECES)))
        self._fingerprint = f"{NAME}/{checkpoint.config['digest']}/{max_chunks}/{LAYOUT}"
        self.image_calibration: tuple[float, float] = tuple(checkpoint.config["retrieval"])

        # The image half has two more coordinates, for the hub correction.
        self.dimensions = image_config.text_width + image_config.dim + 2

        text_encoder = TextEncoder(checkpoint)
        self._image_scorer = ImageScorer(checkpoint, image_config)
        self._listwise_scorer = ListwiseScorer(checkpoint, scorer_config)
        self._memory_encoder = MemoryEncoder(
            text_encoder,
            ImageEncoder(checkpoint),
            self._image_scorer,
            self._listwise_scorer,
            max_chunks,
        )
        self._query_encoder = QueryEncoder(
            text_encoder, self._image_scorer, self._listwise_scorer, self._memory_encoder
        )
        self._dense_vectors = DenseVectors(self._image_scorer)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def __reduce__(self) -> tuple[Any, ...]:
        """Give copies and pickles no weights: they are loaded where the copy arrives, once for the
        process.
        """
        return _load, self._loaded_from

    @property
    def max_concurrency(self) -> int:
        """How many threads may score at once: scoring keeps no state, and onnxruntime lets other
        threads in while it computes.
        """
        return cpu_count() if self._device == "cpu" else 1

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

        memories: list[dict[str, NDArray[Any]]] = [{} for _ in candidates]
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

        The steps depend on the list alone and not on the threads that run them.
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

    def query_vector(self, query: Query) -> list[float]:
        """Return the query in the dense space of `text_vector` and `image_vector`: 768 numbers of
        unit length.

        Raises:
            ImageError: the image of the query cannot be read.
        """
        encoded = self._query_encoder.encode(query)
        vector: list[float] = self._dense_vectors.query_vector(encoded).tolist()
        return vector

    def text_vector(self, memory: Memory) -> list[float] | None:
        """Return the dense vector of a remembered text: 384 numbers of gte-small, then 384 of the
        image space; None without text.
        """
        vector = self._dense_vectors.text_vector(memory)
        return None if vector is None else vector.tolist()

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

    def _score_each(self, query: TextQuery, memories: Sequence[Memory]) -> ScorerOutput:
        """Score each candidate by itself, for a text query."""
        image_logit = np.zeros(len(memories), np.float32)  # [N]
        with_image = [index for index, memory in enumerate(memories) if "vector" in memory]
        if with_image:
            images = [memories[index] for index in with_image]
            image_logit[with_image] = self._image_logits(query.caption, images)

        scorer = self._listwise_scorer
        return scorer.score_each(query.states, collate(memories, scorer.config, image_logit))

    def _compare(
        self, outputs: Sequence[ScorerOutput], image: Memory | None, memories: Sequence[Memory]
    ) -> list[float]:
        """Compare the candidates with one another, by what the steps gave for the text of the query
        and by its image.
        """
        logits: list[Floats] = []
        if outputs:
            logits.append(self._listwise_scorer.compare(ScorerOutput.join(outputs)))
        if image is not None:
            logits.append(self._logits_by_image(image, memories))
        mean = np.stack(logits).mean(0).astype(np.float64)  # [N]
        scores: list[float] = (1 / (1 + np.exp(-mean))).tolist()
        return scores

    def _image_logits(self, caption: CaptionVectors, memories: Sequence[Memory]) -> Floats:
        """Return the logits of images for a text query, [N]."""
        vectors = np.stack([memory["vector"] for memory in memories]).astype(np.float32)  # [N, D]
        hubs = np.concatenate([memory["hub"] for memory in memories])  # [N]
        return self._image_scorer.score(caption, vectors, region_vectors(memories), hubs)

    def _logits_by_image(self, query: Memory, memories: Sequence[Memory]) -> Floats:
        """Return the logits for an image query, [N]: of images by their cosine with it, of texts as
        captions of it, of both by the better of the two.
        """
        scorer = self._image_scorer
        vector = query["vector"].astype(np.float32)  # [D]
        hub = float(query["hub"][0])

        logits: list[float] = []
        for memory in memories:
            sides: list[float] = []
            if "vector" in memory:
                sides.append(scorer.same_image(vector, memory["vector"].astype(np.float32)))
            if "caption" in memory:
                sides.append(scorer.is_caption(vector, hub, memory["caption"].astype(np.float32)))
            logits.append(max(sides))
        return np.array(logits, np.float32)


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
        device: the CPU by default; "cuda" where the package onnxruntime-gpu is installed.
        dtype: `float32`, `bfloat16` or `float16`, as of other models. It always computes in fp32:
            onnxruntime has no faster kernels for these on a CPU.
        max_text_tokens: word pieces of a text that are read; at most 2,032, the default.
        folder: of a model that training wrote; by default the one that ships with the package.

    Raises:
        RNXError: an unknown dtype or device, or weights that are missing or damaged.
    """
    if dtype is not None and dtype not in DTYPES:
        raise SettingsError(
            f"dtype={dtype!r} was given; 'float32', 'bfloat16' and 'float16' are allowed."
        )
    return _load(
        folder or model_folder(), device or "cpu", max_text_tokens or MAX_CHUNKS * CHUNK_PIECES
    )


@lru_cache(maxsize=4)
def _load(folder: Path, device: str, max_text_tokens: int) -> MiniRanker:
    return MiniRanker(folder, device, max_text_tokens)


def _configs(checkpoint: Checkpoint) -> tuple[ImageConfig, ScorerConfig]:
    config = checkpoint.config
    try:
        return ImageConfig(**config["image"]), ScorerConfig(**config["reader"])
    except (KeyError, TypeError) as error:
        raise StorageError(
            f"the weights of {NAME} in {checkpoint.folder} do not fit this version ({error}); "
            "install the package again."
        ) from error
