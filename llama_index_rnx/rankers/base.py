"""What every ranker can do, and how a list of candidates becomes memories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import Memory, MemoryStore

Ask = tuple[Query, Sequence[Memory]]  # a query and the candidates to be read together
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


@runtime_checkable
class BatchRanker(Ranker, Protocol):
    """A ranker that gains by reading several windows at once, of one query or of many."""

    def score_many(self, asks: Sequence[Ask]) -> list[list[float]]:
        """What `score` gives for each."""
        ...


@runtime_checkable
class PromptedRanker(Ranker, Protocol):
    """A ranker whose prompt users may read and replace."""

    @property
    def prompts(self) -> dict[str, str]:
        """Its templates, by name."""
        ...

    def with_prompts(self, templates: Mapping[str, str]) -> Ranker:
        """The same model under other templates; those that are not named stay. Raises RNXError for a wrong one."""
        ...


def prompts_of(ranker: Ranker) -> dict[str, str]:
    """The templates of a ranker's prompt, by name; none for a ranker without a prompt."""
    return ranker.prompts if isinstance(ranker, PromptedRanker) else {}


def prompted(ranker: Ranker, templates: Mapping[str, str]) -> Ranker:
    """The ranker under these templates.

    Raises:
        RNXError: it has no prompt of that name, or a template lacks a field.
    """
    strange = sorted(set(templates) - set(prompts_of(ranker)))
    if strange:
        known = ", ".join(prompts_of(ranker)) or "none"
        raise RNXError(f"{ranker.name}: got a prompt {', '.join(strange)}; allowed as it is read: {known}.")
    return ranker.with_prompts(templates) if templates and isinstance(ranker, PromptedRanker) else ranker


def score_windows(ranker: Ranker, asks: Sequence[Ask]) -> list[list[float]]:
    """The scores of several windows: together where the ranker can, otherwise one by one.

    Raises:
        RNXError: a score is no number.
    """
    found = ranker.score_many(asks) if isinstance(ranker, BatchRanker) else [ranker.score(*ask) for ask in asks]
    if not all(math.isfinite(score) for scores in found for score in scores):
        raise RNXError(f"{ranker.name} gave a score that is no number; try dtype='float32', or another checkpoint.")
    return [[float(score) for score in scores] for scores in found]


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
