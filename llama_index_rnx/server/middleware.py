"""In front of everything: no key no entry, no foreign page, and no more bytes than allowed are kept
in memory.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index_rnx.network import is_loopback, is_same_origin, names_this_machine
from llama_index_rnx.server.limits import Limits, Receive, RequestError, Scope, Send, stopping
from llama_index_rnx.server.request_body import Budget, Inflater, too_large

OPEN_PATH = "/health"  # answers without a key: a load balancer has none
KEY_HEADERS = ("api-key", "x-api-key")
LONGEST_NUMBER = 15  # digits of a length


class RequestGuard:
    """An ASGI application around another; it refuses with one line of JSON.

    Args:
        api_key: what every caller must send, or None.
        loopback_only: what comes in at an address of this machine must name this machine as its
            host, and be sent by no page of another origin.
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
        self._app, self._limits, self._key = app, limits, api_key
        self._loopback_only, self._origins = loopback_only, frozenset(origins)
        self._budget = Budget(max(limits.bodies, limits.body))
        self._receiving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        # A slash too many, at the end or between, means the same: it comes from joining a base URL
        # and a path. There is no redirect, as that would lead to whatever host the request names.
        scope = {**scope, "path": "/" + "/".join(filter(None, scope["path"].split("/")))}
        body = _Body(self._budget)
        try:
            await self._enter(scope, receive, body)
        except RequestError as refused:
            await refused.response()(scope, receive, send)
        else:
            data = body.whole()
            scope["headers"] = _plain_json_headers(scope, len(data))
            await self._app(scope, _replay(data, receive), send)
        finally:
            body.release()

    async def _enter(self, scope: Scope, receive: Receive, body: _Body) -> None:
        """Read the body of a request that may come in. Raises Refused for any other."""
        headers = _decoded(scope)
        if self._loopback_only and _came_in_at_loopback(scope):
            self._check_host(headers)
        self._check_key(scope["path"], headers)
        self._check_length(headers.get("content-length", "0"))
        inflater = Inflater(headers.get("content-encoding", "").strip().lower(), self._limits.body)

        # Before the body is read: who is turned away under load should cost next to nothing.
        if scope["method"] == "POST":
            scope["app"].state.service.refuse_when_full(self._receiving)

        self._receiving += 1
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._read(receive, inflater, body)
        except TimeoutError as error:
            raise RequestError(408, "the request did not arrive in time.") from error
        except asyncio.CancelledError as error:
            raise stopping() from error
        finally:
            self._receiving -= 1

    def _check_host(self, headers: Mapping[str, str]) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not names_this_machine(host):
            message = "this server answers to 127.0.0.1 and localhost only, unless it has a key."
            raise RequestError(403, message)
        if origin is None or self._origins & {origin, "*"} or is_same_origin(origin, host):
            return
        raise RequestError(403, "no page of another origin may ask; see --cors-origin.")

    def _check_key(self, path: str, headers: Mapping[str, str]) -> None:
        if self._key is None or path == OPEN_PATH:
            return
        wanted = self._key.encode()
        sent = [key.encode("latin-1") for key in _keys(headers)]
        # The time of a comparison tells nothing of the key.
        if not any(hmac.compare_digest(key, wanted) for key in sent):
            message = "wrong or no API key; send it as: Authorization: Bearer KEY"
            raise RequestError(401, message, {"WWW-Authenticate": "Bearer"})

    def _check_length(self, length: str) -> None:
        fits = length.isdecimal() and len(length) <= LONGEST_NUMBER
        if not fits or int(length) > self._limits.body:
            raise too_large(self._limits.body)

    async def _read(self, receive: Receive, inflater: Inflater, body: _Body) -> None:
        more = True
        while more:
            async with asyncio.timeout(self._limits.idle):
                message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestError(499, "the caller is gone.")
            body.add(inflater.feed(message.get("body", b"")))
            more = message.get("more_body", False)
        inflater.finish()


class _Body:
    """The bytes of one request, counted in the budget of all until the request is answered."""

    def __init__(self, budget: Budget) -> None:
        self._data, self._size, self._budget = bytearray(), 0, budget

    def add(self, data: bytes) -> None:
        self._budget.take(len(data))
        self._size += len(data)
        self._data += data

    def whole(self) -> bytes:
        data, self._data = bytes(self._data), bytearray()
        return data

    def release(self) -> None:
        self._budget.give_back(self._size)


def _decoded(scope: Scope) -> dict[str, str]:
    """The headers by name, in lower case."""
    pairs = scope["headers"]
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}


def _came_in_at_loopback(scope: Scope) -> bool:
    """A browser that was led here by a foreign name has no other way in."""
    address = (scope.get("server") or ("",))[0]
    return is_loopback(address)


def _keys(headers: Mapping[str, str]) -> list[str]:
    """What may be meant as the key: behind any scheme, alone, or in a header of its own."""
    sent = headers.get("authorization", "").strip()
    behind_scheme = sent.split(None, 1)[-1:]
    own = [headers[name].strip() for name in KEY_HEADERS if name in headers]
    return [sent, *behind_scheme, *own]


def _plain_json_headers(scope: Scope, length: int) -> list[tuple[bytes, bytes]]:
    """The headers without those that spoke of the body as it was sent."""
    replaced = {b"content-type", b"content-length", b"content-encoding"}
    others = [(name, value) for name, value in scope["headers"] if name.lower() not in replaced]
    return [
        *others,
        (b"content-type", b"application/json"),
        (b"content-length", str(length).encode()),
    ]


def _replay(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, then whatever else arrives (the caller's leaving)."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return messages.pop() if messages else await receive()

    return again
