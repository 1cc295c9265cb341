"""Door 3, RNXEmbedding: the bi-encoder of rnx-mini as a LlamaIndex embedding; and any other
embedding in a collection.
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
from llama_index_rnx.errors import RNXError, shown
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers.mini import MiniRanker, load_mini
from llama_index_rnx.ranking import BatchingRanker, get_or_compute_memories, run_in_executor
from llama_index_rnx.text import clean_text
from llama_index_rnx.validation import checked_callbacks, checked_images, checked_texts, one_line


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """The dense vectors of one candidate, unit length; None for what it has not."""

    text: list[float] | None
    image: list[float] | None


class RNXEmbedding(MultiModalEmbedding):
    """Texts, images and queries in one space, by the two towers of `rnx-mini` (no GPU, no
    download).

    Cosines order texts among texts and images among images; between the two kinds they are not
    comparable, which is why `NodeCollection` searches the kinds apart and fuses them by rank.
    Vectors have unit length.

    Raises:
        RNXError: another `model_name` than `rnx-mini`, or a device that is not there. ImageError:
            an image cannot be read.

    Example:
        >>> embedding = RNXEmbedding()
        >>> honey, rust = embedding.get_text_embedding_batch(["Bees make honey.", "Rust is iron oxide."])
        >>> query = embedding.get_query_embedding("what do bees make?")
        >>> bool(embedding.similarity(query, honey) > embedding.similarity(query, rust))
        True
        >>> len(query) == len(honey)
        True
    """

    model_name: str = Field(default="rnx-mini", description="The one that there is.")
    device: str | None = Field(
        default=None, description="cpu or cuda; default: cpu, where the model is fastest."
    )
    dtype: str | None = Field(
        default=None, description="float32, bfloat16, float16; default: what is fast and exact."
    )

    _ranker: MiniRanker | None = PrivateAttr(default=None)
    _shared: BatchingRanker | None = PrivateAttr(default=None)
    _memories: MemoryStore = PrivateAttr(default_factory=MemoryStore)

    def __init__(self, **settings: Any) -> None:
        settings["callback_manager"] = checked_callbacks(settings.get("callback_manager"))
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise RNXError(one_line(error, "RNXEmbedding")) from error

    @classmethod
    def class_name(cls) -> str:
        return "RNXEmbedding"

    @property
    def ranker(self) -> MiniRanker:
        """The ranker whose towers embed; loaded once for the process."""
        if self._ranker is None:
            if self.model_name != "rnx-mini":
                raise RNXError(
                    f"RNXEmbedding has no model {shown(self.model_name)}; 'rnx-mini' is the one there is."
                )
            self._ranker = load_mini(device=self.device, dtype=self.dtype)
        return self._ranker

    @property
    def image_calibration(self) -> tuple[float, float]:
        """Scale and bias: the logistic of scale * cosine + bias is how likely a retrieved image is
        the one asked for.
        """
        return self.ranker.image_calibration

    def vectors(self, candidates: Sequence[Candidate]) -> list[Vectors]:
        """Read off the memories, so that a collection that remembers has nothing left to compute
        here.
        """
        memories = get_or_compute_memories(self._shared_ranker(), candidates, self._memories)
        return [
            Vectors(text=self.ranker.text_vector(m), image=self.ranker.image_vector(m))
            for m in memories
        ]

    def query_vector(self, query: Query) -> list[float]:
        """The query in the common space; of a text and an image the sum, at unit length."""
        return self._shared_ranker().run(self.ranker.query_vector, query)

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **options: Any
    ) -> list[list[float]]:
        """One vector a text; a single text in place of a list is refused, or each of its letters
        would be one.
        """
        return super().get_text_embedding_batch(
            checked_texts(texts, "texts"), show_progress, **options
        )

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **options: Any
    ) -> list[list[float]]:
        """As `get_text_embedding_batch`, while others go on."""
        return await super().aget_text_embedding_batch(
            checked_texts(texts, "texts"), show_progress, **options
        )

    def get_agg_embedding_from_queries(self, queries: list[str], *more: Any) -> list[float]:
        """One vector for several questions, by default the mean of theirs."""
        return super().get_agg_embedding_from_queries(checked_texts(queries, "queries"), *more)

    def get_image_embedding_batch(
        self, img_file_paths: list[ImageType], show_progress: bool = False
    ) -> list[list[float]]:
        """One vector a picture; a single one in place of a list is refused."""
        return super().get_image_embedding_batch(checked_images(img_file_paths), show_progress)

    async def aget_image_embedding_batch(
        self, img_file_paths: list[ImageType], show_progress: bool = False
    ) -> list[list[float]]:
        """As `get_image_embedding_batch`, while others go on."""
        return await super().aget_image_embedding_batch(
            checked_images(img_file_paths), show_progress
        )

    def _shared_ranker(self) -> BatchingRanker:
        if self._shared is None:
            self._shared = BatchingRanker.of(self.ranker)
        return self._shared

    def _get_query_embedding(self, query: str) -> list[float]:
        return self.query_vector(
            Query(text=_checked_text(query) or " ")
        )  # LlamaIndex embeds a blank query, too

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        found = self.vectors([Candidate(id="", text=_checked_text(text) or " ") for text in texts])
        return [vectors.text or [] for vectors in found]

    def _get_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[list[float]]:
        found = self.vectors([Candidate(id="", image=_source(image)) for image in img_file_paths])
        return [vectors.image or [] for vectors in found]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await run_in_executor(partial(self._get_query_embedding, query))

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await run_in_executor(partial(self._get_text_embedding, text))

    async def _aget_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return await run_in_executor(partial(self._get_image_embedding, img_file_path))

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> RNXEmbedding:
        """The same settings; the model is the one of the process."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields})

    def __getstate__(self) -> dict[str, Any]:
        """The settings without the loaded model: it is loaded again where they arrive."""
        names = [name for name in type(self).model_fields if name != "callback_manager"]
        return {"__dict__": {name: getattr(self, name) for name in names}}


def _checked_text(text: Any) -> str:
    if not isinstance(text, str):
        raise RNXError(f"a text to embed is {shown(text)}; a string is needed.")
    return clean_text(text)


def fingerprint_of(embedding: MultiModalEmbedding) -> str:
    """Names the model behind the vectors: an index is only searched with the embedding that made
    it.
    """
    if isinstance(embedding, RNXEmbedding):
        return embedding.ranker.fingerprint
    return f"{embedding.class_name()}/{embedding.model_name}"


def embed_candidates(
    embedding: MultiModalEmbedding, candidates: Sequence[Candidate]
) -> list[Vectors]:
    """The vectors of each candidate by whichever embedding, one `Vectors` a candidate; every text
    and image is embedded once.

    Other embeddings than `RNXEmbedding` get texts as strings and images as PNG files in memory, as
    LlamaIndex's interface has them, in batches of `embed_batch_size`.
    """
    if isinstance(embedding, RNXEmbedding):
        return embedding.vectors(candidates)
    texts = [c.text for c in candidates if c.text]
    images = [_opened(c.image) for c in candidates if c.image]
    text_vectors = iter(embedding.get_text_embedding_batch(texts) if texts else [])
    image_vectors = iter(embedding.get_image_embedding_batch(images) if images else [])
    return [
        Vectors(
            text=next(text_vectors) if c.text else None,
            image=next(image_vectors) if c.image else None,
        )
        for c in candidates
    ]


def embed_query(embedding: MultiModalEmbedding, query: Query) -> list[float]:
    """The query's vector by whichever embedding; of a text and an image the sum, at unit length.

    Of several `dense_texts` it is their mean, as LlamaIndex takes it; a `dense_vector` is taken as
    it is.
    """
    if query.dense_vector is not None:
        return list(query.dense_vector)
    if isinstance(embedding, RNXEmbedding) and not query.dense_texts:
        return embedding.query_vector(query)

    parts = []
    if query.dense_texts:
        parts.append(embedding.get_agg_embedding_from_queries(list(query.dense_texts)))
    elif query.text:
        parts.append(embedding.get_query_embedding(query.text))
    if query.image is not None:
        parts.append(_image_query_vector(embedding, query.image))

    total = np.sum([np.asarray(part) / np.linalg.norm(part) for part in parts], axis=0)
    return [float(x) for x in total / np.linalg.norm(total)]


def _image_query_vector(embedding: MultiModalEmbedding, image: ImageSource) -> list[float]:
    if isinstance(embedding, RNXEmbedding):
        return embedding.query_vector(Query(image=image))
    return embedding.get_image_embedding(_opened(image))


def _opened(image: ImageSource) -> ImageType:
    buffer = io.BytesIO()
    image.load().save(buffer, "PNG")
    buffer.seek(0)
    return buffer


def _source(image: ImageType) -> ImageSource:
    if isinstance(image, io.BytesIO):
        return bytes_source(image.getvalue(), label="image")
    return source_at(str(image), label="image")
