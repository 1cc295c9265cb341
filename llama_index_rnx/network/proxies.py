"""Decides which hosts are reached through the proxies of the environment. It knows httpx's rules
and opens no connection.

A proxy runs on another machine: at best it leads back to a service on this one. So services on
loopback are reached directly, whatever HTTP_PROXY, ALL_PROXY and NO_PROXY say, and all others as
the environment says.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from llama_index_rnx.errors import SettingsError, one_line


def is_loopback_url(url: str) -> bool:
    """Return whether a URL names this machine.

    Example:
        >>> urls = ("http://localhost:6333", "http://[::1]:80/rerank", "https://qdrant.example")
        >>> [is_loopback_url(url) for url in urls]
        [True, True, False]
    """
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def http_options(url: str) -> dict[str, Any]:
    """Return the arguments of an httpx client for a URL: for this machine without the environment,
    but with its certificates.
    """
    if not is_loopback_url(url):
        return {}

    certificates = {"verify": httpx.create_ssl_context()} if url.startswith("https") else {}
    return {"trust_env": False, **certificates}


@contextmanager
def usable_proxies(url: str) -> Iterator[None]:
    """Explain errors of the environment's proxies, which httpx reads when the block creates a
    client for a URL.

    Raises:
        SettingsError: the URL is none, or a proxy cannot be used.
    """
    try:
        yield
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        if is_loopback_url(url) or not getproxies():
            raise SettingsError(f"{url} is no address of a service ({_reason(error)}).") from error

        missing = "install httpx[socks], or " if isinstance(error, ImportError) else ""
        raise SettingsError(
            f"{url} cannot be reached through the proxies of the environment ({_reason(error)}); "
            f"{missing}mend HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY."
        ) from error


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return _short_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _short_address(host: str) -> ipaddress.IPv4Address | None:
    """Return the address of an older spelling of IPv4, as 127.1."""
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _reason(error: Exception) -> str:
    """Return the first sentence of an error, without its full stop."""
    return one_line(error).split(". ")[0].rstrip(".")
