"""The HTTP of `rnx ui`: a page, questions answered as streams of JSON lines, pictures by node id,
uploads.

It knows neither models nor threads: conversations are in talks.py, files in uploads.py, who may
speak to it in guard.py.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llama_index_rnx.candidates import image_of
from llama_index_rnx.chat import RNXChatEngine
from llama_index_rnx.collection import NodeCollection
from llama_index_rnx.errors import RNXError
from llama_index_rnx.results import style_sheet, thumbnail
from llama_index_rnx.server import RequestError
from llama_index_rnx.ui.conversations import Conversations, EventDict, Threads
from llama_index_rnx.ui.library import Library
from llama_index_rnx.ui.middleware import PageGuard

PAGE = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
SIDES = (300, 1_600)  # pixels of a picture's longer side: on a card, and enlarged
FILES_SHOWN = 200
_KEY = re.compile(r"[0-9a-zA-Z-]{16,64}")


@dataclass(frozen=True, kw_only=True)
class PageLimits:
    """question: bytes of a request; waiting: questions at work or waiting; uploads: at once;
    silence: seconds in an answer without a word; pause: seconds in an upload without a byte."""

    question: int = 64 * 2**10
    waiting: int = 16
    uploads: int = 4
    silence: float = 300.0
    pause: float = 60.0


class AppState:
    """What all visitors share."""

    def __init__(
        self,
        collection: NodeCollection,
        library: Library,
        begin: Callable[[], RNXChatEngine],
        limits: PageLimits,
    ) -> None:
        self.collection, self.documents, self.limits = collection, library, limits
        self.conversations, self.threads = Conversations(begin), Threads()
        engine = begin()
        self.writer = None if engine.quotes else engine.writer
        self.drawing, self.uploads = asyncio.Semaphore(2), 0

    def state(self) -> dict[str, Any]:
        """What the page shows of the index."""
        entries = self.documents.entries()
        return {
            "nodes": len(self.documents),
            "files": [entry.to_dict() for entry in entries[-FILES_SHOWN:]],
            "more": self.documents.unlisted + max(0, len(entries) - FILES_SHOWN),
            "writer": self.writer,
            "max_bytes": self.documents.max_bytes,
        }

    def picture(self, node_id: str, side: int) -> bytes:
        """The picture of a node of the index, and of nothing else, as a JPEG.

        Raises:
            Refused: there is no such node, or it has no picture that can be drawn.
        """
        for node in self.collection.get([node_id]):
            image = image_of(node)
            if image is not None:
                return thumbnail(image, side)
        raise RequestError(404, "the index has no picture of that name.")


def create_page(
    collection: NodeCollection,
    library: Library,
    begin: Callable[[], RNXChatEngine],
    limits: PageLimits = PageLimits(),
) -> FastAPI:
    """The application. `begin` starts a conversation, see
    `llama_index_rnx.chat.engine.conversations`.
    """

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        app.state.desk = AppState(collection, library, begin, limits)
        yield
        app.state.desk.threads.close()

    app = FastAPI(title="rnx ui", lifespan=running, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(_routes())
    app.add_middleware(PageGuard)
    for kind in (RequestError, RNXError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, _refused)
    return app


def _routes() -> APIRouter:
    routes = APIRouter()
    routes.add_api_route("/", _page("index.html"))
    routes.add_api_route("/page.css", _page("page.css"))
    routes.add_api_route("/page.js", _page("page.js"))
    routes.add_api_route("/report.css", _styles)
    routes.add_api_route("/api/index", _state)
    routes.add_api_route("/api/image", _image)
    routes.add_api_route("/api/ask", _ask, methods=["POST"], response_model=None)
    routes.add_api_route("/api/conversation", _conversation)
    routes.add_api_route("/api/conversation", _forget, methods=["DELETE"])
    routes.add_api_route("/api/files", _upload, methods=["PUT"])
    return routes


def _page(name: str) -> Callable[[], Response]:
    text = files("llama_index_rnx").joinpath("ui", "static", name).read_text(encoding="utf-8")
    return lambda: Response(text, media_type=PAGE[name])


def _styles() -> Response:
    return Response(style_sheet(), media_type="text/css")


def _state(request: Request) -> JSONResponse:
    return JSONResponse(_desk(request).state())


async def _image(request: Request, id: str, side: int = SIDES[0]) -> Response:
    if side not in SIDES:
        raise RequestError(422, f"side got {side}; allowed are {SIDES[0]} and {SIDES[1]}.")
    desk = _desk(request)
    async with desk.drawing:
        jpeg = await asyncio.to_thread(desk.picture, id, side)
    return Response(
        jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"}
    )


async def _ask(request: Request) -> StreamingResponse:
    desk = _desk(request)
    if desk.threads.waiting >= desk.limits.waiting:
        raise RequestError(
            503, f"{desk.threads.waiting} questions are waiting already; try again in a moment."
        )
    question = await _question(request, desk.limits.question)
    conversation = desk.conversations.of(_key(request))
    events = desk.threads.stream(lambda: conversation.ask(question), desk.limits.silence)
    return StreamingResponse(_json_lines(events), media_type="application/x-ndjson")


def _conversation(request: Request) -> JSONResponse:
    return JSONResponse(_desk(request).conversations.of(_key(request)).turns())


def _forget(request: Request) -> JSONResponse:
    _desk(request).conversations.forget(_key(request))
    return JSONResponse({})


async def _upload(request: Request) -> JSONResponse:
    desk, length = _desk(request), request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > desk.documents.max_bytes:
        raise RequestError(
            413,
            f"the file has more than {desk.documents.max_bytes >> 20} MiB; choose a smaller one.",
        )
    if desk.uploads >= desk.limits.uploads:
        raise RequestError(
            503, f"{desk.uploads} files are on their way already; try again in a moment."
        )
    desk.uploads += 1
    try:
        with desk.documents.receive(unquote(request.headers.get("x-file-name", ""))) as upload:
            async for data in _arriving(request, desk.limits.pause):
                await asyncio.to_thread(upload.write, data)
            entry, again = await asyncio.to_thread(upload.finish)
    finally:
        desk.uploads -= 1
    return JSONResponse(
        {"file": entry.to_dict(), "again": again}, status_code=200 if again else 202
    )


async def _arriving(request: Request, pause: float) -> AsyncIterator[bytes]:
    stream = aiter(request.stream())
    try:
        while data := await asyncio.wait_for(anext(stream, b""), pause):
            yield data
    except TimeoutError as error:
        raise RequestError(
            408, f"nothing arrived for {pause:g} seconds; send the file again."
        ) from error


async def _question(request: Request, limit: int) -> str:
    body = bytearray()
    async for data in request.stream():
        body += data
        if len(body) > limit:
            raise RequestError(
                413, f"the question has more than {limit:,} bytes; ask a shorter one."
            )
    try:
        found = json.loads(body)["question"]
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(422, 'send the question as {"question": "..."}.') from error
    if not isinstance(found, str) or not found.strip():
        raise RequestError(422, "the question is empty; ask something.")
    return found


async def _json_lines(events: AsyncIterator[EventDict]) -> AsyncIterator[bytes]:
    async for event in events:
        yield json.dumps(event).encode() + b"\n"


def _key(request: Request) -> str:
    """Which conversation: the page makes the key itself, one for each tab, and a foreign page
    cannot send this header.
    """
    key = request.headers.get("x-conversation", "")
    if not _KEY.fullmatch(key):
        raise RequestError(
            422, "X-Conversation needs a key of 16 to 64 letters, digits and hyphens."
        )
    return key


def _desk(request: Request) -> AppState:
    found: AppState = request.app.state.desk
    return found


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        error = RequestError(error.status_code, str(error.detail), error.headers)
    elif isinstance(error, ClientDisconnect):
        error = RequestError(499, "the caller is gone.")
    elif isinstance(error, RNXError):
        error = RequestError(422, str(error))
    assert isinstance(error, RequestError)
    return error.response()
