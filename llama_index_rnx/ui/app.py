"""The HTTP of `rnx ui`: a page, questions answered as streams of JSON lines, images by node id,
uploads.

It knows neither models nor threads: conversations are in conversations.py, files in library.py, and
middleware.py decides who may speak to it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from llama_index_rnx.candidates import image_of
from llama_index_rnx.chat import RNXChatEngine
from llama_index_rnx.collection import NodeCollection
from llama_index_rnx.results import style_sheet, thumbnail
from llama_index_rnx.server import MAPPED_ERRORS, RequestError, request_error
from llama_index_rnx.ui.conversations import AnswerThreads, Conversations, EventDict
from llama_index_rnx.ui.library import Library
from llama_index_rnx.ui.limits import PageLimits
from llama_index_rnx.ui.middleware import PageGuard

MEDIA_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
SIDES = (300, 1_600)  # pixels of an image's longer side: on a card, and enlarged
DRAWN_AT_ONCE = 2  # images
FILES_SHOWN = 200
MISTAKE_STATUS = 422  # of a question or a file that its sender can mend

_CONVERSATION_KEY = re.compile(r"[0-9a-zA-Z-]{16,64}")


class AppState:
    """The state that all visitors share: the index, its files, the conversations, the limits."""

    def __init__(
        self,
        collection: NodeCollection,
        library: Library,
        new_engine: Callable[[], RNXChatEngine],
        limits: PageLimits,
    ) -> None:
        self.collection = collection
        self.library = library
        self.limits = limits
        self.conversations = Conversations(new_engine)
        self.threads = AnswerThreads()
        self.drawing = asyncio.Semaphore(DRAWN_AT_ONCE)
        self.uploads = 0

        engine = new_engine()
        self.writer = None if engine.quotes else engine.writer

    def describe_index(self) -> dict[str, Any]:
        """Return what the page shows of the index, as JSON."""
        entries = self.library.entries()
        return {
            "nodes": len(self.library),
            "files": [entry.to_dict() for entry in entries[-FILES_SHOWN:]],
            "more": self.library.unlisted + max(0, len(entries) - FILES_SHOWN),
            "writer": self.writer,
            "max_bytes": self.library.max_bytes,
        }

    def draw_image(self, node_id: str, side: int) -> bytes:
        """Return the image of a node of the index, and of nothing else, as a JPEG of at most `side`
        pixels.

        Raises:
            RequestError: there is no such node, or it has no image (404).
            ImageError: the image cannot be read.
        """
        for node in self.collection.get([node_id]):
            image = image_of(node)
            if image is not None:
                return thumbnail(image, side)
        raise RequestError(404, "the index has no image of that name.")


def create_page(
    collection: NodeCollection,
    library: Library,
    new_engine: Callable[[], RNXChatEngine],
    limits: PageLimits = PageLimits(),
) -> FastAPI:
    """Return the application.

    Args:
        new_engine: starts a conversation, see `llama_index_rnx.chat.conversations`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.page = AppState(collection, library, new_engine, limits)
        yield
        app.state.page.threads.close()

    app = FastAPI(
        title="rnx ui", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.include_router(_create_router())
    app.add_middleware(PageGuard)
    for kind in MAPPED_ERRORS:
        app.add_exception_handler(kind, _answer_error)
    return app


def _create_router() -> APIRouter:
    router = APIRouter()
    router.add_api_route("/", _static_file("index.html"))
    router.add_api_route("/page.css", _static_file("page.css"))
    router.add_api_route("/page.js", _static_file("page.js"))
    router.add_api_route("/report.css", _style_sheet)
    router.add_api_route("/api/index", _index)
    router.add_api_route("/api/image", _image)
    router.add_api_route("/api/ask", _ask, methods=["POST"], response_model=None)
    router.add_api_route("/api/conversation", _conversation)
    router.add_api_route("/api/conversation", _forget, methods=["DELETE"])
    router.add_api_route("/api/files", _upload, methods=["PUT"])
    return router


def _static_file(name: str) -> Callable[[], Response]:
    text = files("llama_index_rnx").joinpath("ui", "static", name).read_text(encoding="utf-8")
    return lambda: Response(text, media_type=MEDIA_TYPES[name])


def _style_sheet() -> Response:
    return Response(style_sheet(), media_type="text/css")


def _index(request: Request) -> JSONResponse:
    return JSONResponse(_state_of(request).describe_index())


async def _image(request: Request, id: str, side: int = SIDES[0]) -> Response:
    if side not in SIDES:
        raise RequestError(422, f"side got {side}; allowed are {SIDES[0]} and {SIDES[1]}.")

    state = _state_of(request)
    async with state.drawing:
        jpeg = await asyncio.to_thread(state.draw_image, id, side)
    return Response(
        jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"}
    )


async def _ask(request: Request) -> StreamingResponse:
    state = _state_of(request)
    if state.threads.waiting >= state.limits.waiting:
        raise RequestError(
            503, f"{state.threads.waiting} questions are waiting already; try again in a moment."
        )

    question = await _read_question(request, state.limits.question)
    conversation = state.conversations.open(_conversation_key(request))
    events = state.threads.stream(lambda: conversation.ask(question), state.limits.silence)
    return StreamingResponse(_json_lines(events), media_type="application/x-ndjson")


def _conversation(request: Request) -> JSONResponse:
    conversation = _state_of(request).conversations.open(_conversation_key(request))
    return JSONResponse(conversation.turns())


def _forget(request: Request) -> JSONResponse:
    _state_of(request).conversations.forget(_conversation_key(request))
    return JSONResponse({})


async def _upload(request: Request) -> JSONResponse:
    state = _state_of(request)
    _check_length(request, state.library.max_bytes)
    if state.uploads >= state.limits.uploads:
        raise RequestError(
            503, f"{state.uploads} files are on their way already; try again in a moment."
        )

    name = unquote(request.headers.get("x-file-name", ""))
    state.uploads += 1
    try:
        with state.library.receive(name) as upload:
            async for data in _read_chunks(request, state.limits.pause):
                await asyncio.to_thread(upload.write, data)
            entry, is_known = await asyncio.to_thread(upload.finish)
    finally:
        state.uploads -= 1
    return JSONResponse(
        {"file": entry.to_dict(), "again": is_known}, status_code=200 if is_known else 202
    )


def _check_length(request: Request, max_bytes: int) -> None:
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > max_bytes:
        raise RequestError(
            413, f"the file has more than {max_bytes >> 20} MiB; choose a smaller one."
        )


async def _read_chunks(request: Request, pause: float) -> AsyncIterator[bytes]:
    stream = aiter(request.stream())
    try:
        while data := await asyncio.wait_for(anext(stream, b""), pause):
            yield data
    except TimeoutError as error:
        raise RequestError(
            408, f"nothing arrived for {pause:g} seconds; send the file again."
        ) from error


async def _read_question(request: Request, limit: int) -> str:
    body = bytearray()
    async for data in request.stream():
        body += data
        if len(body) > limit:
            raise RequestError(
                413, f"the question has more than {limit:,} bytes; ask a shorter one."
            )

    try:
        question = json.loads(body)["question"]
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(422, 'send the question as {"question": "..."}.') from error
    if not isinstance(question, str) or not question.strip():
        raise RequestError(422, "the question is empty; ask something.")
    return question


async def _json_lines(events: AsyncIterator[EventDict]) -> AsyncIterator[bytes]:
    async for event in events:
        yield json.dumps(event).encode() + b"\n"


def _conversation_key(request: Request) -> str:
    """Return the key of the visitor's conversation. The page makes it, one for each tab; a foreign
    page cannot send this header.
    """
    key = request.headers.get("x-conversation", "")
    if not _CONVERSATION_KEY.fullmatch(key):
        raise RequestError(
            422, "X-Conversation needs a key of 16 to 64 letters, digits and hyphens."
        )
    return key


def _state_of(request: Request) -> AppState:
    state: AppState = request.app.state.page
    return state


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    return request_error(error, mistake_status=MISTAKE_STATUS).response()
