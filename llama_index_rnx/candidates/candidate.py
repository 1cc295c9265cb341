"""Node -> candidate: the only file that opens images or trims text. It knows neither models nor
Qdrant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

from llama_index_rnx.candidates.images import ImageSource
from llama_index_rnx.errors import ImageError

PROBE_PIXELS = 256 * 256  # of a picture that is opened only to see whether it opens
PROBES_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a ranker sees of a node: a text, an image, or both. An empty text means: no text."""

    id: str
    text: str = ""
    image: ImageSource | None = None

    @cached_property
    def kind(self) -> str:
        """`text`, `image` or `both`."""
        return "both" if self.text and self.image else "image" if self.image else "text"

    @cached_property
    def is_empty(self) -> bool:
        """Whether there is nothing to rank it by."""
        return not self.text and self.image is None

    @cached_property
    def digest(self) -> str:
        """Names the content (not the id): equal contents share one memory."""
        image = self.image.digest if self.image else ""
        return hashlib.sha256(f"{image}\n{self.text}".encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is asked: a text, an image, or both.

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
    """Opens every picture once, several side by side; of those that cannot be opened the reason, by
    the candidate's digest.
    """
    pictured = {
        candidate.digest: candidate.image for candidate in candidates if candidate.image is not None
    }
    if not pictured:
        return {}
    with ThreadPoolExecutor(
        min(PROBES_AT_ONCE, len(pictured)), thread_name_prefix="rnx-probe"
    ) as workers:
        errors = workers.map(_fault_of, pictured.values())
        return {
            digest: error
            for digest, error in zip(pictured, errors, strict=True)
            if error is not None
        }


def without_unreadable_images(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, each without its picture where that cannot be opened."""
    broken = unreadable_images(candidates)
    return [replace(one, image=None) if one.digest in broken else one for one in candidates]


def _fault_of(image: ImageSource) -> ImageError | None:
    try:
        image.load(PROBE_PIXELS)
    except ImageError as error:
        return error
    return None
