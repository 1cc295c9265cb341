"""The routes of `rnx serve`: `POST /rerank` under every path that clients use, and what there is to
know of the server: `GET /health`, `/metrics` (Prometheus), `/models`, `/info`. It knows no ranker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from llama_index_rnx.server.errors import caller_gone, server_stopping
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
# Other services offer the same under these prefixes.
PREFIXES = ("", "/v1", "/v2", "/v3", "/api", "/api/v1", "/api/v2")
ALIASES = tuple(f"{prefix}/{name}" for prefix in PREFIXES for name in ("rerank", "reranking"))
ERROR_STATUSES = (400, 401, 403, 413, 415, 422, 503)


class Message(BaseModel):
    """Why a request was refused."""

    message: str
    detail: str


def create_router() -> APIRouter:
    """Return all routes. Their service is `app.state.service`."""
    router = APIRouter()
    schema = {"schema": RerankRequest.model_json_schema()}
    for path in dict.fromkeys((*RERANK_PATHS, *ALIASES)):
        router.add_api_route(
            path,
            _rerank,
            methods=["POST"],
            include_in_schema=path in RERANK_PATHS,
            response_model=RerankResponse | list[TextResult],
            name="rerank",
            operation_id=path.strip("/").replace("/", "_"),
            openapi_extra={
                "requestBody": {"required": True, "content": {"application/json": schema}}
            },
            responses={status: {"model": Message} for status in ERROR_STATUSES},
        )

    router.add_api_route("/health", _health, methods=["HEAD"], include_in_schema=False)
    router.add_api_route("/health", _health, name="health")
    router.add_api_route("/metrics", _metrics, name="metrics", response_class=PlainTextResponse)
    router.add_api_route("/", _home, name="home")
    router.add_api_route("/models", _models, include_in_schema=False)
    router.add_api_route("/v1/models", _models, name="models")
    router.add_api_route("/info", _info, name="info")
    return router


async def _rerank(request: Request) -> Response:
    service = _service_of(request)
    with service.metrics.seconds.time():
        body = read_request(await request.body())
        response = await _while_connected(request, service.rerank(body))

    service.metrics.requests.labels("200").inc()
    return Response(answer_json(body, response), media_type="application/json")


async def _health(request: Request) -> JSONResponse:
    """Say whether the server works. It is stalled when nothing was finished for `limits.seconds`
    although requests are at work.
    """
    service = _service_of(request)
    seconds = service.stalled_seconds()
    is_stalled = seconds > service.limits.seconds

    health = {"status": "stalled" if is_stalled else "ok", "model": service.ranker.name}
    if is_stalled:
        health["message"] = (
            f"requests are at work, and nothing was finished for {seconds:.0f} seconds; "
            "restart the server."
        )
    return JSONResponse(health, status_code=503 if is_stalled else 200)


async def _metrics(request: Request) -> Response:
    """Return the counters of the server, for Prometheus."""
    counters = generate_latest(_service_of(request).metrics.registry)
    return Response(counters, media_type=CONTENT_TYPE_LATEST)


async def _home(request: Request) -> dict[str, str]:
    """Say in one line what this server is."""
    model = _service_of(request).ranker.name
    example = 'POST /rerank {"query": "...", "documents": ["...", "..."]}'
    return {"message": f"llama-index-rnx ranks with {model}: {example}; see /openapi.json."}


async def _models(request: Request) -> dict[str, Any]:
    """Name the one model, in the shape that OpenAI's clients expect."""
    model = {
        "id": _service_of(request).ranker.name,
        "object": "model",
        "created": 0,
        "owned_by": "llama-index-rnx",
    }
    return {"object": "list", "data": [model]}


async def _info(request: Request) -> dict[str, Any]:
    """Describe the server as clients of text-embeddings-inference expect it."""
    service = _service_of(request)
    return {
        "model_id": service.ranker.name,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": service.limits.at_once,
        "max_client_batch_size": MAX_DOCUMENTS,
        "version": request.app.version,
    }


def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _while_connected(
    request: Request, answer: Coroutine[Any, Any, RerankResponse]
) -> RerankResponse:
    """Return the answer, unless the caller hangs up before, which frees its turn."""
    work = asyncio.ensure_future(answer)

    # After the body nothing else arrives but the news that the caller left.
    departure = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait([work, departure], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise caller_gone()
        return work.result()
    except asyncio.CancelledError as error:
        raise server_stopping() from error
    finally:
        work.cancel()
        departure.cancel()
