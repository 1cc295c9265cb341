"""Turns a request into a query and candidates, measured against the limits before any work. It
knows no ranker.
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
from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.server.content import Content, content_of
from llama_index_rnx.server.errors import RequestError
from llama_index_rnx.server.limits import Limits
from llama_index_rnx.server.schemas import ContentPart, RerankRequest
from llama_index_rnx.text import clean_text

MAX_WARNINGS = 10


@dataclass(frozen=True, kw_only=True)
class RankingInput:
    """The query and the candidates of a request.

    Attributes:
        candidates: the documents that hold something to read; the id of each is its index in the
            request.
        warnings: a line for each document that could not be read, or only in part.
    """

    query: Query
    candidates: list[Candidate]
    warnings: list[str]


def read_documents(request: RerankRequest, limits: Limits, allow_urls: bool) -> RankingInput:
    """Return the query and the documents of a request.

    Raises:
        RequestError: there are more characters or pixels than allowed (413), or the query holds
            nothing (400).
        ImageError: the query's image cannot be read.
    """
    reader = _Reader(limits, allow_urls)
    query = reader.read_query(request.query)

    candidates = []
    for index, document in enumerate(request.listed):
        content = content_of(document, request.rank_fields or ())
        candidate = reader.read_candidate(index, content)
        if candidate is not None:
            candidates.append(candidate)
    return RankingInput(query=query, candidates=candidates, warnings=reader.warnings)


@dataclass
class _Reader:
    """Reads one request and counts its characters and pixels."""

    limits: Limits
    allow_urls: bool
    warnings: list[str] = field(default_factory=list)
    characters: int = 0
    pixels: int = 0

    def read_query(self, query: str | ContentPart) -> Query:
        if isinstance(query, str):
            content = Content(text=query)
        else:
            content = Content(text=query.text or "", image=query.image.strip())

        text = self._read_text(content.text, "query")
        image = self._read_image(content.image, "the query") if content.image else None
        if not text and image is None:
            raise RequestError(400, "query: needs a text, an image, or both.")
        return Query(text=text, image=image)

    def read_candidate(self, index: int, content: Content) -> Candidate | None:
        """Return None and note a warning where nothing can be read. An image that cannot be read
        beside a text costs a warning only.
        """
        label = f"document {index}"
        text = self._read_text(content.text.lstrip()[: self.limits.text], label)
        image = None
        try:
            image = self._read_image(content.image.strip(), label) if content.image else None
        except RNXError as error:
            self.warnings.append(f"{label}: {error}")
        else:
            if not text and image is None:
                self.warnings.append(f"{label} holds neither text nor image.")

        if not text and image is None:
            return None
        return Candidate(id=str(index), text=text, image=image)

    def _read_text(self, raw_text: str, label: str) -> str:
        text = clean_text(raw_text)
        self.characters += len(text)
        if self.characters > self.limits.characters:
            message = f"more than {self.limits.characters:,} characters up to {label}"
            raise RequestError(413, f"{message}; send fewer or shorter documents.")
        return text

    def _read_image(self, address: str, label: str) -> ImageSource:
        """Return an image that was sent as base64, as a data: URI or as a URL. It is never read
        from a path: no caller may see the files of this machine.
        """
        if address.lower().startswith(("http://", "https://")):
            if not self.allow_urls:
                advice = "send the image as base64 or a data: URI."
                raise ImageError(f"this server fetches no URLs; {advice}")
            return url_source(address)

        name = f"image of {label}"
        data: Any = base64_source(address, label=name).read()
        self.pixels += count_pixels(data, name)
        if self.pixels > self.limits.pixels:
            message = f"more than {self.limits.pixels:,} pixels up to {label}"
            raise RequestError(413, f"{message}; send fewer or smaller images.")
        return bytes_source(data, name)


def shorten_warnings(warnings: list[str]) -> list[str]:
    """Return the first few warnings, and how many more there are."""
    if len(warnings) <= MAX_WARNINGS:
        return warnings
    return [*warnings[:MAX_WARNINGS], f"and {len(warnings) - MAX_WARNINGS} more."]
