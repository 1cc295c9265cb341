"""The ranking flow for any ranker: candidates -> memories -> windows -> scores -> order. It knows
no nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.defaults import Windows
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking.memories import UsableMemories, get_usable_memories
from llama_index_rnx.ranking.ranker import Ranker
from llama_index_rnx.ranking.scheduler import score_batch
from llama_index_rnx.ranking.windows import (
    Ranking,
    Window,
    parallel_windows,
    run_plans,
    sliding_windows,
    with_last,
)

# Lists of a batch: enough windows for a GPU, and few enough memories (a hundred images: 160 MB).
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
    """Order one list; see `rank_many`."""
    return rank_many(ranker, store, [(query, candidates)], window, stride, windows)[0]


def rank_many(
    ranker: Ranker,
    store: MemoryStore,
    lists: Sequence[tuple[Query, Sequence[Candidate]]],
    window: int | None = None,
    stride: int | None = None,
    windows: Windows = "sliding",
) -> list[Ranking]:
    """Order several lists: candidates -> memories -> windows -> scores -> order. RNXRerank and the
    command line both call this.

    Windows that can be scored now, of all lists, are scored together. A candidate is ranked by what
    can be read of it: without its image by its text, and with nothing left it comes last, with
    score 0, and takes no place in a window.

    Args:
        store: where memories are looked up; those that are missing are made now and kept there.
        lists: (query, candidates) of each.
        window, stride: at most the ranker's own window; by default that, and half of it.
        windows: how a list longer than a window is scored, see `llama_index_rnx.ranking.windows`.

    Returns:
        One `Ranking` for each list: candidate indices, best first, their scores, and what could not
            be read.

    Raises:
        ImageError: the image of a query cannot be read. Besides, whatever the ranker raises.

    Example:
        >>> from llama_index_rnx import load_ranker
        >>> texts = ("Bees make honey.", "Rust is iron oxide.")
        >>> candidates = [Candidate(id=text, text=text) for text in texts]
        >>> lists = [(Query(text="what do bees make?"), candidates)]
        >>> rank_many(load_ranker(), MemoryStore(), lists)[0].order
        [0, 1]
    """
    recalled = [get_usable_memories(ranker, candidates, store) for _, candidates in lists]
    memories = [[memory for memory in usable.memories if memory is not None] for usable in recalled]

    def score(requests: Sequence[tuple[int, Window]]) -> list[list[float]]:
        return score_batch(
            ranker,
            [
                (lists[index][0], [memories[index][position] for position in positions])
                for index, positions in requests
            ],
        )

    size = min(window or ranker.window, ranker.window)
    step = min(stride or max(1, size // 2), size)
    plan = {"sliding": sliding_windows, "parallel": parallel_windows}[windows]
    rankings = run_plans([plan(len(rows), size, step) for rows in memories], score)
    return [
        _whole_ranking(ranking, usable) for ranking, usable in zip(rankings, recalled, strict=True)
    ]


def _whole_ranking(ranking: Ranking, usable: UsableMemories) -> Ranking:
    """Return the ranking of all candidates: those of which nothing can be read come last."""
    ranked = [index for index, memory in enumerate(usable.memories) if memory is not None]
    unranked = [index for index, memory in enumerate(usable.memories) if memory is None]
    return replace(with_last(ranking, ranked, unranked), faults=usable.faults)
