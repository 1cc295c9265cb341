"""`rnx serve`: a ranker behind HTTP, in the shapes of Cohere, Jina, vLLM, Voyage and TEI. It knows
no ranker's insides.

`POST /rerank` (also `/v1/rerank`, `/v2/rerank`), `GET /health`, `GET /metrics` (Prometheus). What
comes in is measured before it is read: its key, bytes, documents, and how many requests wait
already. Too much is answered at once: 401, 413, 422, 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker
from llama_index_rnx.server.limits import Limits, RequestError, stopping
from llama_index_rnx.server.middleware import RequestGuard
from llama_index_rnx.server.schemas import (
    MAX_DOCUMENTS,
    RerankRequest,
    RerankResponse,
    TextResult,
    answer_json,
    read_request,
)
from llama_index_rnx.server.service import Service

RERANK_PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")
LONGEST_MESSAGE = 1_000  # characters
PREFIXES = (
    "",
    "/v1",
    "/v2",
    "/v3",
    "/api",
    "/api/v1",
    "/api/v2",
)  # under which others serve the same
ALIASES = tuple(f"{prefix}/{name}" for prefix in PREFIXES for name in ("rerank", "reranking"))


def create_app(
    load: Callable[[], Ranker],
    *,
    limits: Limits = Limits(),
    api_key: str | None = None,
    allow_urls: bool = False,
    store: MemoryStore | None = None,
    cors_origins: Sequence[str] = (),
    loopback_only: bool = False,
) -> FastAPI:
    """The application; `load` is called once, when it starts. Memories are kept in the store, by
    default in RAM alone.

    Args:
        cors_origins: pages of these origins (`https://example.com`, or `*`) may ask from a browser.
        loopback_only: answer to names of this machine alone (DNS rebinding); for servers without a
            key.

    Raises:
        RNXError: the key is empty, or an origin is none.

    Example:
        >>> from llama_index_rnx import load_ranker
        >>> app = create_app(lambda: load_ranker("rnx-mini"))
        >>> app.title
        'llama-index-rnx'
    """

    key = _checked_key(api_key)
    origins = [_checked_origin(origin) for origin in cors_origins]

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
        # A redirect of /rerank/ would lead to whatever host the request names.
        redirect_slashes=False,
        docs_url=None,  # these pages load their scripts from a foreign host
        redoc_url=None,
    )
    app.include_router(_routes())
    app.add_middleware(
        RequestGuard, limits=limits, api_key=key, loopback_only=loopback_only, origins=origins
    )
    if origins:  # outside the gate: a browser asks without the key whether it may ask
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    for kind in (RequestError, RNXError, HTTPException):
        app.add_exception_handler(kind, _refused)
    return app


def _checked_key(api_key: str | None) -> str | None:
    """A key without the blanks around it, which no header can carry."""
    if api_key is None:
        return None
    if not api_key.strip():
        raise RNXError("the API key is empty, so anybody could come in; set one, or none at all.")
    return api_key.strip()


def _checked_origin(origin: str) -> str:
    parts = urlsplit(origin)
    is_whole = (
        bool(parts.scheme and parts.netloc)
        and origin.lower() == f"{parts.scheme}://{parts.netloc}".lower()
    )
    if origin != "*" and not is_whole:
        raise RNXError(
            f"an origin got {origin[:100]!r}; it is like https://example.com, without a path, or *."
        )
    return origin.lower()


def _routes() -> APIRouter:
    routes = APIRouter()

    async def rerank(request: Request) -> Response:
        service: Service = request.app.state.service
        with service.meter.seconds.time():
            body = read_request(await request.body())
            response = await _while_connected(request, service.rerank(body))
        service.meter.requests.labels("200").inc()
        return Response(answer_json(body, response), media_type="application/json")

    schema = {"schema": RerankRequest.model_json_schema()}
    for path in dict.fromkeys((*RERANK_PATHS, *ALIASES)):
        routes.add_api_route(
            path,
            rerank,
            methods=["POST"],
            include_in_schema=path in RERANK_PATHS,
            response_model=RerankResponse | list[TextResult],
            operation_id=path.strip("/").replace("/", "_"),
            openapi_extra={
                "requestBody": {"required": True, "content": {"application/json": schema}}
            },
            responses={code: {"model": Message} for code in (400, 401, 403, 413, 415, 422, 503)},
        )

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health")
    async def health(request: Request) -> JSONResponse:
        """Stalled is a server where nothing was finished for `limits.seconds` although requests are
        at work.
        """
        service: Service = request.app.state.service
        seconds = service.stalled_seconds()
        stalled = seconds > service.limits.seconds
        health = {"status": "stalled" if stalled else "ok", "model": service.ranker.name}
        if stalled:
            health["message"] = (
                f"requests are at work, and nothing was finished for {seconds:.0f} seconds; restart the server."
            )
        return JSONResponse(health, status_code=503 if stalled else 200)

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        return Response(
            generate_latest(request.app.state.service.meter.registry),
            media_type=CONTENT_TYPE_LATEST,
        )

    @routes.get("/")
    async def home(request: Request) -> dict[str, str]:
        """What this is, in one line."""
        model = request.app.state.service.ranker.name
        example = 'POST /rerank {"query": "...", "documents": ["...", "..."]}'
        return {"message": f"llama-index-rnx ranks with {model}: {example}; see /openapi.json."}

    @routes.get("/models", include_in_schema=False)
    @routes.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The one model, as clients of OpenAI look for it."""
        model = {
            "id": request.app.state.service.ranker.name,
            "object": "model",
            "created": 0,
            "owned_by": "llama-index-rnx",
        }
        return {"object": "list", "data": [model]}

    @routes.get("/info")
    async def info(request: Request) -> dict[str, Any]:
        """What clients of text-embeddings-inference ask first."""
        service: Service = request.app.state.service
        return {
            "model_id": service.ranker.name,
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_concurrent_requests": service.limits.at_once,
            "max_client_batch_size": MAX_DOCUMENTS,
            "version": request.app.version,
        }

    return routes


async def _while_connected(
    request: Request, answer: Coroutine[Any, Any, RerankResponse]
) -> RerankResponse:
    """The answer; a caller that hangs up frees its place."""
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(
        request.receive()
    )  # after the body comes nothing but the caller's leaving
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise RequestError(499, "the caller is gone.")
        return work.result()
    except asyncio.CancelledError as error:
        raise stopping() from error
    finally:
        work.cancel()
        gone.cancel()


class Message(BaseModel):
    """Why a request was refused."""

    message: str
    detail: str


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if isinstance(
        error, HTTPException
    ):  # what FastAPI itself refuses: no such path, another method
        error = RequestError(error.status_code, str(error.detail), error.headers)
    elif isinstance(error, RNXError):
        error = RequestError(
            400, " ".join(str(error).split())[:LONGEST_MESSAGE]
        )  # it may name a long URL
    assert isinstance(error, RequestError)
    request.app.state.service.meter.requests.labels(str(error.status)).inc()
    return error.response()
