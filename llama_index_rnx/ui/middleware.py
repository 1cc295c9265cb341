"""The guard in front of a page on this machine: only its own page may speak to it, and nothing that
it shows can run. It knows no route.

A web site that the user visits can send requests to 127.0.0.1, under a name of its own that
resolves to it (DNS rebinding), or from its pages (CSRF). So the Host must be this machine, and a
request that names an Origin must name this very page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index_rnx.network import is_same_origin, names_this_machine
from llama_index_rnx.server import ASGIMessage, Receive, RequestError, Scope, Send, decode_headers

# "same-site" is another port of this machine.
FROM_ELSEWHERE = frozenset({"cross-site", "same-site"})
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PageGuard:
    """An ASGI application around another one; it refuses with one line of JSON."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_sealed(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                message["headers"] = [*_missing_headers(headers), *headers]
            await send(message)

        refusal = _check(scope) if scope["type"] == "http" else None
        if refusal is not None:
            await refusal.response()(scope, receive, send_sealed)
        else:
            await self._app(scope, receive, send_sealed)


def _check(scope: Scope) -> RequestError | None:
    """Return the refusal of a request, or None for a request of this page."""
    headers = decode_headers(scope)
    if not names_this_machine(headers.get("host", "")):
        return RequestError(403, "this page answers to 127.0.0.1 and localhost only.")

    # A link to the page itself may stand anywhere.
    opens_page = scope["path"] == "/" and scope["method"] == "GET"
    if not opens_page and _is_foreign(headers):
        return RequestError(403, "this page answers to itself only, and to no other site.")
    return None


def _is_foreign(headers: Mapping[str, str]) -> bool:
    origin = headers.get("origin")
    has_other_origin = origin is not None and not is_same_origin(origin, headers["host"])
    return has_other_origin or headers.get("sec-fetch-site") in FROM_ELSEWHERE


def _missing_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return those of `HEADERS` that a response does not have yet."""
    present = {name.lower() for name, _ in headers}
    additions = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    return [(name, value) for name, value in additions if name not in present]
