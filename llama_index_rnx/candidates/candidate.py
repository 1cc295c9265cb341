"""The candidates and queries that rankers see, and which of their images can be opened. It knows no
nodes, no models and no Qdrant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

from llama_index_rnx.candidates.images import ImageSource
from llama_index_rnx.errors import ImageError

# The size at which an image is opened only to see whether it opens.
PROBE_PIXELS = 256 * 256
PROBES_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A node as a ranker sees it: a text, an image, or both. An empty text means: no text."""

    id: str
    text: str = ""
    image: ImageSource | None = None

    @cached_property
    def kind(self) -> str:
        """`text`, `image` or `both`."""
        if self.text and self.image:
            return "both"

        return "image" if self.image else "text"

    @cached_property
    def is_empty(self) -> bool:
        """Whether there is nothing to rank it by."""
        return not self.text and self.image is None

    @cached_property
    def digest(self) -> str:
        """A name of the content, not of the id: equal contents share one memory."""
        image = self.image.digest if self.image else ""
        return hashlib.sha256(f"{image}\n{self.text}".encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query: a text, an image, or both.

    The dense search alone looks at `dense_texts`, which are embedded in place of the text, and at
    `dense_vector`, which takes the place of all that would be embedded. BM25 and rankers go on with
    text and image.
    """

    text: str = ""
    image: ImageSource | None = None
    dense_texts: tuple[str, ...] = ()
    dense_vector: tuple[float, ...] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look for."""
        return not (self.text or self.image or self.dense_texts or self.dense_vector)


def digests_of(candidates: Sequence[Candidate]) -> list[str]:
    """Return the digest of each candidate, in their order."""
    return [candidate.digest for candidate in candidates]


def unreadable_images(candidates: Sequence[Candidate]) -> dict[str, ImageError]:
    """Open every image once, `PROBES_AT_ONCE` at a time. Return the error of each that cannot be
    opened, by the candidate's digest.
    """
    images = {
        candidate.digest: candidate.image for candidate in candidates if candidate.image is not None
    }
    if not images:
        return {}

    count = min(PROBES_AT_ONCE, len(images))
    with ThreadPoolExecutor(count, thread_name_prefix="rnx-probe") as threads:
        results = zip(images, threads.map(_probe, images.values()), strict=True)
        return {digest: error for digest, error in results if error is not None}


def without_unreadable_images(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates, each without its image if that cannot be opened."""
    unreadable = unreadable_images(candidates)
    return [
        replace(candidate, image=None) if candidate.digest in unreadable else candidate
        for candidate in candidates
    ]


def _probe(image: ImageSource) -> ImageError | None:
    """Open an image; return the error if that fails."""
    try:
        image.load(PROBE_PIXELS)
    except ImageError as error:
        return error
    return None
