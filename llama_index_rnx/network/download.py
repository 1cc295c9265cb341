"""Fetches a picture from a URL without being led into somebody's own network. It knows no nodes and
opens no pictures.

Whoever writes a URL into a document chooses what this machine connects to. So every address that
the host's name stands for must be a public one, the connection goes to that very address (a name
may resolve differently a moment later), every redirect is looked at in the same way, and no more
than `MAX_BYTES` are read. Proxies of the environment are not used: they would resolve the name once
more.
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

# Who may not be fetched from, and why. IANA's registries of special addresses, and what clouds
# answer on to their own machines. The three widest rows leave of IPv6 what is given out, 2000::/3.
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
    """Why a URL was not fetched, in one line."""


def fetch(url: str, *, transport: httpx.BaseTransport | None = None) -> bytes:
    """The bytes behind a URL of a public host.

    Raises:
        FetchError: no http(s), a private address, more than 3 redirects, 32 MiB or 30 seconds, or
            an answer that is no success.
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
        found = [
            str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        ]
    except (OSError, UnicodeError) as error:
        raise FetchError(f"the host {host!r} is not known") from error
    for address in found:
        reason = special(address)
        if reason is not None:
            raise FetchError(f"{host!r} is at {address}, which is no public address ({reason})")
    return found[0]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet.

    Example:
        >>> is_public("8.8.8.8"), is_public("10.0.0.1"), is_public("::ffff:127.0.0.1"), is_public("169.254.169.254")
        (True, False, False, False)
    """
    return special(address) is None


def special(address: str) -> str | None:
    """What an IP address is for, if it is none of the open internet.

    Example:
        >>> special("fec0::1")
        'private (fc00::/7, fec0::/10), the same wire (fe80::/10), multicast (ff00::/8)'
    """
    parsed = ipaddress.ip_address(address.split("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)  # ::ffff:a.b.c.d is how a socket shows IPv4
    judged = parsed if mapped is None else mapped
    return next((reason for network, reason in _NETWORKS if judged in network), None)


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
    return client.build_request(
        "GET", direct, headers={"Host": host}, extensions={"sni_hostname": parts.hostname}
    )


def _body(answer: httpx.Response) -> bytes:
    answer.raise_for_status()
    found, end = bytearray(), time.monotonic() + SECONDS
    for part in answer.iter_bytes():
        found += part
        if (
            time.monotonic() > end
        ):  # the client's own limit is between two bytes, not for all of them
            raise FetchError(f"not there within {SECONDS:.0f} seconds")
        if len(found) > MAX_BYTES:
            raise FetchError(f"more than {MAX_BYTES >> 20} MiB")
    return bytes(found)
