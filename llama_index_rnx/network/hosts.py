"""Tells the names of this machine from others, against DNS rebinding. It opens no connection.

A web site can let its own name resolve to 127.0.0.1 and then speak to a server that listens there.
Its requests still carry that name as their Host, so a server without a key answers to names of this
machine alone.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(name: str) -> bool:
    """Return whether a host's name or address is this machine's own.

    Example:
        >>> names = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "evil.example")
        >>> [is_loopback(name) for name in names]
        [True, True, True, False, False]
    """
    name = name.lower().removesuffix(".")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def names_this_machine(host_header: str) -> bool:
    """Return whether a Host header, with or without a port, names this machine.

    Example:
        >>> headers = ("localhost:8787", "[::1]:8787", "evil.example", "")
        >>> [names_this_machine(header) for header in headers]
        [True, True, False, False]
    """
    try:
        # With a user name in front (localhost@evil.example) it is no Host header at all.
        name = None if "@" in host_header else urlsplit(f"//{host_header}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def is_same_origin(origin: str, host_header: str) -> bool:
    """Return whether a page of this origin was loaded from the host that it now speaks to."""
    try:
        return urlsplit(origin).netloc.lower() == host_header.lower()
    except ValueError:
        return False
