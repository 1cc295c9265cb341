"""Several lists at once: the same orders as one by one, in fewer and larger reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import BrokenRanker, FakeEmbedding, FakeRanker, SharingRanker, text_hits, write_image
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.batch import CandidateList, rank_lists
from llama_index_rnx.candidates import Candidate, Query, file_source
from llama_index_rnx.errors import ImageError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import rank, rank_many
from llama_index_rnx.ranking import ranker as ranker_module
from llama_index_rnx.ranking.ranker import BatchRanker
from llama_index_rnx.results import search, search_many

WORDS = ("red", "apple", "green", "pear", "blue", "plum")


def texts(count: int, shift: int = 0) -> list[Candidate]:
    """Texts of two words; which ones depends on the place."""
    words = [f"{WORDS[(i + shift) % 6]} {WORDS[(i * i + shift) % 6]} {i}" for i in range(count)]
    return [Candidate(id=str(i), text=text) for i, text in enumerate(words)]


LISTS = [(Query(text=WORDS[i % 6]), texts(count, i)) for i, count in enumerate([45, 0, 7, 100, 21])]


@pytest.mark.parametrize("windows", ["sliding", "parallel"])
@pytest.mark.parametrize("kind", [FakeRanker, SharingRanker])
def test_lists_together_are_ordered_as_alone(kind: type[FakeRanker], windows: Any) -> None:
    store = MemoryStore()
    together = rank_many(kind(), store, LISTS, windows=windows)
    assert together == [
        rank(kind(), store, query, candidates, windows=windows) for query, candidates in LISTS
    ]
    assert [sorted(ranking.order) for ranking in together] == [
        list(range(len(found))) for _, found in LISTS
    ]


def test_windows_are_read_together_where_the_ranker_can() -> None:
    ranker = SharingRanker()
    assert isinstance(ranker, BatchRanker)
    assert not isinstance(FakeRanker(), BatchRanker)
    rank_many(ranker, MemoryStore(), LISTS, windows="parallel")
    # 45: 3 windows, 7: one, 100: five, 21: one; then two finals and the second of 21.
    assert ranker.shared == [
        10,
        3,
    ]
    ranker.shared.clear()
    rank(ranker, MemoryStore(), *LISTS[3])
    assert ranker.shared == [1] * 9


def test_a_reranker_may_read_parallel_windows() -> None:
    hits = [
        NodeWithScore(node=TextNode(id_=c.id, text=c.text), score=1 - i / 100)
        for i, c in enumerate(texts(100))
    ]
    ranker = SharingRanker()
    best = RNXRerank(ranker=ranker, top_n=100, windows="parallel").postprocess_nodes(
        hits, query_str="apple plum"
    )
    assert ranker.shared == [5, 1]
    assert sorted(hit.node_id for hit in best) == sorted(hit.node_id for hit in hits)
    assert best[0].score == 1.0
    with pytest.raises(ValueError, match="windows"):
        RNXRerank(ranker=ranker, windows="zigzag")


def test_many_queries_come_out_as_one_by_one() -> None:
    asks = [(QueryBundle(word), text_hits("red apple", "green pear", word)) for word in WORDS] + [
        (QueryBundle("red"), [])
    ]
    ranker = SharingRanker()
    together = RNXRerank(ranker=ranker, top_n=2).postprocess_many(asks)
    assert ranker.shared == [6]
    alone = [
        RNXRerank(ranker=FakeRanker(), top_n=2).postprocess_nodes(hits, bundle)
        for bundle, hits in asks
    ]
    assert [[(hit.node_id, hit.score) for hit in hits] for hits in together] == [
        [(hit.node_id, hit.score) for hit in hits] for hits in alone
    ]


class PickyRanker(SharingRanker):
    """Breaks where a query is "bad"."""

    def score(self, query: Query, memories: Any) -> list[float]:
        if query.text == "bad":
            raise RuntimeError("the ranker broke")
        return super().score(query, memories)


@pytest.mark.parametrize("kind", [FakeRanker, SharingRanker])
def test_the_scores_of_a_window_are_checked_once(
    kind: type[FakeRanker], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    original = ranker_module.checked_scores

    def count(ranker: Any, scores: Any, number: int) -> list[float]:
        checked.append(number)
        return original(ranker, scores, number)

    monkeypatch.setattr(ranker_module, "checked_scores", count)
    nodes = text_hits(*(candidate.text for candidate in texts(30)))
    RNXRerank(ranker=kind()).postprocess_nodes(nodes, query_str="red apple")
    assert checked == [20, 20], "two windows"


def test_one_bad_list_of_many_keeps_its_order_alone() -> None:
    asks = [(QueryBundle(text), text_hits("apple", "pear")) for text in ("pear", "bad")]
    reranker = RNXRerank(ranker=PickyRanker(), on_error="keep_order")
    found = [[hit.node_id for hit in hits] for hits in reranker.postprocess_many(asks)]
    assert found == [["n1", "n0"], ["n0", "n1"]]
    assert reranker.failures == 1
    broken = RNXRerank(ranker=BrokenRanker(), on_error="keep_order")
    assert [hit.node_id for hits in broken.postprocess_many(asks[:1] * 3) for hit in hits] == [
        "n0",
        "n1",
    ] * 3
    assert broken.failures == 3
    with pytest.raises(RuntimeError, match="broke"):
        RNXRerank(ranker=PickyRanker()).postprocess_many(asks)


def test_a_batch_of_searches_is_that_of_single_ones(tmp_path: Path) -> None:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    collection.add([hit.node for hit in text_hits(*(c.text for c in texts(30)))])
    retriever, ranker = RNXRetriever(collection, top_k=25), SharingRanker()
    reranker = RNXRerank(ranker=ranker, top_n=25, on_error="keep_order")
    queries = [QueryBundle(word) for word in WORDS * 2] + [
        QueryBundle("", image_path=str(tmp_path / "gone.png"))
    ]
    *found, gone = search_many(retriever, reranker, queries, 5)
    assert isinstance(gone, ImageError)
    assert found == [search(retriever, reranker, query, 5) for query in queries[:-1]]
    # Eight queries at once, two windows each, then the four that are left.
    assert ranker.shared[:4] == [
        8,
        8,
        4,
        4,
    ]
    without = list(search_many(retriever, None, queries[:2], 5))
    assert without == [search(retriever, None, query, 5) for query in queries[:2]]
    collection.close()


def test_rows_are_ranked_a_few_at_once_around_broken_pictures(tmp_path: Path) -> None:
    ranker, faults = SharingRanker(), list[str]()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad, good = file_source(tmp_path / "bad.png"), file_source(write_image(tmp_path / "red.png"))
    rows = [
        CandidateList(qid=str(i), query=query, candidates=found)
        for i, (query, found) in enumerate(LISTS * 2)
    ]
    expected = list(rank_lists(rows, ranker, windows="parallel"))
    assert ranker.shared == [14, 4, 6, 2]  # eight lists, then the other two
    assert [qid for qid, _ in expected] == [row.qid for row in rows]
    odd = CandidateList(
        qid="odd",
        query=Query(text="red"),
        candidates=[
            Candidate(id="gone", image=bad),
            Candidate(id="text", text="red", image=bad),
            Candidate(id="seen", image=good),
        ],
    )
    blind = CandidateList(qid="blind", query=Query(image=bad), candidates=odd.candidates)
    found = list(rank_lists([*rows[:3], odd, blind], ranker, windows="parallel", faults=faults))
    assert found[:3] == expected[:3]
    assert found[3] == ("odd", [("text", 1.0), ("seen", 1.0), ("gone", 0.0)])
    assert [docid for docid, _ in found[4][1]] == ["gone", "text", "seen"]
    assert [fault.split(":")[0] for fault in faults] == [
        "candidate gone",
        "candidate text",
        "query blind",
    ]
