"""What every ranker can do, and how a list of candidates becomes memories."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import Memory, MemoryStore

Ask = tuple[Query, Sequence[Memory]]  # a query and the candidates to be read together
REMEMBER_AT_ONCE = 64  # written in one transaction: a killed run loses no more than this


@runtime_checkable
class Ranker(Protocol):
    """Scores a list of candidates together. Any object with these five names will do: no base class, no registration.

    The cut between its two verbs is what makes it fast: `remember` needs no query, and its result is kept for good under the
    candidate's content and the ranker's fingerprint; `score` is all that a query pays for.

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


@dataclass(frozen=True, kw_only=True)
class ScorePlan:
    """One window as work that can be done side by side, and what makes scores of its results.

    parts: each gives a result, in any thread; finish: takes the results in the order of the parts, gives one score a memory.
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
        raise RNXError(f"{ranker.name}: got a prompt {', '.join(strange)}; allowed as it is read: {known}.")
    return ranker.with_prompts(templates) if templates and isinstance(ranker, PromptedRanker) else ranker


def score_windows(ranker: Ranker, asks: Sequence[Ask]) -> list[list[float]]:
    """The scores of several windows: together where the ranker can, otherwise one by one.

    Raises:
        RNXError: a score is no number.
    """
    windows = ranker.score_many(asks) if isinstance(ranker, BatchRanker) else [ranker.score(*ask) for ask in asks]
    return [checked_scores(ranker, scores) for scores in windows]


def checked_scores(ranker: Ranker, scores: Sequence[float]) -> list[float]:
    """The scores as Python floats.

    Raises:
        RNXError: one of them is no number.
    """
    if not all(math.isfinite(score) for score in scores):
        raise RNXError(f"{ranker.name} gave a score that is no number; try dtype='float32', or another checkpoint.")
    return [float(score) for score in scores]


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
