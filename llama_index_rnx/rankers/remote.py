"""A `/rerank` service as a ranker: `rnx serve`, vLLM, Jina, Cohere and their like, by URL. It computes nothing itself.

They all take `{"query", "documents"}` and answer `{"results": [{"index", "relevance_score"}]}`, in any order.
"""

from __future__ import annotations

import base64
import math
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urldefrag, urlsplit

import httpx
import torch
from torch import Tensor

from llama_index_rnx.candidates import DEFAULT_MAX_PIXELS, Candidate, Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import Memory
from llama_index_rnx.proxies import http_options, usable_proxies

WINDOW = 1_000  # documents a request; Cohere and `rnx serve` take as many
TIMEOUT = httpx.Timeout(120.0, connect=10.0)  # seconds; a 2B model on a busy GPU may take its time
TRIES = 4
LONGEST_WAIT = 20.0  # seconds between two tries, whatever the service asks for
BUSY = {408, 425, 429, 500, 502, 503, 504}  # may go well the next time
KEY_VARIABLE = "RNX_API_KEY"

Document = str | dict[str, str]


class RemoteRanker:
    """The `Ranker` of a service; made by `load_ranker(URL)`.

    A memory is what will be sent: `text` as UTF-8 bytes, `image` as the bytes of a JPEG of `max_pixels` at most. Documents
    of text alone go as strings, those with a picture as `{"text", "image"}` with base64, as Jina and `rnx serve` read them.

    Scores are the service's own: they compare within a call, and between calls as far as the service says so.

    Args:
        url: of the endpoint; without a path `/rerank` is added. A fragment names the model for services that want one:
            `https://api.jina.ai/v1/rerank#jina-reranker-m0`.
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
        key = api_key or os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with usable_proxies(self._url):
            self._client = httpx.Client(  # a pool; safe for threads
                timeout=TIMEOUT, headers=headers, transport=transport, **http_options(self._url)
            )
        weakref.finalize(self, self._client.close)

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
        """One score a memory, in one request.

        Raises:
            RNXError: the service cannot be reached, refuses, stays busy over all tries, or answers something else.
        """
        if not memories:
            return []
        documents = [_document(memory) for memory in memories]
        body = {"query": self._query(query), "documents": documents, "top_n": len(documents), "return_documents": False}
        if self._model:
            body["model"] = self._model
        if self._max_text_tokens:
            body["max_tokens_per_doc"] = self._max_text_tokens
        return scores_of(self._answer(body), len(documents), self.name)

    def _remember(self, candidate: Candidate) -> Memory:
        found: dict[str, Tensor] = {}
        if candidate.text:
            found["text"] = _bytes_tensor(candidate.text.encode("utf-8", "replace"))
        if candidate.image is not None:
            found["image"] = _bytes_tensor(candidate.image.jpeg(self._max_pixels))
        return found

    def _query(self, query: Query) -> Document:
        if query.image is None:
            return query.text
        picture = {"image": _data_uri(query.image.jpeg(self._max_pixels))}
        return {"text": query.text, **picture} if query.text else picture

    def _answer(self, body: Mapping[str, Any]) -> Any:
        """The service's JSON, after as many tries as it takes within `TRIES`."""
        for tried in range(1, TRIES + 1):
            try:
                answer = self._client.post(self._url, json=body)
            except httpx.TransportError as error:
                if tried == TRIES:
                    raise RNXError(f"{self.name}: no answer in {TRIES} tries ({_reason(error)}); is it running?") from error
                time.sleep(_pause(tried, None))
                continue
            if answer.status_code in BUSY and tried < TRIES:
                time.sleep(_pause(tried, answer.headers.get("retry-after")))
                continue
            return self._checked(answer)
        raise AssertionError("unreachable")

    def _checked(self, answer: httpx.Response) -> Any:
        if answer.status_code in (401, 403):
            raise RNXError(f"{self.name}: refused ({answer.status_code}); set {KEY_VARIABLE} to a key that it knows.")
        if not answer.is_success:
            raise RNXError(f"{self.name}: answered {answer.status_code}: {_excerpt(answer.text)}")
        try:
            return answer.json()
        except ValueError as error:
            raise RNXError(f"{self.name}: answered no JSON: {_excerpt(answer.text)}; is this a /rerank endpoint?") from error


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
        raise RNXError(f"model={url!r}: is no URL ({error}); a service is named like http://localhost:8787.") from error
    if not parts.hostname:
        raise RNXError(f"model={url!r}: has no host; a service is named like http://localhost:8787 or https://host/v1/rerank.")
    return (address if parts.path.strip("/") else address.rstrip("/") + "/rerank"), model


def scores_of(answer: Any, count: int, name: str) -> list[float]:
    """The scores of an answer by the documents' index: `{"results": [{"index", "relevance_score"}]}`, or the bare list.

    Raises:
        RNXError: it is something else, an index is missing, doubled or out of range, or a score is no finite number.
    """
    rows = answer.get("results", answer.get("data")) if isinstance(answer, dict) else answer
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RNXError(f"{name}: the answer has no list of results; is this a /rerank endpoint?")
    found: dict[int, float] = {}
    for row in rows:
        place, score = row.get("index"), row.get("relevance_score", row.get("score"))
        if not isinstance(place, int) or not isinstance(score, int | float) or not math.isfinite(score):
            raise RNXError(f"{name}: a result is {_excerpt(str(row))}; it needs an index and a finite relevance_score.")
        found[place] = float(score)
    if len(rows) != count or set(found) != set(range(count)):
        raise RNXError(f"{name}: sent {count} documents, {len(found)} of them came back; each is needed once.")
    return [found[place] for place in range(count)]


def _document(memory: Memory) -> Document:
    text = bytes(memory["text"].numpy()).decode() if "text" in memory else ""
    if "image" not in memory:
        return text
    picture = {"image": _data_uri(bytes(memory["image"].numpy()))}
    return {"text": text, **picture} if text else picture


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
