"""Fetches a picture from a URL without being led into somebody's own network. It knows no nodes and opens no pictures.

Whoever writes a URL into a document chooses what this machine connects to. So every address that the host's name stands
for must be a public one, the connection goes to that very address (a name may resolve differently a moment later), every
redirect is looked at in the same way, and no more than `MAX_BYTES` are read. Proxies of the environment are not used: they
would resolve the name once more.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from contextlib import closing
from urllib.parse import urljoin, urlsplit

import httpx

MAX_BYTES = 32 * 2**20
MAX_REDIRECTS = 3
SECONDS = 30.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # carries any IPv4 address, private ones too


class FetchError(ValueError):
    """Why a URL was not fetched, in one line."""


def fetch(url: str, *, transport: httpx.BaseTransport | None = None) -> bytes:
    """The bytes behind a URL of a public host.

    Raises:
        FetchError: no http(s), a private address, more than 3 redirects, 32 MiB or 30 seconds, or an answer that is no success.
    """
    with httpx.Client(timeout=SECONDS, trust_env=False, transport=transport) as client:
        for _ in range(MAX_REDIRECTS + 1):
            try:
                with closing(client.send(_request(client, url), stream=True)) as answer:
                    if not answer.has_redirect_location:
                        return _body(answer)
                    url = urljoin(url, answer.headers["location"])
            except httpx.HTTPError as error:
                raise FetchError(" ".join(str(error).split()) or type(error).__name__) from error
    raise FetchError(f"more than {MAX_REDIRECTS} redirects")


def public_address(host: str, port: int) -> str:
    """The address to connect to. All that the name stands for must be public, not only the first.

    Raises:
        FetchError: the name is unknown, or one of its addresses is not public.
    """
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise FetchError(f"the host {host!r} is not known") from error
    for address in found:
        if not is_public(address):
            raise FetchError(f"{host!r} is at {address}, which is no public address")
    return found[0]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet.

    Example:
        >>> is_public("8.8.8.8"), is_public("10.0.0.1"), is_public("::ffff:127.0.0.1"), is_public("169.254.169.254")
        (True, False, False, False)
    """
    parsed = ipaddress.ip_address(address.split("%")[0])
    inside = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None)
    if inside is not None:
        parsed = inside
    return parsed.is_global and not parsed.is_multicast and not (parsed.version == 6 and parsed in _NAT64)


def _request(client: httpx.Client, url: str) -> httpx.Request:
    """The request by address: the name stands in the Host header and in the TLS handshake alone."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise FetchError("it is no valid URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError("only http and https with a host are fetched")
    address = public_address(parts.hostname, port)
    netloc = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    host = parts.netloc.rpartition("@")[2]  # a name and password in the URL are not sent
    direct = parts._replace(netloc=netloc, fragment="").geturl()
    return client.build_request("GET", direct, headers={"Host": host}, extensions={"sni_hostname": parts.hostname})


def _body(answer: httpx.Response) -> bytes:
    answer.raise_for_status()
    found, end = bytearray(), time.monotonic() + SECONDS
    for part in answer.iter_bytes():
        found += part
        if time.monotonic() > end:  # the client's own limit is between two bytes, not for all of them
            raise FetchError(f"not there within {SECONDS:.0f} seconds")
        if len(found) > MAX_BYTES:
            raise FetchError(f"more than {MAX_BYTES >> 20} MiB")
    return bytes(found)
