"""A `/rerank` service as a ranker: `rnx serve`, vLLM, Jina, Cohere, TEI and their like, by URL. It
computes nothing itself, and knows the services' JSON only through `service_formats.py`.
"""

from __future__ import annotations

import base64
import os
import warnings
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urldefrag, urlsplit

import httpx
import numpy as np
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
)

from llama_index_rnx.candidates import DEFAULT_MAX_PIXELS, Candidate, Query
from llama_index_rnx.errors import ConnectionFailedError, SettingsError, one_line
from llama_index_rnx.memory import Array, Framework, Memory
from llama_index_rnx.network import http_options, usable_proxies
from llama_index_rnx.rankers.service_formats import (
    DOCUMENTS,
    Content,
    RequestFormat,
    ServiceRefusedError,
    excerpt,
    scores_of,
)
from llama_index_rnx.ranking import check_caller

# Documents of a request; Cohere and `rnx serve` take as many.
WINDOW = 1_000

# In seconds; a 2B model on a busy GPU may take its time.
TIMEOUT = httpx.Timeout(120.0, connect=10.0)

TRIES = 4

# Seconds between two tries, whatever the service asks for.
LONGEST_WAIT = 20.0

# The status codes of a service that may answer the next time.
BUSY = {408, 425, 429, 500, 502, 503, 504}

KEY_VARIABLE = "RNX_API_KEY"


class RemoteRanker:
    """The `Ranker` of a service; made by `load_ranker(URL)`.

    A memory is what will be sent: `text` as UTF-8 bytes, `image` as the bytes of a JPEG of
    `max_pixels` at most. Documents of text alone go as strings, those with an image as `{"text",
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

    Raises:
        SettingsError: the URL has no host, or no header can carry the key.
    """

    # The service sees to its own callers.
    is_thread_safe = True

    framework: Framework = "np"

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
        self._max_pixels = max_pixels or DEFAULT_MAX_PIXELS
        self._max_text_tokens = max_text_tokens
        self._api_key = api_key

        # The form that the service takes, as far as its refusals have shown.
        self._format = DOCUMENTS
        self._batch_size = WINDOW

        headers = _key_headers(api_key if api_key is not None else os.environ.get(KEY_VARIABLE, ""))
        with usable_proxies(self._url):
            # A client is a pool of connections, and safe for threads.
            self._client = httpx.Client(
                timeout=TIMEOUT, headers=headers, transport=transport, **http_options(self._url)
            )
        weakref.finalize(self, self._client.close)

    def __reduce__(self) -> tuple[Any, ...]:
        """Give copies and pickles a connection of their own."""
        create = partial(
            type(self),
            self.name,
            api_key=self._api_key,
            max_pixels=self._max_pixels,
            max_text_tokens=self._max_text_tokens,
        )
        return create, ()

    @property
    def name(self) -> str:
        """The URL, with the name of the model as its fragment."""
        return f"{self._url}#{self._model}" if self._model else self._url

    @property
    def fingerprint(self) -> str:
        """It depends on what is sent, whoever it is sent to."""
        return f"remote/1/{self._max_pixels}"

    @property
    def window(self) -> int:
        """How many documents a request may have: 1,000."""
        return WINDOW

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """Return one memory for each candidate.

        Raises:
            ImageError: an image cannot be read.
        """
        return [self._remember(candidate) for candidate in candidates]

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """Return one score for each memory, from one request where the service takes as many.

        Raises:
            ConnectionFailedError: the service cannot be reached, refuses, stays busy over all
                tries, or answers something else.
            SettingsError: the service reads no images, and the query is one.
        """
        if not memories:
            return []

        query_content = self._query_content(query)
        contents = [_content(memory) for memory in memories]
        try:
            return self._score(self._format, query_content, contents)
        except ServiceRefusedError as refusal:
            expected = refusal.expected_format()
            if expected is None or expected is self._format:
                raise

        # The format is kept only once the service took it.
        scores = self._score(expected, query_content, contents)
        self._format = expected
        return scores

    def _score(
        self, request_format: RequestFormat, query: Content, contents: Sequence[Content]
    ) -> list[float]:
        """Score all contents; those that are blank, or that the service cannot read, come last."""
        if not request_format.can_read(query):
            raise SettingsError(f"{self.name}: reads texts only; give the query a text.")

        readable = [i for i, content in enumerate(contents) if request_format.can_read(content)]
        self._warn_of_images(contents, readable)
        scores = self._score_in_batches(request_format, query, [contents[i] for i in readable])

        # Some services score below 0.
        lowest = min([0.0, *scores])
        by_index = dict(zip(readable, scores, strict=True))
        return [by_index.get(index, lowest) for index in range(len(contents))]

    def _score_in_batches(
        self, request_format: RequestFormat, query: Content, contents: Sequence[Content]
    ) -> list[float]:
        """Score in as few requests as the service takes; a service with a limit (TEI) scores each
        document alone, so that a list can be divided.
        """
        scores: list[float] = []
        while len(scores) < len(contents):
            batch = contents[len(scores) : len(scores) + self._batch_size]
            try:
                scores += self._score_batch(request_format, query, batch)
            except ServiceRefusedError as refusal:
                limit = refusal.batch_limit()
                if not limit or limit >= len(batch):
                    raise
                self._batch_size = limit
        return scores

    def _score_batch(
        self, request_format: RequestFormat, query: Content, contents: Sequence[Content]
    ) -> list[float]:
        body = request_format.body(query, contents)
        if self._model:
            body["model"] = self._model
        if self._max_text_tokens and request_format is DOCUMENTS:
            body["max_tokens_per_doc"] = self._max_text_tokens
        return scores_of(self._request(body), len(contents), self.name)

    def _warn_of_images(self, contents: Sequence[Content], readable: Sequence[int]) -> None:
        images = sum("image" in content for content in contents)
        unread = images - sum("image" in contents[index] for index in readable)
        if unread:
            message = f"{self.name}: reads texts only; {unread} images without text come last."
            warnings.warn(message, RuntimeWarning, stacklevel=4)

    def _remember(self, candidate: Candidate) -> Memory:
        memory: dict[str, Array] = {}
        if candidate.text.strip():
            memory["text"] = _byte_array(candidate.text.encode("utf-8", "replace"))
        if candidate.image is not None:
            memory["image"] = _byte_array(candidate.image.jpeg(self._max_pixels))
        return memory

    def _query_content(self, query: Query) -> Content:
        content: Content = {}
        if query.text:
            content["text"] = query.text.encode("utf-8", "replace").decode()
        if query.image is not None:
            content["image"] = _data_uri(query.image.jpeg(self._max_pixels))
        return content

    def _request(self, body: Mapping[str, Any]) -> Any:
        """Return the service's JSON. A busy service, or one that does not answer, is tried `TRIES`
        times.
        """
        retrying = Retrying(
            stop=stop_after_attempt(TRIES),
            wait=_pause,
            retry=retry_if_exception_type(httpx.TransportError) | retry_if_result(_is_busy),
            retry_error_callback=_last_result,
        )
        try:
            response = retrying(self._post, body)
        except httpx.DecodingError as error:
            raise ConnectionFailedError(
                f"{self.name}: the answer is damaged ({_reason(error)}); is this a /rerank "
                "endpoint?"
            ) from error
        except httpx.TransportError as error:
            raise ConnectionFailedError(
                f"{self.name}: no answer in {TRIES} tries ({_reason(error)}); is it running?"
            ) from error
        return self._parse(response)

    def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        """Send the request once, unless the caller was cancelled meanwhile."""
        check_caller()
        return self._client.post(self._url, json=body)

    def _parse(self, response: httpx.Response) -> Any:
        if response.status_code in (401, 403):
            raise ConnectionFailedError(
                f"{self.name}: refused ({response.status_code}); set {KEY_VARIABLE} to a key that "
                "it knows."
            )
        if not response.is_success:
            message = f"{self.name}: answered {response.status_code}: {excerpt(response.text)}"
            raise ServiceRefusedError(message, response.status_code, response.text)
        try:
            return response.json()
        except (ValueError, RecursionError) as error:
            raise ConnectionFailedError(
                f"{self.name}: answered no JSON: {excerpt(response.text)}; is this a /rerank "
                "endpoint?"
            ) from error


def endpoint(url: str) -> tuple[str, str]:
    """Divide a URL as the user writes it into the endpoint and the model's name, or "".

    Raises:
        SettingsError: it is no URL, or has no host.

    Example:
        >>> endpoint("http://localhost:8787")
        ('http://localhost:8787/rerank', '')
        >>> endpoint("https://api.jina.ai/v1/rerank#jina-reranker-m0")
        ('https://api.jina.ai/v1/rerank', 'jina-reranker-m0')
    """
    try:
        address, model = urldefrag(url)
        split = urlsplit(address)
        split.port  # noqa: B018  (raises for a port that cannot be)
    except ValueError as error:
        raise SettingsError(
            f"model={url!r}: is no URL ({error}); a service is named like http://localhost:8787."
        ) from error
    if not split.hostname:
        raise SettingsError(
            f"model={url!r}: has no host; a service is named like http://localhost:8787 or "
            "https://host/v1/rerank."
        )

    if not split.path.strip("/"):
        address = address.rstrip("/") + "/rerank"
    return address, model


def _content(memory: Memory) -> Content:
    """Return what a memory holds: a text, an image as a data: URI, both, or nothing."""
    content: Content = {}
    text = memory["text"].tobytes().decode() if "text" in memory else ""
    if text.strip():
        content["text"] = text
    if "image" in memory:
        content["image"] = _data_uri(memory["image"].tobytes())
    return content


def _key_headers(api_key: str) -> dict[str, str]:
    """Return the header that carries the key; none without a key.

    Raises:
        SettingsError: no header can carry it.
    """
    if not api_key.strip():
        return {}
    if not (api_key.isascii() and api_key.isprintable()):
        raise SettingsError(
            "the API key has other characters than printable ASCII; set "
            f"{KEY_VARIABLE} to the key alone, without line breaks."
        )
    return {"Authorization": f"Bearer {api_key.strip()}"}


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _byte_array(data: bytes) -> Array:
    return np.frombuffer(data, dtype=np.uint8)


def _is_busy(response: httpx.Response) -> bool:
    return response.status_code in BUSY


def _last_result(state: RetryCallState) -> Any:
    """Return the last response, or raise the last error, where tenacity would raise its own."""
    assert state.outcome is not None
    return state.outcome.result()


def _pause(state: RetryCallState) -> float:
    """Return the seconds until the next try: what the service asks for, otherwise .5, 1, 2."""
    seconds: float = 0.5 * 2 ** (state.attempt_number - 1)
    outcome = state.outcome
    if outcome is not None and not outcome.failed:
        seconds = _retry_after(outcome.result(), seconds)
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _retry_after(response: httpx.Response, default: float) -> float:
    try:
        return float(response.headers.get("retry-after") or default)
    except ValueError:
        # It is a date; no service that we know sends one.
        return default


def _reason(error: Exception) -> str:
    return one_line(error, 2_000)
