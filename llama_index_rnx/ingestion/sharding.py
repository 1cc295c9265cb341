"""Which of several workers takes which file: pure, the same on every machine, whatever else is in
the folder.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from llama_index_rnx.errors import RNXError


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Number `number` (from 1) of `of` shares. By the name of a file, so that a file that is added
    moves no other.

    Example:
        >>> halves = Share(number=1, of=2), Share(number=2, of=2)
        >>> [sum(half.takes(name) for half in halves) for name in ("a.pdf", "b.pdf", "c.pdf")]
        [1, 1, 1]
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise RNXError(
                f"share {self.number}/{self.of} was given; i/n with i from 1 to n is allowed."
            )

    def takes(self, name: str) -> bool:
        """Whether the file of this name is in the share."""
        return zlib.crc32(name.encode("utf-8", "surrogatepass")) % self.of == self.number - 1

    def part(self, number: int, of: int) -> Shard:
        """One of `of` parts of this share."""
        return Shard(number=self.number + self.of * (number - 1), of=self.of * of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def resolve_shard(asked: str | None, environment: Mapping[str, str]) -> Shard:
    """The share that was asked for as "2/8", or that `accelerate launch` and `torchrun` gave this
    process (RANK, WORLD_SIZE).

    Raises:
        RNXError: it is not of the form i/n with 1 <= i <= n.
    """
    if asked is None:
        rank, world = environment.get("RANK", ""), environment.get("WORLD_SIZE", "")
        if not (rank.isdecimal() and world.isdecimal()):
            return Shard()
        return Shard(number=int(rank) + 1, of=int(world))
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", asked.strip())
    if found is None:
        raise RNXError(f"share {asked!r} was given; i/n is allowed: 2/8 is the second of eight.")
    return Shard(number=int(found[1]), of=int(found[2]))


def device_of(asked: str | None, environment: Mapping[str, str]) -> str | None:
    """The device of this process: of "cuda" and several processes a machine, each takes its own
    (LOCAL_RANK).
    """
    local = environment.get("LOCAL_RANK", "")
    return f"cuda:{local}" if asked == "cuda" and local.isdecimal() else asked
