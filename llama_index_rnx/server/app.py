"""The application of `rnx serve`: its routes, its guard, its life. It knows no ranker's insides.

Whatever arrives is measured before it is read: its key, its bytes, its documents, and how many
requests wait already. Too much is answered at once, with 401, 413, 422 or 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.middleware.cors import CORSMiddleware

from llama_index_rnx.errors import SettingsError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker
from llama_index_rnx.server.errors import MAPPED_ERRORS, request_error
from llama_index_rnx.server.limits import Limits
from llama_index_rnx.server.middleware import RequestGuard
from llama_index_rnx.server.routes import create_router
from llama_index_rnx.server.service import Service


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
    """Return the application; it calls `load` once, when it starts.

    Args:
        load: makes the ranker.
        limits: how much the server accepts.
        api_key: the key that every caller must send, or None for no key.
        allow_urls: fetch images that a request names by URL, from public hosts alone.
        store: keeps the memories; by default they are kept in RAM alone.
        cors_origins: pages of these origins (`https://example.com`, or `*`) may ask from a browser.
        loopback_only: answer to names of this machine alone (DNS rebinding); for servers without a
            key.

    Raises:
        SettingsError: the key is empty, or one of `cors_origins` is not an origin.

    Example:
        >>> from llama_index_rnx import load_ranker
        >>> app = create_app(lambda: load_ranker("rnx-mini"))
        >>> app.title
        'llama-index-rnx'
    """
    key = _checked_key(api_key)
    origins = [_checked_origin(origin) for origin in cors_origins]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ranker = await asyncio.to_thread(load)
        memories = store or MemoryStore()
        app.state.service = Service(ranker, memories, limits, allow_urls)
        yield
        memories.close()

    app = FastAPI(
        title="llama-index-rnx",
        summary="Orders texts and images, best first.",
        lifespan=lifespan,
        # A redirect of /rerank/ would lead to whatever host the request names.
        redirect_slashes=False,
        # The pages of documentation load their scripts from a foreign host.
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(create_router())
    app.add_middleware(
        RequestGuard, limits=limits, api_key=key, loopback_only=loopback_only, origins=origins
    )

    # CORS stands outside the guard: a browser asks without the key whether it may ask.
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )

    for kind in MAPPED_ERRORS:
        app.add_exception_handler(kind, _answer_error)
    return app


def _checked_key(api_key: str | None) -> str | None:
    """Return the key without the blanks around it, which no header can carry."""
    if api_key is None:
        return None
    if not api_key.strip():
        raise SettingsError(
            "the API key is empty, so anybody could come in; set one, or none at all."
        )
    return api_key.strip()


def _checked_origin(origin: str) -> str:
    url = urlsplit(origin)
    has_both = bool(url.scheme and url.netloc)
    is_origin = has_both and origin.lower() == f"{url.scheme}://{url.netloc}".lower()
    if origin != "*" and not is_origin:
        raise SettingsError(
            f"an origin got {origin[:100]!r}; it is like https://example.com, without a path, or *."
        )
    return origin.lower()


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    answer = request_error(error)
    service: Service = request.app.state.service
    service.metrics.requests.labels(str(answer.status)).inc()
    return answer.response()
