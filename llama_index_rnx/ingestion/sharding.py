"""Shares files out among several workers: pure, the same on every machine, whatever else is in the
folder.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from llama_index_rnx.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Shard `index` (from 1) of `count`. Files are assigned by a hash of their name, so that adding
    a file never moves another.

    Raises:
        SettingsError: `index` is not between 1 and `count`.

    Example:
        >>> halves = Shard(index=1, count=2), Shard(index=2, count=2)
        >>> [sum(half.contains(name) for half in halves) for name in ("a.pdf", "b.pdf", "c.pdf")]
        [1, 1, 1]
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise SettingsError(
                f"share {self.index}/{self.count} was given; i/n with i from 1 to n is allowed."
            )

    def contains(self, name: str) -> bool:
        """Return whether the file of this name is in the shard."""
        return zlib.crc32(name.encode("utf-8", "surrogatepass")) % self.count == self.index - 1

    def subshard(self, index: int, count: int) -> Shard:
        """Return shard `index` (from 1) of `count` of this shard."""
        return Shard(index=self.index + self.count * (index - 1), count=self.count * count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def resolve_shard(share: str | None, environment: Mapping[str, str]) -> Shard:
    """Return the shard that a user wrote as "2/8", or that `accelerate launch` and `torchrun` gave
    this process (RANK, WORLD_SIZE).

    Raises:
        SettingsError: it is not of the form i/n with 1 <= i <= n.
    """
    if share is None:
        rank = environment.get("RANK", "")
        world_size = environment.get("WORLD_SIZE", "")
        if not (rank.isdecimal() and world_size.isdecimal()):
            return Shard()
        return Shard(index=int(rank) + 1, count=int(world_size))

    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", share.strip())
    if match is None:
        raise SettingsError(
            f"share {share!r} was given; i/n is allowed: 2/8 is the second of eight."
        )
    return Shard(index=int(match[1]), count=int(match[2]))


def device_of(device: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the device of this process: with "cuda" and several processes on a machine, each takes
    its own GPU (LOCAL_RANK).
    """
    local_rank = environment.get("LOCAL_RANK", "")
    return f"cuda:{local_rank}" if device == "cuda" and local_rank.isdecimal() else device
