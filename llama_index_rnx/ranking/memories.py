"""Candidates become memories: looked up in a store, or made by the ranker and kept. It knows no
query and no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from llama_index_rnx.candidates import EMPTY, Candidate, digests_of, unreadable_images
from llama_index_rnx.errors import ImageError
from llama_index_rnx.memory import Memory, MemoryStore
from llama_index_rnx.ranking.ranker import Ranker, checked_memories, framework_of

# Candidates that are written in one transaction: a killed run loses no more than these.
REMEMBER_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class UsableMemories:
    """The memories of a list in which not everything can be read.

    Attributes:
        memories: one for each candidate, None where nothing of it can be read.
        faults: by index, what of a candidate could not be read, and why.
    """

    memories: list[Memory | None]
    faults: dict[int, str] = field(default_factory=dict)


def get_or_compute_memories(
    ranker: Ranker, candidates: Sequence[Candidate], store: MemoryStore
) -> list[Memory]:
    """Return one memory for each candidate: from the store, or made now and kept there.

    Raises:
        ImageError: an image cannot be read; `get_usable_memories` goes on without it.
    """
    if not candidates:
        return []

    memories = store.find(ranker.fingerprint, digests_of(candidates), framework_of(ranker))
    if memories and store.path is not None:
        store.persist(ranker.fingerprint, memories)

    missing_by_digest = {
        candidate.digest: candidate for candidate in candidates if candidate.digest not in memories
    }

    missing = list(missing_by_digest.values())
    for start in range(0, len(missing), REMEMBER_AT_ONCE):
        batch = missing[start : start + REMEMBER_AT_ONCE]
        computed = checked_memories(ranker, ranker.remember(batch), len(batch))
        by_digest = dict(zip([candidate.digest for candidate in batch], computed, strict=True))
        store.keep(ranker.fingerprint, by_digest)
        memories.update(by_digest)

    return [memories[candidate.digest] for candidate in candidates]


def get_usable_memories(
    ranker: Ranker, candidates: Sequence[Candidate], store: MemoryStore
) -> UsableMemories:
    """Do as `get_or_compute_memories`, but let an image that cannot be read cost only itself: its
    candidate is remembered by its text.

    That memory is kept as one of the text, so the image is looked for again the next time.
    """
    contents = [candidate for candidate in candidates if not candidate.is_empty]
    outcomes = _memories_or_errors(ranker, contents, store)
    errors: dict[str, ImageError] = {}
    memories: dict[str, Memory] = {}
    for digest, outcome in outcomes.items():
        if isinstance(outcome, ImageError):
            errors[digest] = outcome
        else:
            memories[digest] = outcome

    readable = [
        replace(candidate, image=None) if candidate.digest in errors else candidate
        for candidate in candidates
    ]
    texts = [each for each in readable if each.text and each.digest not in memories]
    memories |= _by_digest(texts, get_or_compute_memories(ranker, texts, store))

    faults = {
        index: str(errors.get(candidate.digest) or f"candidate {candidate.id!r} {EMPTY}")
        for index, candidate in enumerate(candidates)
        if candidate.is_empty or candidate.digest in errors
    }
    return UsableMemories(
        memories=[memories.get(candidate.digest) for candidate in readable], faults=faults
    )


def _memories_or_errors(
    ranker: Ranker, candidates: Sequence[Candidate], store: MemoryStore
) -> dict[str, Memory | ImageError]:
    """Return by digest the memory of each candidate, or why its image cannot be read.

    When one fails, every image that is not remembered is opened once to learn which are broken. So
    the others are prepared twice at most, and a URL that does not answer is waited for twice,
    however many are broken.
    """
    try:
        return {**_by_digest(candidates, get_or_compute_memories(ranker, candidates, store))}
    except ImageError:
        digests = [candidate.digest for candidate in candidates]
        stored = store.find(ranker.fingerprint, digests, framework_of(ranker))

    broken = unreadable_images([each for each in candidates if each.digest not in stored])
    intact = [each for each in candidates if each.digest not in broken]
    return broken | _memories_or_errors_by_halves(ranker, intact, store)


def _memories_or_errors_by_halves(
    ranker: Ranker, candidates: Sequence[Candidate], store: MemoryStore
) -> dict[str, Memory | ImageError]:
    """Do the same for images that open and yet do not suit the ranker, whose error does not say
    which of them it means.
    """
    try:
        return {**_by_digest(candidates, get_or_compute_memories(ranker, candidates, store))}
    except ImageError as error:
        if len(candidates) == 1:
            return {candidates[0].digest: error}

    half = len(candidates) // 2
    first = _memories_or_errors_by_halves(ranker, candidates[:half], store)
    second = _memories_or_errors_by_halves(ranker, candidates[half:], store)
    return first | second


def _by_digest(candidates: Sequence[Candidate], memories: Sequence[Memory]) -> dict[str, Memory]:
    digests = [candidate.digest for candidate in candidates]
    return dict(zip(digests, memories, strict=True))
