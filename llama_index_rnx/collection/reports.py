"""What became of nodes that were handed over: written, or left out and why. It knows no nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A node or a file that was left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """What `NodeCollection.write` did: how many nodes were written (unchanged ones are not), and
    which were left out.
    """

    written: int
    skipped: Sequence[Skipped]
