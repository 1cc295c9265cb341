"""A ranker and its store as requests see them: limits, metrics, rankings. It knows no HTTP."""

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
from llama_index_rnx.server.limits import RETRY_SOON, Limits, RequestError
from llama_index_rnx.server.requests import Reading, read_documents, shortened
from llama_index_rnx.server.schemas import (
    RerankRequest,
    RerankResponse,
    Result,
)

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds


class Metrics:
    """Prometheus counters of one server."""

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
    """One ranker and its memories, for all callers at once; of requests at work or waiting there
    are `limits.at_once`.
    """

    def __init__(
        self, ranker: Ranker, store: MemoryStore, limits: Limits, allow_urls: bool
    ) -> None:
        self.ranker, self.limits, self.meter = with_dynamic_batching(ranker), limits, Metrics()
        self._store, self._allow_urls = store, allow_urls
        self._lock = threading.Lock()
        self._at_work, self._moved = 0, 0.0

    async def rerank(self, request: RerankRequest) -> RerankResponse:
        """The ranking of a request; documents that hold nothing to read come last, with a score of
        0.

        Raises:
            Refused: the server is full, the request too large, or the ranking took too long.
            RNXError: the query's image cannot be read.
        """
        read = await asyncio.to_thread(read_documents, request, self.limits, self._allow_urls)
        ranking = Ranking(order=[], scores=[])
        if read.candidates:
            ranking = await self._admitted(
                lambda: rank(self.ranker, self._store, read.query, read.candidates)
            )
        self.meter.documents.inc(len(request.listed))
        return build_response(request, read, ranking, self.ranker.name)

    def refuse_when_full(self, arriving: int = 0) -> None:
        """Raises Refused when no place is free; requests that are just arriving take one, too."""
        waiting = self._at_work + arriving
        if waiting >= self.limits.at_once:
            self.meter.requests.labels("503").inc()
            raise RequestError(
                503, f"{waiting} requests are waiting already; try again in a moment.", RETRY_SOON
            )

    async def _admitted(self, work: Callable[[], Ranking]) -> Ranking:
        self.refuse_when_full()
        self._count(+1)
        limit = asyncio.timeout(self.limits.seconds)
        try:
            async with limit:
                # A cancelled request ends when its thread is free.
                ranking = await run_in_executor(work, ended=lambda: self._count(-1))
        except TimeoutError as error:
            if not limit.expired():  # it is the ranker's own
                raise
            message = f"no ranking within {self.limits.seconds:g} seconds; send fewer documents."
            raise RequestError(503, message, RETRY_SOON) from error
        self._moved = time.monotonic()
        return ranking

    def _count(self, change: int) -> None:
        """Note that a request begins or ends; called from any thread."""
        with self._lock:
            if self._at_work == 0:
                self._moved = time.monotonic()
            self._at_work += change
            self.meter.at_work.set(self._at_work)

    def stalled_seconds(self) -> float:
        """For how long no request was answered and the model finished nothing, although requests
        are at work.

        Requests that were given up count as no answer: under steady traffic some end all the time.
        It is 0.0 when none is at work.
        """
        with self._lock:
            at_work, moved = self._at_work, self._moved
        if at_work == 0:
            return 0.0
        return time.monotonic() - max(moved, getattr(self.ranker, "moved", 0.0))


def build_response(
    request: RerankRequest, read: Reading, ranking: Ranking, model: str
) -> RerankResponse:
    """Best first; behind all that was ranked stands what was not, in the order of the request."""
    unusable = {index for index in ranking.faults if not read.candidates[index].text}
    ranked = {
        int(read.candidates[index].id): score
        for index, score in zip(ranking.order, ranking.scores, strict=True)
        if index not in unusable
    }

    lowest = min([0.0, *ranked.values()])  # a service behind this server may score below 0
    scores = ranked | {index: lowest for index in range(len(request.listed)) if index not in ranked}
    results = [Result(index=index, relevance_score=score) for index, score in scores.items()]

    warnings = [*read.warnings, *ranking.faults.values()]
    meta: dict[str, Any] = {"api_version": {"version": "2"}}
    if warnings:
        meta["warnings"] = shortened(warnings)
    return RerankResponse(
        id=str(uuid.uuid4()),
        model=model,
        results=results[: request.top_n or request.top_k or None],
        usage={"total_tokens": 0, "documents": len(request.listed)},
        meta=meta,
    )
