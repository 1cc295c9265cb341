"""Checksums of stored values: damaged bytes are recognised before they are used. It does no I/O."""

from __future__ import annotations

import zlib
from typing import Any

CHECKSUM_BYTES = 4


def checksum(key: bytes, data: bytes) -> int:
    """Return the CRC-32 of both: a damaged index could lead from one key to another's data."""
    return zlib.crc32(data, zlib.crc32(key))


def is_intact(key: Any, crc: Any, data: Any) -> bool:
    """Return whether a row that was read is whole: of the right types, and with its checksum."""
    return isinstance(key, bytes) and isinstance(data, bytes) and checksum(key, data) == crc


def add_checksum(key: bytes, data: bytes) -> bytes:
    """Return the data with its checksum in front, as one object holds it."""
    return checksum(key, data).to_bytes(CHECKSUM_BYTES, "big") + data


def strip_checksum(key: bytes, framed: bytes) -> bytes | None:
    """Return the data behind a checksum, or None if the checksum does not match.

    Example:
        >>> strip_checksum(b"key", add_checksum(b"key", b"data"))
        b'data'
        >>> strip_checksum(b"key", b"????data") is None
        True
    """
    crc = int.from_bytes(framed[:CHECKSUM_BYTES], "big")
    data = framed[CHECKSUM_BYTES:]
    return data if is_intact(key, crc, data) else None
