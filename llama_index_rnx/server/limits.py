"""What one server takes, and the answer to a request that it does not take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

RETRY_SOON = {"Retry-After": "1"}  # second

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes.

    body: bytes of a request, after it was inflated.
    bodies: bytes of all requests that are being received, wait or are at work.
    at_once: requests that are being received, wait or are at work.
    seconds: for receiving a request, and again for its ranking.
    idle: seconds within a request's body without a byte.
    text: characters of a document that are read; the rest is cut off.
    characters, pixels: of all texts and all pictures of a request, as they are read.
    """

    body: int = 64 * 2**20
    bodies: int = 512 * 2**20
    at_once: int = 32
    seconds: float = 60.0
    idle: float = 10.0
    text: int = 50_000
    characters: int = 8_000_000
    pixels: int = 1_000_000_000


class RequestError(Exception):
    """A request that gets a status and one line instead of a ranking."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers

    def response(self) -> JSONResponse:
        # Cohere's clients show `message`, those of Jina and FastAPI `detail`.
        body = {"message": self.message, "detail": self.message}
        return JSONResponse(body, status_code=self.status, headers=self.headers)


def stopping() -> RequestError:
    """The answer to a request that is cancelled, which uvicorn does when the server has to end."""
    return RequestError(503, "the server is stopping; try again in a moment.", RETRY_SOON)
