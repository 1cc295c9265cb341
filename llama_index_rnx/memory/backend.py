"""Bytes by key, kept for good: in a sqlite file of a local folder, or one object each at an address
of fsspec.

It knows no memories and no tensors. Both kinds may be used by several processes at once, check what
they read, and never stop the work: what cannot be read counts as unknown, what cannot be written is
left out, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class MemoryBackend(Protocol):
    """Bytes by key; a key's bytes never change."""

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """What is there and whole."""
        ...

    def absent(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those that could be written now and are not known to be there."""
        ...

    def write(self, blobs: Mapping[bytes, bytes]) -> None: ...

    def close(self) -> None:
        """From here on nothing is read or written."""
        ...
