"""The protocols of rankers, and the checks of what a ranker returns. It knows no store, no window
and no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError, SettingsError, shown
from llama_index_rnx.memory import Framework, Memory, are_memories

# A query and the memories of the candidates that are compared for it, at most a window of them.
ScoringRequest = tuple[Query, Sequence[Memory]]


@runtime_checkable
class Ranker(Protocol):
    """Scores a list of candidates together. Any object with these five names will do: no base
    class, no registration.

    The cut between its two verbs is what makes it fast: `remember` needs no query, and its result
    is kept for good under the candidate's content and the ranker's fingerprint; `score` is all that
    a query pays for.

    A sixth name is read where a ranker has it: `framework`, in the words of safetensors. A ranker
    whose memories are arrays of numpy says "np", and stored memories come back as such; without it
    they come back as tensors of torch ("pt").

    Example:
        >>> import numpy as np
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> from llama_index_rnx import RNXRerank
        >>> class Longest:
        ...     name, fingerprint, window, framework = "longest", "longest/1", 100, "np"
        ...     def remember(self, candidates):
        ...         return [{"length": np.array(len(each.text))} for each in candidates]
        ...     def score(self, query, memories):
        ...         return [1 - 1 / (1 + float(memory["length"])) for memory in memories]
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("short", "rather longer")]
        >>> reranker = RNXRerank(ranker=Longest())
        >>> [hit.text for hit in reranker.postprocess_nodes(nodes, query_str="anything")]
        ['rather longer', 'short']
    """

    @property
    def name(self) -> str:
        """The name that users give and that messages show: one line."""
        ...

    @property
    def fingerprint(self) -> str:
        """A string that changes whenever a memory would: with the weights, the budgets of pixels
        and tokens, or the precision. Memories are kept under it and never checked again.
        """
        ...

    @property
    def window(self) -> int:
        """How many candidates the ranker can compare at once, 1 or more. A longer list is scored in
        windows of this size.
        """
        ...

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """Prepare all that needs no query.

        Returns:
            One memory for each candidate, in their order. A memory maps names to arrays of numpy,
            or to tensors of torch on the CPU, of any shape and dtype; the store writes them to disk
            as they are.

        Raises:
            ImageError: an image cannot be read. The candidates are then remembered again without
                that image.
        """
        ...

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """Compare the candidates behind the memories, at most `window` of them, for a query.

        Returns:
            One finite number for each memory, in their order; higher is better. Numbers in [0, 1]
            that mean a probability of relevance suit `min_score` and the windows of a long list,
            but any range is allowed. The same arguments give the same scores.

        Raises:
            ImageError: the image of the query cannot be read.
            RNXError: the model or the service gave no usable answer.
        """
        ...


@runtime_checkable
class BatchRanker(Ranker, Protocol):
    """A ranker that gains by scoring several windows at once, of one query or of many."""

    def score_many(self, asks: Sequence[ScoringRequest]) -> list[list[float]]:
        """Return what `score` returns for each request: one list of scores a request, in their
        order. Raises as `score` does.
        """
        ...


@runtime_checkable
class PromptedRanker(Ranker, Protocol):
    """A ranker whose prompt users may read and replace."""

    @property
    def prompts(self) -> dict[str, str]:
        """The templates of the prompt, by name."""
        ...

    def with_prompts(self, templates: Mapping[str, str]) -> Ranker:
        """Return the same model under other templates; a template that is not given stays.

        Raises:
            RNXError: a template lacks a field.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ScorePlan:
    """The scoring of one window, divided into steps that can run side by side.

    Attributes:
        steps: each returns a result, in any thread and in any order.
        finish: turns the results, in the order of the steps, into one score for each memory.
    """

    steps: Sequence[Callable[[], Any]]
    finish: Callable[[Sequence[Any]], list[float]]

    def run(self) -> list[float]:
        """Run the steps one after the other on this thread and return the scores."""
        return self.finish([step() for step in self.steps])


@runtime_checkable
class PlanningRanker(Ranker, Protocol):
    """A ranker whose threads can share out one window; `score` returns what the plan returns."""

    def plan(self, query: Query, memories: Sequence[Memory]) -> ScorePlan:
        """Encode the query, and leave all other work to the plan."""
        ...


def framework_of(ranker: Ranker) -> Framework:
    """Return what a ranker's memories are made of: "pt", unless it says otherwise.

    Raises:
        SettingsError: it says something else than "np" or "pt".
    """
    framework = getattr(ranker, "framework", "pt")
    if framework == "np":
        return "np"
    if framework == "pt":
        return "pt"
    raise SettingsError(
        f"{ranker.name}: framework={shown(framework)} was given; 'np' (memories of numpy's arrays) "
        "and 'pt' (of torch's tensors) are allowed."
    )


def prompts_of(ranker: Ranker) -> dict[str, str]:
    """Return the templates of a ranker's prompt, by name; none where it has no prompt."""
    return ranker.prompts if isinstance(ranker, PromptedRanker) else {}


def prompted(ranker: Ranker, templates: Mapping[str, str]) -> Ranker:
    """Return the ranker under these templates.

    Raises:
        SettingsError: the ranker has no template of that name.
        RNXError: a template lacks a field.
    """
    unknown = sorted(set(templates) - set(prompts_of(ranker)))
    if unknown:
        allowed = ", ".join(prompts_of(ranker)) or "none"
        raise SettingsError(
            f"{ranker.name}: got a prompt {', '.join(unknown)}; allowed as it is read: {allowed}."
        )
    if not templates or not isinstance(ranker, PromptedRanker):
        return ranker
    return ranker.with_prompts(templates)


def score_on_this_thread(ranker: Ranker, requests: Sequence[ScoringRequest]) -> list[list[float]]:
    """Score several windows: together where the ranker can, otherwise one by one.

    Returns:
        One list of finite scores for each request, as long as its memories.

    Raises:
        RNXError: a score is no number, or there are not as many as memories.
    """
    if isinstance(ranker, BatchRanker):
        results: Any = ranker.score_many(requests)
    else:
        results = [ranker.score(query, memories) for query, memories in requests]

    windows = checked_results(ranker, results, len(requests), "windows of scores")
    return [
        checked_scores(ranker, scores, len(memories))
        for scores, (_, memories) in zip(windows, requests, strict=True)
    ]


def checked_scores(ranker: Ranker, scores: Iterable[float], count: int) -> list[float]:
    """Return the scores as Python floats.

    Raises:
        RNXError: one of them is no finite number, or there are not `count` of them.
    """
    scores = checked_results(ranker, scores, count, "scores")
    if not all(_is_finite(score) for score in scores):
        raise RNXError(
            f"{ranker.name} gave a score that is no number; try dtype='float32', or another "
            "checkpoint."
        )
    return [float(score) for score in scores]


def checked_memories(ranker: Ranker, memories: Iterable[Memory], count: int) -> list[Memory]:
    """Return the memories as a list.

    Raises:
        RNXError: one of them is no mapping of names to arrays, or there are not `count` of them.
    """
    memories = checked_results(ranker, memories, count, "memories")
    if not are_memories(memories):
        raise RNXError(
            f"{ranker.name} gave a memory that is no mapping of names to tensors, or to arrays of "
            "numbers."
        )
    return memories


def checked_results(ranker: Ranker, results: Any, count: int, what: str) -> list[Any]:
    """Return what a ranker gave, be it a list or a generator, as a list.

    Args:
        count: how many results are needed.
        what: the name of the results in an error.

    Raises:
        RNXError: there are more or fewer, or `results` is not iterable.
    """
    if not isinstance(results, Iterable):
        raise RNXError(f"{ranker.name} gave {type(results).__name__} in place of {count} {what}.")
    values = list(results)
    if len(values) != count:
        raise RNXError(f"{ranker.name} gave {len(values)} {what} where {count} are needed.")
    return values


def _is_finite(score: Any) -> bool:
    try:
        return math.isfinite(score)
    except (TypeError, ValueError, OverflowError):
        return False
