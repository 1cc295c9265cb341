"""`rnx serve`: a ranker behind HTTP, in the shape that Cohere, Jina and vLLM share. It knows no ranker's insides.

`POST /rerank` (also `/v1/rerank`, `/v2/rerank`), `GET /health`, `GET /metrics` (Prometheus). What comes in is measured before
it is read: its key, bytes, documents, and how many requests wait already. Too much is answered at once: 401, 413, 422, 503.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from starlette.exceptions import HTTPException

from llama_index_rnx.candidates import Candidate, ImageSource, Query, base64_source, clean_text, url_source
from llama_index_rnx.errors import RNXError
from llama_index_rnx.executor import in_thread
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ordering import Ranking
from llama_index_rnx.rankers import Ranker
from llama_index_rnx.rerank import rank
from llama_index_rnx.scheduler import shared
from llama_index_rnx.shutdown import run_until_stopped

MAX_DOCUMENTS = 1_000  # Cohere's own limit
MAX_CHARACTERS = 200_000  # of one text; rnx-mini reads some 10,000 of them
RETRY_SOON = {"Retry-After": "1"}  # second
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS, pattern=r"\S")]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes. body: bytes of a request; at_once: requests at work or waiting; seconds: for one of them."""

    body: int = 64 * 2**20
    at_once: int = 32
    seconds: float = 60.0


class Part(BaseModel):
    """A text, an image, or both; the image as base64, a data: URI, or a URL where the server allows it."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"anyOf": [{"required": ["text"]}, {"required": ["image"]}], "minProperties": 1}
    )

    text: Text = ""
    image: Annotated[str, StringConstraints(min_length=1, pattern=r"\S")] = ""

    @model_validator(mode="after")
    def _something(self) -> Part:
        if not self.text and not self.image:
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

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers

    def response(self) -> JSONResponse:
        return JSONResponse({"message": self.message}, status_code=self.status, headers=self.headers)


class Meter:
    """Prometheus counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("rnx_requests", "Rerank requests by status.", ["status"], registry=self.registry)
        self.documents = Counter("rnx_documents", "Documents ranked.", registry=self.registry)
        self.seconds = Histogram("rnx_request_seconds", "Time of a request.", buckets=BUCKETS, registry=self.registry)
        self.at_work = Gauge("rnx_requests_at_work", "Requests at work or waiting.", registry=self.registry)


class Service:
    """One ranker and its memories, for all callers at once; of requests at work or waiting there are `limits.at_once`."""

    def __init__(self, ranker: Ranker, store: MemoryStore, limits: Limits, allow_urls: bool) -> None:
        self.ranker, self.limits, self.meter = shared(ranker), limits, Meter()
        self._store, self._allow_urls = store, allow_urls
        self._lock = threading.Lock()
        self._at_work, self._moved = 0, 0.0

    async def rerank(self, request: RerankRequest) -> RerankResponse:
        """The ranking of a request.

        Raises:
            Refused: the server is full, or the ranking took too long. RNXError: an image cannot be read, a URL is not allowed.
        """
        query = Query(**self._parts(request.query, "query"))
        candidates = [self._candidate(place, document) for place, document in enumerate(request.documents)]
        ranking = await self._admitted(lambda: rank(self.ranker, self._store, query, candidates))
        self.meter.documents.inc(len(candidates))
        best = list(zip(ranking.order, ranking.scores, strict=True))[: request.top_n]
        return RerankResponse(
            id=str(uuid.uuid4()),
            model=self.ranker.name,
            results=[Result(index=i, relevance_score=score, document=_shown(request, i)) for i, score in best],
            usage={"total_tokens": 0, "documents": len(candidates)},
        )

    def refuse_when_full(self) -> None:
        """Raises Refused when no place is free."""
        if self._at_work >= self.limits.at_once:
            self.meter.requests.labels("503").inc()
            raise Refused(503, f"{self._at_work} requests are waiting already; try again in a moment.", RETRY_SOON)

    async def _admitted(self, work: Callable[[], Ranking]) -> Ranking:
        self.refuse_when_full()
        self._count(+1)
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await in_thread(work, ended=lambda: self._count(-1))  # of a cancelled one when its thread is free
        except TimeoutError as error:
            message = f"no ranking within {self.limits.seconds:g} seconds; send fewer documents."
            raise Refused(503, message, RETRY_SOON) from error

    def _count(self, change: int) -> None:
        """Note that a request begins or ends; called from any thread."""
        with self._lock:
            if change < 0 or self._at_work == 0:
                self._moved = time.monotonic()
            self._at_work += change
            self.meter.at_work.set(self._at_work)

    def stalled_seconds(self) -> float:
        """For how long no request ended and the model finished nothing, although requests are at work; 0.0 when none is."""
        with self._lock:
            at_work, moved = self._at_work, self._moved
        if at_work == 0:
            return 0.0
        return time.monotonic() - max(moved, getattr(self.ranker, "moved", 0.0))

    def _candidate(self, place: int, document: str | Part) -> Candidate:
        return Candidate(id=str(place), **self._parts(document, f"document {place}"))

    def _parts(self, given: str | Part, label: str) -> dict[str, Any]:
        if isinstance(given, str):
            given = Part(text=given)
        image = self._image(given.image.strip(), label) if given.image else None
        text = clean_text(given.text)
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
    return {"text": document} if isinstance(document, str) else document.model_dump(exclude_defaults=True)


def create_app(
    load: Callable[[], Ranker],
    *,
    limits: Limits = Limits(),
    api_key: str | None = None,
    allow_urls: bool = False,
    store: MemoryStore | None = None,
) -> FastAPI:
    """The application; `load` is called once, when it starts. Memories are kept in the store, by default in RAM alone.

    Example:
        >>> from llama_index_rnx import load_ranker
        >>> app = create_app(lambda: load_ranker("rnx-mini"))
        >>> app.title
        'llama-index-rnx'
    """

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        ranker = await asyncio.to_thread(load)
        kept = store or MemoryStore()
        app.state.service = Service(ranker, kept, limits, allow_urls)
        yield
        kept.close()

    app = FastAPI(
        title="llama-index-rnx",
        summary="Orders texts and images, best first.",
        lifespan=running,
        redirect_slashes=False,  # a redirect of /rerank/ would lead to whatever host the request names
    )
    app.include_router(_routes())
    app.add_middleware(Gate, limits=limits, api_key=api_key)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RNXError, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    return app


def _routes() -> APIRouter:
    routes = APIRouter()

    async def rerank(body: RerankRequest, request: Request) -> RerankResponse:
        service: Service = request.app.state.service
        with service.meter.seconds.time():
            found = await _while_connected(request, service.rerank(body))
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
    async def health(request: Request) -> JSONResponse:
        """Stalled is a server where nothing was finished for `limits.seconds` although requests are at work."""
        service: Service = request.app.state.service
        seconds = service.stalled_seconds()
        stalled = seconds > service.limits.seconds
        health = {"status": "stalled" if stalled else "ok", "model": service.ranker.name}
        if stalled:
            health["message"] = f"requests are at work, and nothing was finished for {seconds:.0f} seconds; restart the server."
        return JSONResponse(health, status_code=503 if stalled else 200)

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        return Response(generate_latest(request.app.state.service.meter.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


async def _while_connected(request: Request, answer: Coroutine[Any, Any, RerankResponse]) -> RerankResponse:
    """The answer; a caller that hangs up frees its place."""
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(request.receive())  # after the body comes nothing but the caller's leaving
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Refused(499, "the caller is gone.")
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


class Message(BaseModel):
    """Why a request was refused."""

    message: str


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RequestValidationError):
        error = Refused(422, _wrong_field(error))
    elif isinstance(error, HTTPException):  # what FastAPI itself refuses: no such path, a body that is no text
        error = Refused(error.status_code, str(error.detail), error.headers)
    elif isinstance(error, RNXError):
        error = Refused(400, str(error))
    assert isinstance(error, Refused)
    request.app.state.service.meter.requests.labels(str(error.status)).inc()
    return error.response()


def _wrong_field(error: RequestValidationError) -> str:
    """What is wrong, in one line; what was sent is not repeated, it may be megabytes.

    A document may be a string or a Part: of pydantic's reasons why it is neither, the one that went deepest is the user's.
    """
    errors = [found for found in error.errors() if not found["type"].endswith("_type")] or error.errors()
    worst = max(reversed(errors), key=lambda found: len(found["loc"]))
    place = ".".join(str(step) for step in worst["loc"] if str(step).isidentifier() or isinstance(step, int))
    return f"{place}: {worst['msg']}"


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
            _refuse_when_full(scope)
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


def _refuse_when_full(scope: Scope) -> None:
    """Before a body is read and understood: who is turned away under load should cost next to nothing."""
    if scope["method"] == "POST":
        scope["app"].state.service.refuse_when_full()


def _replay(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, then whatever else arrives (the caller's leaving)."""
    parts: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return parts.pop() if parts else await receive()

    return again


@contextmanager
def serving(
    ranker: Ranker, *, limits: Limits = Limits(), api_key: str | None = None, allow_urls: bool = False
) -> Iterator[str]:
    """A server in a thread of this process, on a free port of this machine, for as long as the block lasts: yields its URL.

    For notebooks and tests; people are served by `rnx serve`.

    Example:
        >>> from llama_index_rnx import RNXRerank, load_ranker
        >>> with serving(load_ranker("rnx-mini")) as url:
        ...     reranker = RNXRerank(model=url)
        >>> url.startswith("http://127.0.0.1:")
        True
    """
    import uvicorn

    app = create_app(lambda: ranker, limits=limits, api_key=api_key, allow_urls=allow_urls)
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))  # bound here and handed over, so that nobody else can take the port in between
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            if not server.started:
                raise RNXError("the server did not start; its error stands above.")
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def run_server(app: FastAPI, host: str, port: int) -> None:
    """Serves until it is stopped: Ctrl-C ends it within five seconds, SIGTERM finishes what is at work, 30 seconds at most.

    Raises:
        RNXError: the address or the port cannot be had.
    """
    import uvicorn

    with open_door(host, port) as door:
        run_until_stopped(uvicorn.Config(app, log_level="info", server_header=False), door)


def open_door(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        RNXError: the address or the port cannot be had.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).split(" (")[0]  # behind it Python names the address once more
        raise RNXError(f"port {port} of {host} cannot be had ({reason}); choose another --port.") from error
