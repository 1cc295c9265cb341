"""The types of ASGI, and the headers of a request. It knows no framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

ASGIMessage = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]


def decode_headers(scope: Scope) -> dict[str, str]:
    """Return the headers of a request by name, in lower case.

    Example:
        >>> decode_headers({"headers": [(b"Host", b"localhost")]})
        {'host': 'localhost'}
    """
    pairs = scope["headers"]
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}
