"""Door 3, RNXEmbedding: the bi-encoder of rnx-mini as a LlamaIndex embedding; and how a collection
calls any other one. It knows no Qdrant and keeps nothing on disk.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import ImageType
from pydantic import ValidationError

from llama_index_rnx.candidates import Candidate, ImageSource, Query, bytes_source, source_at
from llama_index_rnx.errors import SettingsError, shown
from llama_index_rnx.memory import Memory, MemoryStore
from llama_index_rnx.rankers.mini import MiniRanker, load_mini
from llama_index_rnx.ranking import (
    BatchingRanker,
    Ranker,
    get_or_compute_memories,
    run_in_executor,
)
from llama_index_rnx.text import clean_text
from llama_index_rnx.validation import (
    checked_callbacks,
    checked_images,
    checked_texts,
    describe_refused_fields,
)


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """The dense vectors of one candidate, each of unit length; None where it has no text, or no
    image.
    """

    text: list[float] | None
    image: list[float] | None


class RNXEmbedding(MultiModalEmbedding):
    """Texts, images and queries in one space, by the text and the image encoder of `rnx-mini` (no
    GPU, no download).

    Cosines order texts among texts and images among images. Between the two kinds they are not
    comparable, which is why `NodeCollection` searches the kinds apart and fuses them by rank.
    Vectors have 768 numbers and unit length.

    Raises:
        SettingsError: `model_name` is another one than `rnx-mini`.
        RNXError: the device does not exist.
        ImageError: an image cannot be read.

    Example:
        >>> embedding = RNXEmbedding()
        >>> texts = ["Bees make honey.", "Rust is iron oxide."]
        >>> honey, rust = embedding.get_text_embedding_batch(texts)
        >>> query = embedding.get_query_embedding("what do bees make?")
        >>> bool(embedding.similarity(query, honey) > embedding.similarity(query, rust))
        True
        >>> len(query) == len(honey)
        True
    """

    model_name: str = Field(default="rnx-mini", description="The only model: rnx-mini.")
    device: str | None = Field(
        default=None, description="cpu or cuda; default: cpu, where the model is fastest."
    )
    dtype: str | None = Field(
        default=None, description="float32, bfloat16, float16; default: what is fast and exact."
    )

    _ranker: MiniRanker | None = PrivateAttr(default=None)
    _batching: BatchingRanker | None = PrivateAttr(default=None)

    def __init__(self, **settings: Any) -> None:
        settings["callback_manager"] = checked_callbacks(settings.get("callback_manager"))
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise SettingsError(describe_refused_fields(error, "RNXEmbedding")) from error

    @classmethod
    def class_name(cls) -> str:
        return "RNXEmbedding"

    @property
    def ranker(self) -> MiniRanker:
        """The ranker whose encoders embed; loaded once for the process."""
        if self._ranker is None:
            if self.model_name != "rnx-mini":
                raise SettingsError(
                    f"RNXEmbedding has no model {shown(self.model_name)}; "
                    "'rnx-mini' is the only one."
                )
            self._ranker = load_mini(device=self.device, dtype=self.dtype)
        return self._ranker

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""
        return self.ranker.dimensions

    @property
    def image_calibration(self) -> tuple[float, float]:
        """Scale and bias: the logistic of scale * cosine + bias is the probability that a retrieved
        image is the one that the query asks for.
        """
        return self.ranker.image_calibration

    def vectors(
        self, candidates: Sequence[Candidate], memories: Sequence[Memory] | None = None
    ) -> list[Vectors]:
        """Return the vectors of each candidate, read off its memory.

        Args:
            memories: one for each candidate, made by `ranker`. Without them they are computed here,
                unless RAM or an open memory store has them.

        Raises:
            ImageError: an image cannot be read.
        """
        if memories is None:
            memories = get_or_compute_memories(self._batching_ranker(), candidates, MemoryStore())
        pairs = self.ranker.dense_vectors(memories)
        return [Vectors(text=text, image=image) for text, image in pairs]

    def query_vector(self, query: Query) -> list[float]:
        """Return the query's vector in the common space [768]; for a text and an image it is their
        sum, at unit length.

        Raises:
            ImageError: the query's image cannot be read.
        """
        return self._batching_ranker().run(self.ranker.query_vector, query)

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **options: Any
    ) -> list[list[float]]:
        """Return one vector for each text.

        Raises:
            SettingsError: a single text was given in place of a list; each of its letters would
                become a text.
        """
        return super().get_text_embedding_batch(
            checked_texts(texts, "texts"), show_progress, **options
        )

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **options: Any
    ) -> list[list[float]]:
        """Do what `get_text_embedding_batch` does without blocking the event loop."""
        return await super().aget_text_embedding_batch(
            checked_texts(texts, "texts"), show_progress, **options
        )

    def get_agg_embedding_from_queries(self, queries: list[str], *more: Any) -> list[float]:
        """Return one vector for several queries, by default the mean of theirs."""
        return super().get_agg_embedding_from_queries(checked_texts(queries, "queries"), *more)

    def get_image_embedding_batch(
        self, img_file_paths: list[ImageType], show_progress: bool = False
    ) -> list[list[float]]:
        """Return one vector for each image.

        Raises:
            SettingsError: a single image was given in place of a list.
        """
        return super().get_image_embedding_batch(checked_images(img_file_paths), show_progress)

    async def aget_image_embedding_batch(
        self, img_file_paths: list[ImageType], show_progress: bool = False
    ) -> list[list[float]]:
        """Do what `get_image_embedding_batch` does without blocking the event loop."""
        return await super().aget_image_embedding_batch(
            checked_images(img_file_paths), show_progress
        )

    def _batching_ranker(self) -> BatchingRanker:
        if self._batching is None:
            self._batching = BatchingRanker.of(self.ranker)
        return self._batching

    def _get_query_embedding(self, query: str) -> list[float]:
        # LlamaIndex embeds a blank query, too.
        text = _checked_text(query) or " "
        return self.query_vector(Query(text=text))

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        candidates = [Candidate(id="", text=_checked_text(text) or " ") for text in texts]
        return [vectors.text or [] for vectors in self.vectors(candidates)]

    def _get_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[list[float]]:
        candidates = [Candidate(id="", image=_source(image)) for image in img_file_paths]
        return [vectors.image or [] for vectors in self.vectors(candidates)]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await run_in_executor(partial(self._get_query_embedding, query))

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await run_in_executor(partial(self._get_text_embedding, text))

    async def _aget_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return await run_in_executor(partial(self._get_image_embedding, img_file_path))

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> RNXEmbedding:
        """Return an embedding of the same settings; both use the one model of the process."""
        settings = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**settings)

    def __getstate__(self) -> dict[str, Any]:
        """Return a copy of the settings without the model, which is loaded again where they arrive.
        This object keeps its model.
        """
        names = [name for name in type(self).model_fields if name != "callback_manager"]
        return {"__dict__": {name: getattr(self, name) for name in names}}


@dataclass(frozen=True, kw_only=True)
class EmbeddingModel:
    """The model behind an embedding.

    Attributes:
        fingerprint: names the model; an index is only searched with the embedding that made it.
        ranker: the ranker off whose memories the embedding reads its vectors, None for an embedding
            that computes them from texts and images.
    """

    fingerprint: str
    ranker: Ranker | None


def load_model(embedding: MultiModalEmbedding) -> EmbeddingModel:
    """Load the model of an embedding, and return what a collection must know of it.

    Raises:
        SettingsError: an `RNXEmbedding` names a model that does not exist.
    """
    if isinstance(embedding, RNXEmbedding):
        ranker = embedding.ranker
        return EmbeddingModel(fingerprint=ranker.fingerprint, ranker=ranker)
    fingerprint = f"{embedding.class_name()}/{embedding.model_name}"
    return EmbeddingModel(fingerprint=fingerprint, ranker=None)


def dimensions_of(embedding: MultiModalEmbedding) -> int:
    """Return how many numbers a vector has. Any other embedding than `RNXEmbedding` embeds a query
    for it.
    """
    if isinstance(embedding, RNXEmbedding):
        return embedding.dimensions
    return len(embedding.get_query_embedding("how long is a vector?"))


def embed_candidates(
    embedding: MultiModalEmbedding,
    candidates: Sequence[Candidate],
    memories: Sequence[Memory] | None = None,
) -> list[Vectors]:
    """Return the vectors of each candidate by any embedding; every text and every image is embedded
    once.

    Other embeddings than `RNXEmbedding` get texts as strings and images as PNG files in memory, as
    LlamaIndex's interface has them, in batches of `embed_batch_size`.

    Args:
        memories: one for each candidate, by the ranker of the embedding's `EmbeddingModel`; an
            embedding without one ignores them.

    Raises:
        ImageError: an image cannot be read.
    """
    if isinstance(embedding, RNXEmbedding):
        return embedding.vectors(candidates, memories)

    texts = [candidate.text for candidate in candidates if candidate.text]
    images = [_png(candidate.image) for candidate in candidates if candidate.image]
    text_vectors = iter(embedding.get_text_embedding_batch(texts) if texts else [])
    image_vectors = iter(embedding.get_image_embedding_batch(images) if images else [])

    return [
        Vectors(
            text=_plain_numbers(next(text_vectors)) if candidate.text else None,
            image=_plain_numbers(next(image_vectors)) if candidate.image else None,
        )
        for candidate in candidates
    ]


def embed_query(embedding: MultiModalEmbedding, query: Query) -> list[float]:
    """Return the query's vector by any embedding; for a text and an image it is their sum, at unit
    length.

    Several `dense_texts` give the mean of their vectors, as in LlamaIndex; a `dense_vector` is
    returned as it is.

    Raises:
        ImageError: the query's image cannot be read.
    """
    if query.dense_vector is not None:
        return list(query.dense_vector)
    if isinstance(embedding, RNXEmbedding) and not query.dense_texts:
        return embedding.query_vector(query)

    vectors = []
    if query.dense_texts:
        vectors.append(embedding.get_agg_embedding_from_queries(list(query.dense_texts)))
    elif query.text:
        vectors.append(embedding.get_query_embedding(query.text))
    if query.image is not None:
        vectors.append(_image_query_vector(embedding, query.image))

    total = np.sum([np.asarray(vector) / np.linalg.norm(vector) for vector in vectors], axis=0)
    return [float(x) for x in total / np.linalg.norm(total)]


def _plain_numbers(vector: Sequence[float]) -> list[float]:
    """Return a vector as Python's own numbers: some embeddings give numpy's."""
    return list(map(float, vector))


def _checked_text(text: Any) -> str:
    if not isinstance(text, str):
        raise SettingsError(f"a text to embed is {shown(text)}; a string is needed.")
    return clean_text(text)


def _image_query_vector(embedding: MultiModalEmbedding, image: ImageSource) -> list[float]:
    if isinstance(embedding, RNXEmbedding):
        return embedding.query_vector(Query(image=image))
    return embedding.get_image_embedding(_png(image))


def _png(image: ImageSource) -> ImageType:
    """Return the image as a PNG file in memory."""
    buffer = io.BytesIO()
    image.load().save(buffer, "PNG")
    buffer.seek(0)
    return buffer


def _source(image: ImageType) -> ImageSource:
    if isinstance(image, io.BytesIO):
        return bytes_source(image.getvalue(), label="image")
    return source_at(str(image), label="image")
