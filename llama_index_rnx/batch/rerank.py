"""Candidate lists ranked by any ranker, several at a time. It knows no file and no index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llama_index_rnx.batch.lists import CandidateList
from llama_index_rnx.candidates import Candidate
from llama_index_rnx.console import progress_bar
from llama_index_rnx.errors import ImageError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import (
    LISTS_AT_ONCE,
    Ranker,
    Ranking,
    Windows,
    rank_many,
    with_dynamic_batching,
)

# (docid, score) of each candidate, best first.
RankedDocuments = list[tuple[str, float]]


def rank_lists(
    lists: Sequence[CandidateList],
    ranker: Ranker,
    memory_path: str | None = None,
    faults: list[str] | None = None,
    windows: Windows = "sliding",
) -> Iterator[tuple[str, RankedDocuments]]:
    """Yield (qid, [(docid, score), best first]) for every list, with a progress bar.

    A few lists are ranked at once, so that their windows share forwards. A candidate whose image
    cannot be read is ordered by its text, or comes last with score 0. A query whose image cannot be
    read keeps the given order.

    Args:
        faults: what could not be read is added here, one line each.
    """
    ranker = with_dynamic_batching(ranker)
    store = MemoryStore(memory_path)
    faults = faults if faults is not None else []
    with progress_bar("reranking", len(lists), "lists") as advance:
        for start in range(0, len(lists), LISTS_AT_ONCE):
            batch = lists[start : start + LISTS_AT_ONCE]
            ranked = _rank_batch(ranker, store, batch, windows, faults)
            for candidate_list, documents in zip(batch, ranked, strict=True):
                yield candidate_list.qid, documents
            advance(len(batch))


def _rank_batch(
    ranker: Ranker,
    store: MemoryStore,
    lists: Sequence[CandidateList],
    windows: Windows,
    faults: list[str],
) -> list[RankedDocuments]:
    pairs = [(each.query, each.candidates) for each in lists]
    try:
        rankings = rank_many(ranker, store, pairs, windows=windows)
    except ImageError as error:
        # It is the image of a query; those of candidates are faults in the rankings.
        if len(lists) == 1:
            faults.append(f"query {lists[0].qid}: {error}")
            return [_in_given_order(lists[0].candidates)]
        return [
            documents
            for each in lists
            for documents in _rank_batch(ranker, store, [each], windows, faults)
        ]

    ranked: list[RankedDocuments] = []
    for each, ranking in zip(lists, rankings, strict=True):
        for index, fault in ranking.faults.items():
            faults.append(f"candidate {each.candidates[index].id}: {fault}")
        ranked.append(_in_order(each.candidates, ranking))
    return ranked


def _in_order(candidates: Sequence[Candidate], ranking: Ranking) -> RankedDocuments:
    return [
        (candidates[index].id, score)
        for index, score in zip(ranking.order, ranking.scores, strict=True)
    ]


def _in_given_order(candidates: Sequence[Candidate]) -> RankedDocuments:
    """Return the candidates as they were given, with scores that fall with their position."""
    return [(candidate.id, -float(position)) for position, candidate in enumerate(candidates)]
