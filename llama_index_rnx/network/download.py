"""Downloads a file from a URL, but never from a private network. It knows no nodes and opens no
images.

Whoever writes a URL into a document chooses what this machine connects to. So every address of the
host must be public, the connection goes to that very address (a name may resolve differently a
moment later), every redirect is checked in the same way, and at most `MAX_BYTES` are read. Proxies
of the environment are not used: they would resolve the name once more.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from contextlib import closing
from urllib.parse import urljoin, urlsplit

import httpx

from llama_index_rnx.errors import one_line

MAX_BYTES = 32 * 2**20
MAX_REDIRECTS = 3
SECONDS = 30.0

# Networks from which nothing is fetched, and why: IANA's registries of special addresses, and the
# addresses on which clouds answer their own machines. The three widest rows leave of IPv6 what is
# assigned, 2000::/3.
_SPECIAL = {
    "0.0.0.0/8": "this machine",
    "10.0.0.0/8": "a private network",
    "100.64.0.0/10": "a provider's own network; 100.100.100.200 is Alibaba's metadata",
    "127.0.0.0/8": "this machine",
    "161.26.0.0/16": "IBM Cloud's own services",
    "166.8.0.0/14": "IBM Cloud's own services",
    "168.63.129.16/32": "Azure's own services",
    "169.254.0.0/16": "the same wire; 169.254.169.254 is a cloud's metadata",
    "172.16.0.0/12": "a private network",
    "192.0.0.0/24": "protocols; 192.0.0.192 is Oracle's metadata",
    "192.0.2.0/24": "documentation",
    "192.31.196.0/24": "the nearest name server for private addresses",
    "192.52.193.0/24": "the nearest relay for multicast",
    "192.88.99.0/24": "the nearest relay for 6to4",
    "192.168.0.0/16": "a private network",
    "192.175.48.0/24": "the nearest name server for private addresses",
    "198.18.0.0/15": "measurements between networks",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "never given out; 255.255.255.255 is everybody on the wire",
    "::/3": "this machine, IPv4 inside IPv6 (::a.b.c.d, NAT64), nothing that is given out",
    "4000::/2": "routing inside a network (5f00::/16), nothing that is given out",
    "8000::/1": "private (fc00::/7, fec0::/10), the same wire (fe80::/10), multicast (ff00::/8)",
    "2001::/23": "protocols; Teredo (2001::/32) carries any IPv4 address",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4 carries any IPv4 address",
    "2620:4f:8000::/48": "the nearest name server for private addresses",
    "3ffe::/16": "a test network that was given back",
    "3fff::/20": "documentation",
}
_NETWORKS = [(ipaddress.ip_network(network), reason) for network, reason in _SPECIAL.items()]


class FetchError(ValueError):
    """A URL was not fetched; the message says why, in one line."""


def fetch(url: str, *, transport: httpx.BaseTransport | None = None) -> bytes:
    """Return the bytes behind a URL of a public host.

    Raises:
        FetchError: no http(s), a private address, more than 3 redirects, 32 MiB or 30 seconds, or
            an answer that is no success.
    """
    with httpx.Client(timeout=SECONDS, trust_env=False, transport=transport) as client:
        for _ in range(MAX_REDIRECTS + 1):
            try:
                with closing(client.send(_build_request(client, url), stream=True)) as response:
                    if not response.has_redirect_location:
                        return _read_body(response)
                    url = urljoin(url, response.headers["location"])
            except httpx.HTTPError as error:
                raise FetchError(one_line(error)) from error
    raise FetchError(f"more than {MAX_REDIRECTS} redirects")


def public_address(host: str, port: int) -> str:
    """Return the address to connect to. All addresses of the host must be public, not the first
    alone.

    Raises:
        FetchError: the name is unknown, or one of its addresses is not public.
    """
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError(f"the host {host!r} is not known") from error

    addresses = [str(entry[4][0]) for entry in entries]
    for address in addresses:
        reason = special(address)
        if reason is not None:
            raise FetchError(f"{host!r} is at {address}, which is no public address ({reason})")
    return addresses[0]


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the open internet.

    Example:
        >>> addresses = ("8.8.8.8", "10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254")
        >>> [is_public(address) for address in addresses]
        [True, False, False, False]
    """
    return special(address) is None


def special(address: str) -> str | None:
    """Return what an IP address is for, or None for one of the open internet.

    Example:
        >>> special("fec0::1")
        'private (fc00::/7, fec0::/10), the same wire (fe80::/10), multicast (ff00::/8)'
    """
    parsed = ipaddress.ip_address(address.split("%")[0])

    # A socket shows IPv4 as ::ffff:a.b.c.d.
    mapped = getattr(parsed, "ipv4_mapped", None)
    effective = parsed if mapped is None else mapped
    return next((reason for network, reason in _NETWORKS if effective in network), None)


def _build_request(client: httpx.Client, url: str) -> httpx.Request:
    """Build a request by address: the name stands in the Host header and in the TLS handshake
    alone.
    """
    try:
        target = urlsplit(url)
        port = target.port or (443 if target.scheme == "https" else 80)
    except ValueError as error:
        raise FetchError("it is no valid URL") from error
    if target.scheme not in ("http", "https") or not target.hostname:
        raise FetchError("only http and https with a host are fetched")

    address = public_address(target.hostname, port)
    netloc = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    direct = target._replace(netloc=netloc, fragment="").geturl()

    # A name and password in the URL are not sent.
    host = target.netloc.rpartition("@")[2]
    return client.build_request(
        "GET", direct, headers={"Host": host}, extensions={"sni_hostname": target.hostname}
    )


def _read_body(response: httpx.Response) -> bytes:
    response.raise_for_status()
    body = bytearray()

    # The client's own limit is between two bytes, not for all of them.
    deadline = time.monotonic() + SECONDS
    for chunk in response.iter_bytes():
        body += chunk
        if time.monotonic() > deadline:
            raise FetchError(f"not there within {SECONDS:.0f} seconds")
        if len(body) > MAX_BYTES:
            raise FetchError(f"more than {MAX_BYTES >> 20} MiB")
    return bytes(body)
