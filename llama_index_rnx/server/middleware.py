"""The guard in front of `rnx serve`: no caller without the key, no page of another origin, and no
more bytes in memory than allowed. It knows no ranking.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index_rnx.network import is_loopback, is_same_origin, names_this_machine
from llama_index_rnx.server.asgi import Receive, Scope, Send, decode_headers
from llama_index_rnx.server.errors import RequestError, caller_gone, server_stopping
from llama_index_rnx.server.limits import Limits
from llama_index_rnx.server.request_body import Budget, Inflater, too_large

OPEN_PATH = "/health"  # A load balancer has no key.
KEY_HEADERS = ("api-key", "x-api-key")
MAX_LENGTH_DIGITS = 15
REPLACED_HEADERS = frozenset({b"content-type", b"content-length", b"content-encoding"})


class RequestGuard:
    """An ASGI application around another one; it refuses with one line of JSON.

    Args:
        api_key: the key that every caller must send, or None.
        loopback_only: a request that comes in at an address of this machine must name this machine
            as its host, and no page of another origin may send it.
        origins: pages of these origins may speak to a server that is `loopback_only`, too.
    """

    def __init__(
        self,
        app: Any,
        limits: Limits,
        api_key: str | None,
        loopback_only: bool = False,
        origins: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._limits = limits
        self._key = api_key
        self._loopback_only = loopback_only
        self._origins = frozenset(origins)
        self._budget = Budget(max(limits.bodies, limits.body))
        self._receiving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        # Ignore a slash too many, at the end or in between: it comes from joining a base URL and a
        # path. There is no redirect, as that would lead to whatever host the request names.
        scope = {**scope, "path": "/" + "/".join(filter(None, scope["path"].split("/")))}

        body = _Body(self._budget)
        try:
            await self._receive_body(scope, receive, body)
        except RequestError as refusal:
            await refusal.response()(scope, receive, send)
        else:
            data = body.take_bytes()
            scope["headers"] = _plain_json_headers(scope, len(data))
            await self._app(scope, _replay(data, receive), send)
        finally:
            body.release()

    async def _receive_body(self, scope: Scope, receive: Receive, body: _Body) -> None:
        """Read the body of an allowed request.

        Raises:
            RequestError: the request is not allowed, or it did not arrive in time (408).
        """
        headers = decode_headers(scope)
        if self._loopback_only and _came_in_at_loopback(scope):
            self._check_host(headers)
        self._check_key(scope["path"], headers)
        self._check_length(headers.get("content-length", "0"))
        encoding = headers.get("content-encoding", "").strip().lower()
        inflater = Inflater(encoding, self._limits.body)

        # Refuse before the body is read: under load a refusal should cost next to nothing.
        if scope["method"] == "POST":
            scope["app"].state.service.refuse_when_full(self._receiving)

        self._receiving += 1
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._read(receive, inflater, body)
        except TimeoutError as error:
            raise RequestError(408, "the request did not arrive in time.") from error
        except asyncio.CancelledError as error:
            raise server_stopping() from error
        finally:
            self._receiving -= 1

    def _check_host(self, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        if not names_this_machine(host):
            message = "this server answers to 127.0.0.1 and localhost only, unless it has a key."
            raise RequestError(403, message)

        origin = headers.get("origin")
        if origin is None or self._origins & {origin, "*"} or is_same_origin(origin, host):
            return
        raise RequestError(403, "no page of another origin may ask; see --cors-origin.")

    def _check_key(self, path: str, headers: Mapping[str, str]) -> None:
        if self._key is None or path == OPEN_PATH:
            return

        # The time of this comparison tells nothing of the key.
        key = self._key.encode()
        candidates = [candidate.encode("latin-1") for candidate in _possible_keys(headers)]
        if not any(hmac.compare_digest(candidate, key) for candidate in candidates):
            message = "wrong or no API key; send it as: Authorization: Bearer KEY"
            raise RequestError(401, message, {"WWW-Authenticate": "Bearer"})

    def _check_length(self, length: str) -> None:
        is_number = length.isdecimal() and len(length) <= MAX_LENGTH_DIGITS
        if not is_number or int(length) > self._limits.body:
            raise too_large(self._limits.body)

    async def _read(self, receive: Receive, inflater: Inflater, body: _Body) -> None:
        has_more = True
        while has_more:
            async with asyncio.timeout(self._limits.idle):
                message = await receive()
            if message["type"] == "http.disconnect":
                raise caller_gone()
            body.add(inflater.feed(message.get("body", b"")))
            has_more = message.get("more_body", False)
        inflater.finish()


class _Body:
    """The bytes of one request, counted in the budget of all requests until it is answered."""

    def __init__(self, budget: Budget) -> None:
        self._data = bytearray()
        self._size = 0
        self._budget = budget

    def add(self, data: bytes) -> None:
        self._budget.take(len(data))
        self._size += len(data)
        self._data += data

    def take_bytes(self) -> bytes:
        """Return the bytes and keep no copy; they count until `release`."""
        data = bytes(self._data)
        self._data = bytearray()
        return data

    def release(self) -> None:
        self._budget.release(self._size)


def _came_in_at_loopback(scope: Scope) -> bool:
    """Whether a request came in at loopback: a browser that a foreign name led to this machine has
    no other way in.
    """
    address = (scope.get("server") or ("",))[0]
    return is_loopback(address)


def _possible_keys(headers: Mapping[str, str]) -> list[str]:
    """Return all that may be meant as the key: behind any scheme, alone, or in its own header."""
    authorization = headers.get("authorization", "").strip()
    behind_scheme = authorization.split(None, 1)[-1:]
    in_key_headers = [headers[name].strip() for name in KEY_HEADERS if name in headers]
    return [authorization, *behind_scheme, *in_key_headers]


def _plain_json_headers(scope: Scope, length: int) -> list[tuple[bytes, bytes]]:
    """Return the headers for a body that is plain JSON now, however it was sent."""
    unchanged = [
        (name, value) for name, value in scope["headers"] if name.lower() not in REPLACED_HEADERS
    ]
    return [
        *unchanged,
        (b"content-type", b"application/json"),
        (b"content-length", str(length).encode()),
    ]


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields this body first, then whatever else arrives."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Any:
        return messages.pop() if messages else await receive()

    return replayed
