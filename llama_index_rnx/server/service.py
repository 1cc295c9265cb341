"""One ranker and its memories for many requests: limits, metrics, rankings. It knows no HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker, Ranking, rank, run_in_executor, with_dynamic_batching
from llama_index_rnx.server.errors import RETRY_SOON, RequestError
from llama_index_rnx.server.limits import Limits
from llama_index_rnx.server.requests import RankingInput, read_documents, shorten_warnings
from llama_index_rnx.server.schemas import RerankRequest, RerankResponse, Result

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds


class Metrics:
    """The Prometheus counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rnx_requests", "Rerank requests by status.", ["status"], registry=self.registry
        )
        self.documents = Counter("rnx_documents", "Documents ranked.", registry=self.registry)
        self.seconds = Histogram(
            "rnx_request_seconds", "Time of a request.", buckets=BUCKETS, registry=self.registry
        )
        self.at_work = Gauge(
            "rnx_requests_at_work", "Requests at work or waiting.", registry=self.registry
        )


class Service:
    """One ranker and its memories for all callers; at most `limits.at_once` requests are at work or
    waiting.
    """

    def __init__(
        self, ranker: Ranker, store: MemoryStore, limits: Limits, allow_urls: bool
    ) -> None:
        self.ranker = with_dynamic_batching(ranker)
        self.limits = limits
        self.metrics = Metrics()
        self._store = store
        self._allow_urls = allow_urls
        self._lock = threading.Lock()
        self._at_work = 0
        self._last_progress = 0.0

    async def rerank(self, request: RerankRequest) -> RerankResponse:
        """Rank the documents of a request. Documents that hold nothing to read come last, with a
        score of 0.

        Raises:
            RequestError: the server is full (503), the request too large (413), or the ranking took
                too long (503).
            ImageError: the query's image cannot be read.
        """
        inputs = await asyncio.to_thread(read_documents, request, self.limits, self._allow_urls)
        ranking = Ranking(order=[], scores=[])
        if inputs.candidates:
            ranking = await self._run(
                lambda: rank(self.ranker, self._store, inputs.query, inputs.candidates)
            )
        self.metrics.documents.inc(len(request.listed))
        return build_response(request, inputs, ranking, self.ranker.name)

    def refuse_when_full(self, arriving: int = 0) -> None:
        """Refuse a request when no turn is free; `arriving` requests, which are still being
        received, take one, too.

        Raises:
            RequestError: no turn is free (503).
        """
        waiting = self._at_work + arriving
        if waiting >= self.limits.at_once:
            self.metrics.requests.labels("503").inc()
            raise RequestError(
                503, f"{waiting} requests are waiting already; try again in a moment.", RETRY_SOON
            )

    async def _run(self, work: Callable[[], Ranking]) -> Ranking:
        self.refuse_when_full()
        self._count(+1)
        limit = asyncio.timeout(self.limits.seconds)
        try:
            async with limit:
                # A cancelled request counts until its thread is free.
                ranking = await run_in_executor(work, ended=lambda: self._count(-1))
        except TimeoutError as error:
            # A time-out of the ranker itself is no time-out of the request.
            if not limit.expired():
                raise
            message = f"no ranking within {self.limits.seconds:g} seconds; send fewer documents."
            raise RequestError(503, message, RETRY_SOON) from error
        self._last_progress = time.monotonic()
        return ranking

    def _count(self, change: int) -> None:
        """Note that a request begins or ends. Any thread may call it."""
        with self._lock:
            if self._at_work == 0:
                self._last_progress = time.monotonic()
            self._at_work += change
            self.metrics.at_work.set(self._at_work)

    def stalled_seconds(self) -> float:
        """Return for how many seconds no request was answered and the model finished nothing,
        although requests are at work; 0.0 when none is at work.

        A request that was given up is no answer: under steady traffic some end all the time.
        """
        with self._lock:
            at_work = self._at_work
            last_progress = self._last_progress
        if at_work == 0:
            return 0.0
        return time.monotonic() - max(last_progress, getattr(self.ranker, "moved", 0.0))


def build_response(
    request: RerankRequest, inputs: RankingInput, ranking: Ranking, model: str
) -> RerankResponse:
    """Return the response, best first. Documents that were not ranked come last, in the order of
    the request.
    """
    scores = _scores_by_index(inputs, ranking)

    # A service behind this server may score below 0.
    lowest = min([0.0, *scores.values()])
    for index in range(len(request.listed)):
        scores.setdefault(index, lowest)
    results = [Result(index=index, relevance_score=score) for index, score in scores.items()]

    meta: dict[str, Any] = {"api_version": {"version": "2"}}
    warnings = [*inputs.warnings, *ranking.faults.values()]
    if warnings:
        meta["warnings"] = shorten_warnings(warnings)
    return RerankResponse(
        id=str(uuid.uuid4()),
        model=model,
        results=results[: request.top_n or request.top_k or None],
        usage={"total_tokens": 0, "documents": len(request.listed)},
        meta=meta,
    )


def _scores_by_index(inputs: RankingInput, ranking: Ranking) -> dict[int, float]:
    """Return the score of each ranked document by its index in the request, best first; without
    the documents that hold nothing but an image that could not be read.
    """
    unreadable = {index for index in ranking.faults if not inputs.candidates[index].text}
    return {
        int(inputs.candidates[index].id): score
        for index, score in zip(ranking.order, ranking.scores, strict=True)
        if index not in unreadable
    }
