"""Reports of a write: how many nodes were written, and which were left out. It knows no nodes."""

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
    """The result of `NodeCollection.write`.

    Attributes:
        written: how many nodes were new or changed, and are in the index now.
        skipped: the nodes that were left out.
    """

    written: int
    skipped: Sequence[Skipped]
