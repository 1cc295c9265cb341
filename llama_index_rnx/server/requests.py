"""A request becomes a query and candidates, measured against the limits before any work. It knows
no ranker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llama_index_rnx.candidates import (
    Candidate,
    ImageSource,
    Query,
    base64_source,
    bytes_source,
    count_pixels,
    url_source,
)
from llama_index_rnx.errors import RNXError
from llama_index_rnx.server.limits import Limits, RequestError
from llama_index_rnx.server.schemas import Content, ContentPart, RerankRequest, content_of
from llama_index_rnx.text import clean_text

MAX_WARNINGS = 10


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a ranker gets of a request.

    candidates: of the documents that hold something, each under its index as id.
    warnings: a line for each document, or part of one, that could not be read.
    """

    query: Query
    candidates: list[Candidate]
    warnings: list[str]


def read_documents(request: RerankRequest, limits: Limits, allow_urls: bool) -> Reading:
    """The query and the documents of a request.

    Raises:
        Refused: there are more characters or pixels than allowed, or the query holds nothing.
        RNXError: the query's image cannot be read.
    """
    reader = _Reader(limits, allow_urls)
    query = reader.query(request.query)
    candidates = []
    for index, document in enumerate(request.listed):
        content = content_of(document, request.rank_fields or ())
        candidate = reader.candidate(index, content)
        if candidate is not None:
            candidates.append(candidate)
    return Reading(query=query, candidates=candidates, warnings=reader.warnings)


@dataclass
class _Reader:
    """Counts what it has read of one request."""

    limits: Limits
    allow_urls: bool
    warnings: list[str] = field(default_factory=list)
    characters: int = 0
    pixels: int = 0

    def query(self, sent: str | ContentPart) -> Query:
        content = Content(text=sent) if isinstance(sent, str) else _content_of_part(sent)
        text = self._text(content.text, "query")
        image = self._image(content.image, "the query") if content.image else None
        if not text and image is None:
            raise RequestError(400, "query: needs a text, an image, or both.")
        return Query(text=text, image=image)

    def candidate(self, index: int, content: Content) -> Candidate | None:
        """None where nothing can be read; then, as for an image that cannot, there is a warning."""
        label = f"document {index}"
        text, image = self._text(content.text.lstrip()[: self.limits.text], label), None
        try:
            image = self._image(content.image.strip(), label) if content.image else None
        except RNXError as error:
            self.warnings.append(f"{label}: {error}")
        else:
            if not text and image is None:
                self.warnings.append(f"{label} holds neither text nor image.")
        if not text and image is None:
            return None
        return Candidate(id=str(index), text=text, image=image)

    def _text(self, sent: str, label: str) -> str:
        text = clean_text(sent)
        self.characters += len(text)
        if self.characters > self.limits.characters:
            message = f"more than {self.limits.characters:,} characters up to {label}"
            raise RequestError(413, f"{message}; send fewer or shorter documents.")
        return text

    def _image(self, sent: str, label: str) -> ImageSource:
        """Never a path: what stands on this machine's disk is nobody's business."""
        if sent.lower().startswith(("http://", "https://")):
            if not self.allow_urls:
                advice = "send the image as base64 or a data: URI."
                raise RNXError(f"this server fetches no URLs; {advice}")
            return url_source(sent)

        name = f"image of {label}"
        data: Any = base64_source(sent, label=name).read()
        self.pixels += count_pixels(data, name)
        if self.pixels > self.limits.pixels:
            message = f"more than {self.limits.pixels:,} pixels up to {label}"
            raise RequestError(413, f"{message}; send fewer or smaller images.")
        return bytes_source(data, name)


def _content_of_part(part: ContentPart) -> Content:
    return Content(text=part.text or "", image=part.image.strip())


def shortened(warnings: list[str]) -> list[str]:
    """The first of them, and how many more there are."""
    if len(warnings) <= MAX_WARNINGS:
        return warnings
    return [*warnings[:MAX_WARNINGS], f"and {len(warnings) - MAX_WARNINGS} more."]
