"""A `/rerank` service as a ranker: `rnx serve`, vLLM, Jina, Cohere, TEI and their like, by URL. It
computes nothing itself.

Most take `{"query", "documents"}` and answer `{"results": [{"index", "relevance_score"}]}`, in any
order. Those that want `texts` (text-embeddings-inference) or `passages` (NVIDIA's NIM) say so when
they refuse that, and get it from then on.
"""

from __future__ import annotations

import base64
import math
import os
import re
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urldefrag, urlsplit

import httpx
import torch
from torch import Tensor

from llama_index_rnx.candidates import DEFAULT_MAX_PIXELS, Candidate, Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import Memory
from llama_index_rnx.network import http_options, usable_proxies
from llama_index_rnx.ranking import check_caller

WINDOW = 1_000  # documents a request; Cohere and `rnx serve` take as many
TIMEOUT = httpx.Timeout(120.0, connect=10.0)  # seconds; a 2B model on a busy GPU may take its time
TRIES = 4
LONGEST_WAIT = 20.0  # seconds between two tries, whatever the service asks for
BUSY = {408, 425, 429, 500, 502, 503, 504}  # may go well the next time
KEY_VARIABLE = "RNX_API_KEY"

ContentPart = dict[str, str]  # "text", "image" or both; of a blank document neither


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a family of services wants to be asked.

    field: of the documents in the request; reads_images: or else texts alone.
    body: the request for a query and documents that it can read.
    """

    field: str
    reads_images: bool
    body: Callable[[ContentPart, Sequence[ContentPart]], dict[str, Any]]

    def reads(self, part: ContentPart) -> bool:
        return "text" in part or (self.reads_images and "image" in part)


def _documents_body(query: ContentPart, parts: Sequence[ContentPart]) -> dict[str, Any]:
    """Cohere, Jina, vLLM, llama.cpp, Infinity, `rnx serve`."""
    documents = [_plain(part) for part in parts]
    return {
        "query": _plain(query),
        "documents": documents,
        "top_n": len(documents),
        "return_documents": False,
    }


def _texts_body(query: ContentPart, parts: Sequence[ContentPart]) -> dict[str, Any]:
    """TEI; without `raw_scores` its scores are sigmoids already."""
    texts = [part["text"] for part in parts]
    return {"query": query["text"], "texts": texts, "raw_scores": False, "truncate": True}


def _passages_body(query: ContentPart, parts: Sequence[ContentPart]) -> dict[str, Any]:
    """NVIDIA's NIM; it answers `{"rankings": [{"index", "logit"}]}`."""
    return {"query": query, "passages": list(parts), "truncate": "END"}


DOCUMENTS = Shape(field="documents", reads_images=True, body=_documents_body)
TEXTS = Shape(field="texts", reads_images=False, body=_texts_body)
PASSAGES = Shape(field="passages", reads_images=True, body=_passages_body)

_BATCH_LIMIT = re.compile(r"maximum allowed batch size (\d{1,6})\b")  # TEI's words; 32 by default


class _ServiceRefusedError(RNXError):
    """A refusal; its text may say what the service would take."""

    def __init__(self, message: str, status: int, text: str) -> None:
        super().__init__(message)
        self.status, self.text = status, text

    def wanted_shape(self) -> Shape | None:
        """The shape whose field the service misses."""
        if self.status not in (400, 422):
            return None
        named = (shape for shape in (TEXTS, PASSAGES) if self._names(shape.field))
        return next(named, None)

    def batch_limit(self) -> int | None:
        """How many documents it takes at once, if it was for their number."""
        limit = _BATCH_LIMIT.search(self.text)
        return int(limit[1]) if limit else None

    def _names(self, field: str) -> bool:
        return re.search(f"[\"'`]{field}[\"'`]", self.text) is not None


class RemoteRanker:
    """The `Ranker` of a service; made by `load_ranker(URL)`.

    A memory is what will be sent: `text` as UTF-8 bytes, `image` as the bytes of a JPEG of
    `max_pixels` at most. Documents of text alone go as strings, those with a picture as `{"text",
    "image"}` with base64, as Jina and `rnx serve` read them. Blank documents, which services
    refuse, are not sent: they come last, with a score of 0.

    Scores are the service's own: they compare within a call, and between calls as far as the
    service says so. Where the answer itself calls them `logit` they go through a sigmoid.

    Args:
        url: of the endpoint; without a path `/rerank` is added. A fragment names the model for
            services that want one: `https://api.jina.ai/v1/rerank#jina-reranker-m0`.
        api_key: sent as a bearer token; by default the environment's RNX_API_KEY, if set.
        max_text_tokens: passed on as `max_tokens_per_doc` (Cohere's name).
        transport: another httpx transport, for tests.
    """

    takes_threads = True  # the service sees to its own callers

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        max_pixels: int | None = None,
        max_text_tokens: int | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url, self._model = endpoint(url)
        self._max_pixels, self._max_text_tokens = max_pixels or DEFAULT_MAX_PIXELS, max_text_tokens
        self._shape, self._batch, self._api_key = DOCUMENTS, WINDOW, api_key
        headers = _key_headers(api_key if api_key is not None else os.environ.get(KEY_VARIABLE, ""))
        with usable_proxies(self._url):
            self._client = httpx.Client(  # a pool; safe for threads
                timeout=TIMEOUT, headers=headers, transport=transport, **http_options(self._url)
            )
        weakref.finalize(self, self._client.close)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles have a connection of their own."""
        again = partial(
            type(self),
            self.name,
            api_key=self._api_key,
            max_pixels=self._max_pixels,
            max_text_tokens=self._max_text_tokens,
        )
        return again, ()

    @property
    def name(self) -> str:
        return f"{self._url}#{self._model}" if self._model else self._url

    @property
    def fingerprint(self) -> str:
        return f"remote/1/{self._max_pixels}"  # what is sent, whoever it is sent to

    @property
    def window(self) -> int:
        return WINDOW

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """One memory a candidate. Raises ImageError for an image that cannot be read."""
        return [self._remember(candidate) for candidate in candidates]

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """One score a memory, in one request where the service takes as many.

        Raises:
            RNXError: the service cannot be reached, refuses, stays busy over all tries, or answers
                something else.
        """
        if not memories:
            return []
        parts, query_part = [_part(memory) for memory in memories], self._query_part(query)
        try:
            return self._scores(self._shape, query_part, parts)
        except _ServiceRefusedError as refusal:
            shape = refusal.wanted_shape()
            if shape is None or shape is self._shape:
                raise

        # Remember what the service wants only once it took it.
        scores = self._scores(shape, query_part, parts)
        self._shape = shape
        return scores

    def _scores(
        self, shape: Shape, query: ContentPart, parts: Sequence[ContentPart]
    ) -> list[float]:
        """A score for each part; those that are blank, or that the service cannot read, stand last."""
        if not shape.reads(query):
            raise RNXError(f"{self.name}: reads texts only; give the query a text.")
        readable = [index for index, part in enumerate(parts) if shape.reads(part)]
        self._warn_of_images(parts, readable)
        scores = self._scores_in_batches(shape, query, [parts[index] for index in readable])

        by_index = dict(zip(readable, scores, strict=True))
        lowest = min([0.0, *scores])  # some services score below 0
        return [by_index.get(index, lowest) for index in range(len(parts))]

    def _scores_in_batches(
        self, shape: Shape, query: ContentPart, parts: Sequence[ContentPart]
    ) -> list[float]:
        """In as few requests as the service takes; TEI scores each document alone, so that it can
        be split.
        """
        scores: list[float] = []
        while len(scores) < len(parts):
            batch = parts[len(scores) : len(scores) + self._batch]
            try:
                scores += self._scores_of_batch(shape, query, batch)
            except _ServiceRefusedError as refusal:
                limit = refusal.batch_limit()
                if not limit or limit >= len(batch):
                    raise
                self._batch = limit
        return scores

    def _scores_of_batch(
        self, shape: Shape, query: ContentPart, parts: Sequence[ContentPart]
    ) -> list[float]:
        body = shape.body(query, parts)
        if self._model:
            body["model"] = self._model
        if self._max_text_tokens and shape is DOCUMENTS:
            body["max_tokens_per_doc"] = self._max_text_tokens
        return scores_of(self._answer(body), len(parts), self.name)

    def _warn_of_images(self, parts: Sequence[ContentPart], readable: Sequence[int]) -> None:
        unread = sum("image" in part for part in parts) - sum("image" in parts[i] for i in readable)
        if unread:
            message = f"{self.name}: reads texts only; {unread} pictures without text come last."
            warnings.warn(message, RuntimeWarning, stacklevel=4)

    def _remember(self, candidate: Candidate) -> Memory:
        found: dict[str, Tensor] = {}
        if candidate.text.strip():
            found["text"] = _bytes_tensor(candidate.text.encode("utf-8", "replace"))
        if candidate.image is not None:
            found["image"] = _bytes_tensor(candidate.image.jpeg(self._max_pixels))
        return found

    def _query_part(self, query: Query) -> ContentPart:
        text = {"text": query.text.encode("utf-8", "replace").decode()} if query.text else {}
        if query.image is None:
            return text
        return {**text, "image": _data_uri(query.image.jpeg(self._max_pixels))}

    def _answer(self, body: Mapping[str, Any]) -> Any:
        """The service's JSON, after as many tries as it takes within `TRIES`."""
        for tried in range(1, TRIES + 1):
            check_caller()
            try:
                answer = self._client.post(self._url, json=body)
            except httpx.DecodingError as error:
                message = f"{self.name}: the answer is damaged ({_reason(error)}); is this a /rerank endpoint?"
                raise RNXError(message) from error
            except httpx.TransportError as error:
                if tried == TRIES:
                    raise RNXError(
                        f"{self.name}: no answer in {TRIES} tries ({_reason(error)}); is it running?"
                    ) from error
                time.sleep(_pause(tried, None))
                continue
            if answer.status_code in BUSY and tried < TRIES:
                time.sleep(_pause(tried, answer.headers.get("retry-after")))
                continue
            return self._checked(answer)
        raise AssertionError("unreachable")

    def _checked(self, answer: httpx.Response) -> Any:
        if answer.status_code in (401, 403):
            raise RNXError(
                f"{self.name}: refused ({answer.status_code}); set {KEY_VARIABLE} to a key that it knows."
            )
        if not answer.is_success:
            message = f"{self.name}: answered {answer.status_code}: {_excerpt(answer.text)}"
            raise _ServiceRefusedError(message, answer.status_code, answer.text)
        try:
            return answer.json()
        except (ValueError, RecursionError) as error:
            raise RNXError(
                f"{self.name}: answered no JSON: {_excerpt(answer.text)}; is this a /rerank endpoint?"
            ) from error


def endpoint(url: str) -> tuple[str, str]:
    """A URL as the user writes it -> (the endpoint, the model's name or "").

    Example:
        >>> endpoint("http://localhost:8787")
        ('http://localhost:8787/rerank', '')
        >>> endpoint("https://api.jina.ai/v1/rerank#jina-reranker-m0")
        ('https://api.jina.ai/v1/rerank', 'jina-reranker-m0')
    """
    try:
        address, model = urldefrag(url)
        parts = urlsplit(address)
        parts.port  # noqa: B018  (raises for a port that cannot be)
    except ValueError as error:
        raise RNXError(
            f"model={url!r}: is no URL ({error}); a service is named like http://localhost:8787."
        ) from error
    if not parts.hostname:
        raise RNXError(
            f"model={url!r}: has no host; a service is named like http://localhost:8787 or https://host/v1/rerank."
        )
    return (address if parts.path.strip("/") else address.rstrip("/") + "/rerank"), model


def scores_of(answer: Any, count: int, name: str) -> list[float]:
    """The scores of an answer by the documents' index: `{"results": [{"index",
    "relevance_score"}]}`, or the bare list.

    A score that is called `logit` becomes its sigmoid; all others are passed on as they come.

    Raises:
        RNXError: it is something else, an index is missing, doubled or out of range, or a score is
            no finite number.
    """
    rows = _rows_of(answer)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RNXError(f"{name}: the answer has no list of results; is this a /rerank endpoint?")
    scores: dict[int, float] = {}
    for row in rows:
        index, score = row.get("index"), _score_of(row)
        if not isinstance(index, int) or score is None:
            raise RNXError(
                f"{name}: a result is {_excerpt(str(row))}; it needs an index and a finite relevance_score."
            )
        scores[index] = score
    if len(rows) != count or set(scores) != set(range(count)):
        raise RNXError(
            f"{name}: sent {count} documents, {len(scores)} of them came back; each is needed once."
        )
    return [scores[index] for index in range(count)]


def _rows_of(answer: Any) -> Any:
    if not isinstance(answer, dict):
        return answer
    names = ("results", "data", "rankings")  # Cohere's, Voyage's, NVIDIA's
    return next((answer[name] for name in names if name in answer), None)


def _score_of(row: Mapping[str, Any]) -> float | None:
    """The finite score of a result, or None."""
    is_logit = "logit" in row
    score = row["logit"] if is_logit else row.get("relevance_score", row.get("score"))
    if not isinstance(score, int | float) or not abs(score) <= sys.float_info.max:
        return None
    return _sigmoid(score) if is_logit else float(score)


def _sigmoid(logit: float) -> float:
    """Without an overflow, however large the logit is."""
    small = math.exp(-abs(logit))
    return 1 / (1 + small) if logit >= 0 else small / (1 + small)


def _part(memory: Memory) -> ContentPart:
    """What a memory holds: a text, an image as a data: URI, both, or of a blank document nothing."""
    part: ContentPart = {}
    text = bytes(memory["text"].numpy()).decode() if "text" in memory else ""
    if text.strip():
        part["text"] = text
    if "image" in memory:
        part["image"] = _data_uri(bytes(memory["image"].numpy()))
    return part


def _plain(part: ContentPart) -> str | ContentPart:
    """A text alone as a string, which every service reads."""
    return part["text"] if part.keys() == {"text"} else part


def _key_headers(api_key: str) -> dict[str, str]:
    """The header that carries the key; none without one. Raises RNXError for a key that no header
    can carry.
    """
    if not api_key.strip():
        return {}
    if not (api_key.isascii() and api_key.isprintable()):
        advice = f"set {KEY_VARIABLE} to the key alone, without line breaks."
        raise RNXError(f"the API key has other characters than printable ASCII; {advice}")
    return {"Authorization": f"Bearer {api_key.strip()}"}


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _bytes_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _pause(tried: int, asked: str | None) -> float:
    """Seconds until the next try: what the service asks for, otherwise .5, 1, 2."""
    try:
        wanted = float(asked) if asked else 0.5 * 2 ** (tried - 1)
    except ValueError:  # a date; no service that we know sends one
        wanted = 0.5 * 2 ** (tried - 1)
    return min(max(wanted, 0.0), LONGEST_WAIT)


def _excerpt(text: str) -> str:
    return " ".join(text.split())[:200] or "nothing"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
