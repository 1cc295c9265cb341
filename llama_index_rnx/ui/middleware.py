"""In front of a page on this machine: only its own page may speak to it, and nothing that it shows
can run.

A web site that the user visits can send requests to 127.0.0.1, under a name of its own that
resolves to it (DNS rebinding), or from its pages (CSRF). So the Host must be this machine, and
whoever names an Origin must name this very page.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from llama_index_rnx.network import is_same_origin, names_this_machine
from llama_index_rnx.server import Receive, RequestError, Scope, Send

FROM_ELSEWHERE = frozenset({"cross-site", "same-site"})  # same-site: another port of this machine
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PageGuard:
    """An ASGI application around another; it refuses with one line of JSON."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sealed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*_missing(message["headers"]), *message["headers"]]
            await send(message)

        if scope["type"] == "http" and (refused := _refusal(scope)) is not None:
            await refused.response()(scope, receive, sealed)
        else:
            await self._app(scope, receive, sealed)


def _refusal(scope: Scope) -> RequestError | None:
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }
    if not names_this_machine(headers.get("host", "")):
        return RequestError(403, "this page answers to 127.0.0.1 and localhost only.")
    if _is_foreign(headers) and (
        scope["path"] != "/" or scope["method"] != "GET"
    ):  # a link to the page may stand anywhere
        return RequestError(403, "this page answers to itself only, and to no other site.")
    return None


def _is_foreign(headers: Mapping[str, str]) -> bool:
    origin = headers.get("origin")
    elsewhere = origin is not None and not is_same_origin(origin, headers["host"])
    return elsewhere or headers.get("sec-fetch-site") in FROM_ELSEWHERE


def _missing(given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _ in given}
    return [
        (name.lower().encode(), value.encode())
        for name, value in HEADERS.items()
        if name.lower().encode() not in there
    ]
