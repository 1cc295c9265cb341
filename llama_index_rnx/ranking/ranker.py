"""What every ranker can do, and how a list of candidates becomes memories."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from llama_index_rnx.candidates import EMPTY, Candidate, Query, unreadable_images
from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.memory import Memory, MemoryStore

ScoringRequest = tuple[Query, Sequence[Memory]]  # a query and the candidates to be read together
REMEMBER_AT_ONCE = 64  # written in one transaction: a killed run loses no more than this


@runtime_checkable
class Ranker(Protocol):
    """Scores a list of candidates together. Any object with these five names will do: no base
    class, no registration.

    The cut between its two verbs is what makes it fast: `remember` needs no query, and its result
    is kept for good under the candidate's content and the ranker's fingerprint; `score` is all that
    a query pays for.

    Example:
        >>> import torch
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> from llama_index_rnx import RNXRerank
        >>> class Longest:
        ...     name, fingerprint, window = "longest", "longest/1", 100
        ...     def remember(self, candidates):
        ...         return [{"length": torch.tensor(len(candidate.text))} for candidate in candidates]
        ...     def score(self, query, memories):
        ...         return [1 - 1 / (1 + float(memory["length"])) for memory in memories]
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("short", "rather longer")]
        >>> [hit.text for hit in RNXRerank(ranker=Longest()).postprocess_nodes(nodes, query_str="anything")]
        ['rather longer', 'short']
    """

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever a memory of it would, with weights, budgets or precision."""
        ...

    @property
    def window(self) -> int:
        """How many candidates it reads at once; a longer list is read in windows."""
        ...

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """All that needs no query: one memory a candidate, a mapping of names to tensors.

        Raises:
            ImageError: an image cannot be read.
        """
        ...

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """One score a memory, higher is better; the memories are read together, at most `window` of
        them.
        """
        ...


@runtime_checkable
class BatchRanker(Ranker, Protocol):
    """A ranker that gains by reading several windows at once, of one query or of many."""

    def score_many(self, asks: Sequence[ScoringRequest]) -> list[list[float]]:
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
        """The same model under other templates; those that are not named stay. Raises RNXError for
        a wrong one.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ScorePlan:
    """One window as work that can be done side by side, and what makes scores of its results.

    parts: each gives a result, in any thread; finish: takes the results in the order of the parts,
    gives one score a memory.
    """

    parts: Sequence[Callable[[], Any]]
    finish: Callable[[Sequence[Any]], list[float]]

    def run(self) -> list[float]:
        """The scores, one part after the other."""
        return self.finish([part() for part in self.parts])


@runtime_checkable
class PlanningRanker(Ranker, Protocol):
    """A ranker whose threads can share out one window; `score` gives what the plan gives."""

    def plan(self, query: Query, memories: Sequence[Memory]) -> ScorePlan:
        """All but the query's own encoding is left to the plan."""
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
        raise RNXError(
            f"{ranker.name}: got a prompt {', '.join(strange)}; allowed as it is read: {known}."
        )
    return (
        ranker.with_prompts(templates)
        if templates and isinstance(ranker, PromptedRanker)
        else ranker
    )


def score_batch(ranker: Ranker, asks: Sequence[ScoringRequest]) -> list[list[float]]:
    """The scores of several windows: together where the ranker can, otherwise one by one.

    Raises:
        RNXError: a score is no number, or there are not as many as memories.
    """
    windows = (
        ranker.score_many(asks)
        if isinstance(ranker, BatchRanker)
        else [ranker.score(*ask) for ask in asks]
    )
    windows = same_number(ranker, windows, len(asks), "windows of scores")
    return [
        checked_scores(ranker, scores, len(memories))
        for scores, (_, memories) in zip(windows, asks, strict=True)
    ]


def checked_scores(ranker: Ranker, scores: Iterable[float], count: int) -> list[float]:
    """The scores as Python floats.

    Raises:
        RNXError: one of them is no number, or there are not so many.
    """
    scores = same_number(ranker, scores, count, "scores")
    if not all(_is_finite(score) for score in scores):
        raise RNXError(
            f"{ranker.name} gave a score that is no number; try dtype='float32', or another checkpoint."
        )
    return [float(score) for score in scores]


def checked_memories(ranker: Ranker, memories: Iterable[Memory], count: int) -> list[Memory]:
    """The memories as a list.

    Raises:
        RNXError: one of them is none, or there are not so many.
    """
    memories = same_number(ranker, memories, count, "memories")
    for memory in memories:
        if not isinstance(memory, Mapping) or not all(
            isinstance(each, Tensor) for each in memory.values()
        ):
            raise RNXError(f"{ranker.name} gave a memory that is no mapping of names to tensors.")
    return memories


def same_number(ranker: Ranker, results: Any, count: int, what: str) -> list[Any]:
    """What a ranker gave for so many things, be it a list or a generator, as a list.

    Raises:
        RNXError: there are more or fewer, or it is nothing of the kind.
    """
    if not isinstance(results, Iterable):
        raise RNXError(f"{ranker.name} gave {type(results).__name__} in place of {count} {what}.")
    listed = list(results)
    if len(listed) != count:
        raise RNXError(f"{ranker.name} gave {len(listed)} {what} where {count} are needed.")
    return listed


def _is_finite(score: Any) -> bool:
    try:
        return math.isfinite(score)
    except (TypeError, ValueError, OverflowError):
        return False


@dataclass(frozen=True, kw_only=True)
class UsableMemories:
    """memories: one a candidate, None where nothing of it can be read; faults: by index, what could
    not be read, and why.
    """

    memories: list[Memory | None]
    faults: dict[int, str] = field(default_factory=dict)


def get_usable_memories(
    ranker: Ranker, candidates: Sequence[Candidate], store: MemoryStore
) -> UsableMemories:
    """As `get_or_compute_memories`, but a picture that cannot be read costs only itself: its
    candidate is remembered by its text.

    That memory is kept as one of the text, so the picture is looked for again the next time.
    """
    outcomes = _recall_or_error(ranker, [one for one in candidates if not one.is_empty], store)
    errors = {digest: error for digest, error in outcomes.items() if isinstance(error, ImageError)}
    memories = {
        digest: memory for digest, memory in outcomes.items() if not isinstance(memory, ImageError)
    }

    rest = [replace(one, image=None) if one.digest in errors else one for one in candidates]
    texts = [one for one in rest if one.text and one.digest not in memories]
    memories |= zip(
        (one.digest for one in texts), get_or_compute_memories(ranker, texts, store), strict=True
    )

    faults = {
        i: str(errors.get(one.digest) or f"candidate {one.id!r} {EMPTY}")
        for i, one in enumerate(candidates)
        if one.is_empty or one.digest in errors
    }
    return UsableMemories(memories=[memories.get(one.digest) for one in rest], faults=faults)


def _recall_or_error(
    ranker: Ranker, candidates: Sequence[Candidate], store: MemoryStore
) -> dict[str, Memory | ImageError]:
    """By digest, the memory of each candidate, or why its picture cannot be read.

    Where one fails, every picture that is not remembered is opened once to learn which ones are
    broken. So the others are prepared twice at most, and a URL that does not answer is waited for
    twice, however many are broken.
    """
    try:
        return _by_digest(candidates, get_or_compute_memories(ranker, candidates, store))
    except ImageError:
        known = store.find(ranker.fingerprint, [one.digest for one in candidates])
    broken = unreadable_images([one for one in candidates if one.digest not in known])
    return broken | _recall_halves(
        ranker, [one for one in candidates if one.digest not in broken], store
    )


def _recall_halves(
    ranker: Ranker, candidates: Sequence[Candidate], store: MemoryStore
) -> dict[str, Memory | ImageError]:
    """The same for pictures that open and yet do not suit the ranker, which cannot say which of
    them it means.
    """
    try:
        return _by_digest(candidates, get_or_compute_memories(ranker, candidates, store))
    except ImageError as error:
        if len(candidates) == 1:
            return {candidates[0].digest: error}
    half = len(candidates) // 2
    return _recall_halves(ranker, candidates[:half], store) | _recall_halves(
        ranker, candidates[half:], store
    )


def _by_digest(
    candidates: Sequence[Candidate], memories: Sequence[Memory]
) -> dict[str, Memory | ImageError]:
    return {one.digest: memory for one, memory in zip(candidates, memories, strict=True)}


def get_or_compute_memories(
    ranker: Ranker, candidates: Sequence[Candidate], store: MemoryStore
) -> list[Memory]:
    """The memories of the candidates: those that the store knows, and the others made now and kept.

    Raises:
        ImageError: a picture cannot be read; `get_usable_memories` goes on without it.
    """
    fingerprint = ranker.fingerprint
    memories = store.find(fingerprint, [candidate.digest for candidate in candidates])
    if memories and store.path is not None:
        store.persist(fingerprint, memories)

    unknown = {c.digest: c for c in candidates if c.digest not in memories}
    missing = list(unknown.values())
    for start in range(0, len(missing), REMEMBER_AT_ONCE):
        batch = missing[start : start + REMEMBER_AT_ONCE]
        computed = checked_memories(ranker, ranker.remember(batch), len(batch))
        by_digest = {c.digest: memory for c, memory in zip(batch, computed, strict=True)}
        store.keep(fingerprint, by_digest)
        memories.update(by_digest)
    return [memories[candidate.digest] for candidate in candidates]
