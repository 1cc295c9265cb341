"""What every ranker can do, and how a list of candidates becomes memories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.memory import Memory, MemoryStore

REMEMBER_AT_ONCE = 64  # written in one transaction: a killed run loses no more than this


@runtime_checkable
class Ranker(Protocol):
    """Scores a list of candidates together.

    name: what users call it. fingerprint: changes whenever a memory of it would. window: how many it reads at once.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def window(self) -> int: ...

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """All that needs no query, one memory a candidate. Raises ImageError for an image that cannot be read."""
        ...

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """One score a memory, higher is better; the memories are read together, at most `window` of them."""
        ...


def recall(ranker: Ranker, candidates: Sequence[Candidate], store: MemoryStore) -> list[Memory]:
    """The memories of the candidates: those that the store knows, and the others made now and kept."""
    found = store.find(ranker.fingerprint, [candidate.digest for candidate in candidates])
    unknown = {c.digest: c for c in candidates if c.digest not in found}
    missing = list(unknown.values())
    for start in range(0, len(missing), REMEMBER_AT_ONCE):
        part = missing[start : start + REMEMBER_AT_ONCE]
        made = {c.digest: memory for c, memory in zip(part, ranker.remember(part), strict=True)}
        store.keep(ranker.fingerprint, made)
        found.update(made)
    return [found[candidate.digest] for candidate in candidates]
