"""The protocol of memory backends: bytes by key, kept for good. It knows no memories, no tensors.

A backend may be used by several threads and several processes at once, checks what it reads, and
never stops the work: what it cannot read counts as missing, and what it cannot write is left out,
with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class MemoryBackend(Protocol):
    """Bytes by key. The bytes of a key never change."""

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that are stored and undamaged; nothing after `close`."""
        ...

    def missing_keys(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the keys that are not known to be stored; none while nothing can be written."""
        ...

    def write(self, values: Mapping[bytes, bytes]) -> None:
        """Store these values. If that fails, warn and go on."""
        ...

    def close(self) -> None:
        """Release files and connections. Nothing is read or written from then on."""
        ...
