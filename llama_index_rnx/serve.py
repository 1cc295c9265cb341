"""`rnx serve`: a ranker behind HTTP, in the shape that Cohere, Jina and vLLM share. It knows no ranker's insides.

`POST /rerank` (also `/v1/rerank`, `/v2/rerank`), `GET /health`, `GET /metrics` (Prometheus). What comes in is measured before
it is read: its key, bytes, documents, and how many requests wait already. Too much is answered at once: 401, 413, 422, 503.
"""

from __future__ import annotations

import asyncio
import hmac
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from llama_index_rnx.candidates import Candidate, ImageSource, Query, base64_source, clean_text, url_source
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers import Ranker
from llama_index_rnx.rerank import rank

MAX_DOCUMENTS = 1_000  # Cohere's own limit
MAX_CHARACTERS = 200_000  # of one text; rnx-mini reads some 10,000 of them
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes. body: bytes of a request; at_once: requests at work or waiting; seconds: for one of them."""

    body: int = 64 * 2**20
    at_once: int = 32
    seconds: float = 60.0


class Part(BaseModel):
    """A text, an image, or both; the image as base64, a data: URI, or a URL where the server allows it."""

    model_config = ConfigDict(extra="forbid")

    text: Text | None = None
    image: str | None = None

    @model_validator(mode="after")
    def _something(self) -> Part:
        if not (self.text or "").strip() and not (self.image or "").strip():
            raise ValueError("needs a text, an image, or both")
        return self


class RerankRequest(BaseModel):
    """Cohere's, Jina's and vLLM's request; fields of theirs that say nothing here are passed over."""

    query: Text | Part
    documents: list[Text | Part] = Field(max_length=MAX_DOCUMENTS)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False
    model: str | None = None


class Result(BaseModel):
    """index: of the document in the request; relevance_score: higher is better."""

    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class RerankResponse(BaseModel):
    """Best first, cut to top_n."""

    id: str
    object: str = "list"
    model: str
    results: list[Result]
    usage: dict[str, int]
    meta: dict[str, dict[str, str]] = Field(default_factory=lambda: {"api_version": {"version": "2"}})


class Refused(Exception):  # noqa: N818
    """A request that gets a status and one line instead of a ranking."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after

    def response(self) -> JSONResponse:
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after is not None else None
        return JSONResponse({"message": self.message}, status_code=self.status, headers=headers)


class Meter:
    """Prometheus counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("rnx_requests", "Rerank requests by status.", ["status"], registry=self.registry)
        self.documents = Counter("rnx_documents", "Documents ranked.", registry=self.registry)
        self.seconds = Histogram("rnx_request_seconds", "Time of a request.", buckets=BUCKETS, registry=self.registry)
        self.at_work = Gauge("rnx_requests_at_work", "Requests at work or waiting.", registry=self.registry)


class Service:
    """One ranker and its memories; requests wait their turn, and no more than `limits.at_once` of them."""

    def __init__(self, ranker: Ranker, store: MemoryStore, limits: Limits, allow_urls: bool) -> None:
        self.ranker, self.limits, self.meter = ranker, limits, Meter()
        self._store, self._allow_urls = store, allow_urls
        self._turn = asyncio.Lock()  # one ranking at a time: two on the same cores are no faster
        self._at_work = 0

    async def rerank(self, request: RerankRequest) -> RerankResponse:
        """The ranking of a request.

        Raises:
            Refused: the server is full, or the ranking took too long. RNXError: an image cannot be read, a URL is not allowed.
        """
        query = Query(**self._parts(request.query, "query"))
        candidates = [self._candidate(place, document) for place, document in enumerate(request.documents)]
        ranking = await self._in_turn(lambda: rank(self.ranker, self._store, query, candidates))
        self.meter.documents.inc(len(candidates))
        best = list(zip(ranking.order, ranking.scores, strict=True))[: request.top_n]
        return RerankResponse(
            id=str(uuid.uuid4()),
            model=self.ranker.name,
            results=[Result(index=i, relevance_score=score, document=_shown(request, i)) for i, score in best],
            usage={"total_tokens": 0, "documents": len(candidates)},
        )

    async def _in_turn(self, work: Callable[[], Any]) -> Any:
        """Waits for its turn and its end; a caller that cannot wait leaves, and what had begun for it ends by itself."""
        if self._at_work >= self.limits.at_once:
            raise Refused(503, f"{self._at_work} requests are waiting already; try again in a moment.", retry_after=1)
        self._count(+1)
        gone = asyncio.Event()
        task = asyncio.create_task(self._alone(work, gone))
        task.add_done_callback(self._leave)
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise Refused(503, f"no ranking within {self.limits.seconds:g} seconds; send fewer documents.", 5) from error
        finally:
            gone.set()

    async def _alone(self, work: Callable[[], Any], gone: asyncio.Event) -> Any:
        async with self._turn:  # held until the thread has ended, whoever still waits for it
            return None if gone.is_set() else await asyncio.to_thread(work)

    def _leave(self, task: asyncio.Task[Any]) -> None:
        self._count(-1)
        if not task.cancelled():
            task.exception()  # looked at: its caller may be gone

    def _count(self, change: int) -> None:
        self._at_work += change
        self.meter.at_work.set(self._at_work)

    def _candidate(self, place: int, document: str | Part) -> Candidate:
        return Candidate(id=str(place), **self._parts(document, f"document {place}"))

    def _parts(self, given: str | Part, label: str) -> dict[str, Any]:
        if isinstance(given, str):
            given = Part.model_construct(text=given)
        image = self._image(given.image.strip(), label) if given.image and given.image.strip() else None
        text = clean_text(given.text or "")
        if not text and image is None:
            raise Refused(422, f"{label} is empty; give it a text, an image, or both.")
        return {"text": text, "image": image}

    def _image(self, given: str, label: str) -> ImageSource:
        """Never a path: what stands on this machine's disk is nobody's business."""
        if not given.startswith(("http://", "https://")):
            return base64_source(given, label=f"image of {label}")
        if not self._allow_urls:
            raise Refused(422, f"{label}: this server fetches no URLs; send the image as base64 or a data: URI.")
        return url_source(given)


def _shown(request: RerankRequest, place: int) -> dict[str, str] | None:
    if not request.return_documents:
        return None
    document = request.documents[place]
    return {"text": document} if isinstance(document, str) else document.model_dump(exclude_none=True)


def create_app(
    load: Callable[[], Ranker], *, limits: Limits = Limits(), api_key: str | None = None, allow_urls: bool = False
) -> FastAPI:
    """The application; `load` is called once, when it starts.

    Example:
        >>> from llama_index_rnx import load_ranker
        >>> app = create_app(lambda: load_ranker("rnx-mini"))
        >>> app.title
        'llama-index-rnx'
    """

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        ranker = await asyncio.to_thread(load)
        app.state.service = Service(ranker, MemoryStore(), limits, allow_urls)
        yield

    app = FastAPI(title="llama-index-rnx", summary="Orders texts and images, best first.", lifespan=running)
    app.include_router(_routes())
    app.add_middleware(Gate, limits=limits, api_key=api_key)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RNXError, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    return app


def _routes() -> APIRouter:
    routes = APIRouter()

    async def rerank(body: RerankRequest, request: Request) -> RerankResponse:
        service: Service = request.app.state.service
        with service.meter.seconds.time():
            found = await service.rerank(body)
        service.meter.requests.labels("200").inc()
        return found

    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        routes.add_api_route(
            path,
            rerank,
            methods=["POST"],
            response_model_exclude_none=True,
            operation_id=path.strip("/").replace("/", "_"),
            responses={code: {"model": Message} for code in (400, 401, 413, 422, 503)},
        )

    @routes.get("/health")
    async def health(request: Request) -> dict[str, str]:
        return {"status": "ok", "model": request.app.state.service.ranker.name}

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        return Response(generate_latest(request.app.state.service.meter.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


class Message(BaseModel):
    """Why a request was refused."""

    message: str


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RequestValidationError):
        error = Refused(422, _wrong_field(error))
    elif isinstance(error, RNXError):
        error = Refused(400, str(error))
    assert isinstance(error, Refused)
    request.app.state.service.meter.requests.labels(str(error.status)).inc()
    return error.response()


def _wrong_field(error: RequestValidationError) -> str:
    """The error that went deepest, in one line: a document may be a string or a Part, and pydantic tells why it is neither.
    What was sent is not repeated, it may be megabytes."""
    errors = error.errors()
    worst = max(reversed(errors), key=lambda found: len(found["loc"]))
    return f"{'.'.join(str(step) for step in worst['loc'])}: {worst['msg']}"


class Gate:
    """In front of everything: no key no entry, and no body larger than allowed is kept in memory."""

    def __init__(self, app: Any, limits: Limits, api_key: str | None) -> None:
        self._app, self._limits, self._key = app, limits, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check_key(scope["path"], headers.get(b"authorization", b""))
            self._check_length(headers.get(b"content-length", b"0"))
            body = await asyncio.wait_for(self._read(receive), self._limits.seconds)
        except TimeoutError:
            await Refused(408, "the request did not arrive in time.").response()(scope, receive, send)
        except Refused as refused:
            await refused.response()(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)

    def _check_key(self, path: str, given: bytes) -> None:
        wanted = f"Bearer {self._key}".encode()
        if self._key and path != "/health" and not hmac.compare_digest(given, wanted):
            raise Refused(401, "wrong or no API key; send it as: Authorization: Bearer KEY")

    def _check_length(self, length: bytes) -> None:
        if not length.isdigit() or int(length) > self._limits.body:
            raise Refused(413, f"the request has more than {self._limits.body} bytes; send fewer or smaller images.")

    async def _read(self, receive: Receive) -> bytes:
        found = bytearray()
        while True:
            message = await receive()
            found += message.get("body", b"")
            self._check_length(str(len(found)).encode())
            if not message.get("more_body", False):
                return bytes(found)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, then whatever else arrives (the caller's leaving)."""
    parts: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return parts.pop() if parts else await receive()

    return again


def run_server(app: FastAPI, host: str, port: int) -> None:
    """Serves until it is stopped; what is at work is finished first."""
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="info", timeout_graceful_shutdown=30, server_header=False)
