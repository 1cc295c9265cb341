"""Errors as HTTP answers: one status and one line each, for `rnx serve` and `rnx ui` alike. It
knows no route.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from llama_index_rnx.errors import ConnectionFailedError, RNXError, StorageError, one_line

RETRY_SOON = {"Retry-After": "1"}  # second
MAX_MESSAGE_CHARACTERS = 1_000


class RequestError(Exception):
    """A request that is answered with a status and one line of text instead of a result."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def response(self) -> JSONResponse:
        # Cohere's clients show `message`, those of Jina and FastAPI show `detail`.
        body = {"message": self.message, "detail": self.message}
        return JSONResponse(body, status_code=self.status, headers=self.headers)


# The errors that an application hands to `request_error`.
MAPPED_ERRORS = (RequestError, RNXError, HTTPException, ClientDisconnect)


def request_error(error: Exception, mistake_status: int = 400) -> RequestError:
    """Return the HTTP answer to an error, one of `MAPPED_ERRORS`.

    A storage or a service behind this server that fails is not the caller's mistake: it gets 503.

    Args:
        mistake_status: the status of every other `RNXError`, which the caller can mend.

    Example:
        >>> from llama_index_rnx.errors import ImageError, StorageError
        >>> request_error(ImageError("the image is empty.")).status
        400
        >>> request_error(StorageError("the disk is full.")).status
        503
    """
    if isinstance(error, RequestError):
        return error

    # FastAPI itself refuses unknown paths and methods.
    if isinstance(error, HTTPException):
        return RequestError(error.status_code, str(error.detail), error.headers)
    if isinstance(error, ClientDisconnect):
        return caller_gone()

    # A message may quote a long URL.
    message = one_line(error, MAX_MESSAGE_CHARACTERS)
    if isinstance(error, StorageError | ConnectionFailedError):
        return RequestError(503, message)
    return RequestError(mistake_status, message)


def caller_gone() -> RequestError:
    """Return the answer to a caller that hung up, which only the log and the metrics see."""
    return RequestError(499, "the caller is gone.")


def server_stopping() -> RequestError:
    """Return the answer to a request that uvicorn cancels because the server has to end."""
    return RequestError(503, "the server is stopping; try again in a moment.", RETRY_SOON)
