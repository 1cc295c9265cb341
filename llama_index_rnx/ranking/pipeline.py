"""The ranking flow for any ranker: candidates -> memories -> windows -> scores -> order. It knows
no nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.defaults import Windows
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking.ranker import Ranker, UsableMemories, get_usable_memories, score_batch
from llama_index_rnx.ranking.windows import (
    Ranking,
    Window,
    parallel_windows,
    run_plans,
    sliding_windows,
    with_last,
)

# Lists of a batch: enough windows for a GPU, and few enough memories (a hundred pictures: 160 MB)
LISTS_AT_ONCE = 8


def rank(
    ranker: Ranker,
    store: MemoryStore,
    query: Query,
    candidates: Sequence[Candidate],
    window: int | None = None,
    stride: int | None = None,
    windows: Windows = "sliding",
) -> Ranking:
    """The order of one list; see `rank_many`."""
    return rank_many(ranker, store, [(query, candidates)], window, stride, windows)[0]


def rank_many(
    ranker: Ranker,
    store: MemoryStore,
    lists: Sequence[tuple[Query, Sequence[Candidate]]],
    window: int | None = None,
    stride: int | None = None,
    windows: Windows = "sliding",
) -> list[Ranking]:
    """The flow itself: candidates -> memories -> windows -> scores -> order. RNXRerank and the
    command line both call it.

    Windows that can be read now, of all lists, are read together. A candidate is ranked by what can
    be read of it: without its picture by its text, and with nothing left it comes last, with score
    0, and takes no place in a window.

    Args:
        store: what is remembered is looked up there, and what is not is remembered now and kept.
        lists: (query, candidates) of each.
        window, stride: at most the ranker's own window; by default that, and half of it.
        windows: how a list longer than a window is read, see `llama_index_rnx.ranking.windows`.

    Returns:
        One `Ranking` for each list: candidate indices, best first, their scores, and what could not
            be read.

    Raises:
        ImageError: the picture of a query cannot be read. Besides, whatever the ranker raises.

    Example:
        >>> texts = ("Bees make honey.", "Rust is iron oxide.")
        >>> candidates = [Candidate(id=text, text=text) for text in texts]
        >>> (found,) = rank_many(load_ranker(), MemoryStore(), [(Query(text="what do bees make?"), candidates)])
        >>> found.order
        [0, 1]
    """
    recalled = [get_usable_memories(ranker, candidates, store) for _, candidates in lists]
    usable = [
        [i for i, memory in enumerate(one.memories) if memory is not None] for one in recalled
    ]
    memories = [[memory for memory in one.memories if memory is not None] for one in recalled]
    size = min(window or ranker.window, ranker.window)
    step = min(stride or max(1, size // 2), size)
    plan = {"sliding": sliding_windows, "parallel": parallel_windows}[windows]

    def read(asked: Sequence[tuple[int, Window]]) -> list[list[float]]:
        return score_batch(
            ranker, [(lists[i][0], [memories[i][place] for place in places]) for i, places in asked]
        )

    ranked = run_plans([plan(len(found), size, step) for found in memories], read)
    return [_whole(*parts) for parts in zip(ranked, usable, recalled, strict=True)]


def _whole(ranked: Ranking, usable: Sequence[int], recalled: UsableMemories) -> Ranking:
    """The ranking of all candidates: those of which nothing can be read come last."""
    unusable = [i for i, memory in enumerate(recalled.memories) if memory is None]
    return replace(with_last(ranked, usable, unusable), faults=recalled.faults)
