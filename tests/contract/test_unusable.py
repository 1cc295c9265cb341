"""One unusable node does not cost the list: each is ranked by what is left of it, last where
nothing is.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Rnx
from fakes import (
    BLUE,
    GREEN,
    RED,
    BrokenRanker,
    FakeRanker,
    SharingRanker,
    image_base64,
    text_hits,
    write_image,
    write_pdf,
)
from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    MediaResource,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)

from llama_index_rnx import NodeCollection, RNXError, RNXRerank, RNXRetriever
from llama_index_rnx.candidates import Candidate, Query, file_source, usable_candidate
from llama_index_rnx.errors import ImageError
from llama_index_rnx.ingestion import index_paths
from llama_index_rnx.memory import RAM, MemoryStore
from llama_index_rnx.rankers.mini import MiniRanker
from llama_index_rnx.ranking import rank
from llama_index_rnx.results import compare, why


class RefusingNode(TextNode):
    """A node class of somebody else's, whose text cannot be had."""

    def get_content(self, metadata_mode: Any = None) -> str:
        raise NotImplementedError("no content\nhere")


def page_node(folder: Path, text: str = "") -> BaseNode:
    from llama_index_rnx.candidates import PageNode

    return PageNode(
        id_="odd", text=text, pdf_path=str(write_pdf(folder / "a.pdf", ["one"])), page=7
    )


GONE = "/gone/x.png"
TRUNCATED = image_base64(RED, size=(64, 64))[:80]
HOLLOW: dict[str, Callable[[Path], Any]] = {
    "blank text": lambda _: TextNode(id_="odd", text=" \n\t"),
    "empty text": lambda _: TextNode(id_="odd", text=""),
    "text of nothing to see": lambda _: TextNode(
        id_="odd", text="\ufeff \u200b\u00ad\0\x01 \u00a0"
    ),
    "template without a field": lambda _: TextNode(
        id_="odd", text="apple", metadata={"a": 1}, metadata_template="{nope}"
    ),
    "metadata alone": lambda _: TextNode(id_="odd", text="", metadata={"title": "Head"}),
    "empty node": lambda _: Node(id_="odd"),
    "no text at all": lambda _: TextNode.model_construct(id_="odd", text=None),
    "gone": lambda _: ImageNode(id_="odd", image_path=GONE),
    "gone, as a resource": lambda _: Node(id_="odd", image_resource=MediaResource(path=Path(GONE))),
    "folder": lambda folder: ImageNode(id_="odd", image_path=str(folder)),
    "empty file": lambda folder: ImageNode(
        id_="odd", image_path=str(_written(folder / "empty.png", b""))
    ),
    "no picture": lambda folder: ImageNode(
        id_="odd", image_path=str(_written(folder / "text.png", b"hello"))
    ),
    "truncated": lambda _: ImageNode(id_="odd", image=TRUNCATED),
    "not base64": lambda _: ImageNode(id_="odd", image="!?"),
    "broken data URI": lambda _: ImageNode(id_="odd", image_url="data:image/png;base64,AAAA"),
    "URL not allowed": lambda _: ImageNode(id_="odd", image_url="http://127.0.0.1:1/a.png"),
    "no URL of a file": lambda _: ImageNode(id_="odd", image_url="file://[/a"),
    "page that cannot be drawn": page_node,
    "picture of another type": lambda _: ImageNode.model_construct(id_="odd", text="", image=7),
    "foreign class": lambda _: RefusingNode(id_="odd", text="apple"),
    "nothing": lambda _: None,
    "a string": lambda _: "apple",
    "a dictionary": lambda _: {"text": "apple"},
}


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def found(hits: Sequence[NodeWithScore]) -> list[tuple[str, float | None]]:
    return [(getattr(hit.node, "node_id", "odd"), hit.score) for hit in hits]


def reranked(hits: Sequence[Any], query: str = "red apple", **options: Any) -> list[NodeWithScore]:
    reranker = RNXRerank(
        ranker=options.pop("ranker", None) or FakeRanker(), **{"top_n": 99, **options}
    )
    return reranker.postprocess_nodes(list(hits), query_str=query)


def wrapped(node: Any) -> Any:
    return (
        NodeWithScore(node=node, score=0.9)
        if isinstance(node, BaseNode)
        else NodeWithScore.model_construct(node=node)
    )


# --- RNXRerank


@pytest.mark.parametrize("case", HOLLOW)
@pytest.mark.parametrize("on_error", ["raise", "keep_order"])
def test_a_node_with_nothing_left_comes_last_with_score_0(
    case: str, on_error: str, tmp_path: Path
) -> None:
    odd = wrapped(HOLLOW[case](tmp_path))
    good = text_hits("a red apple", "nothing here", "red")
    with pytest.warns(RuntimeWarning, match="1 of 4 nodes") as warned:
        best = reranked([odd, *good], on_error=on_error)
    # Other warnings are of objects that are collected meanwhile.
    ours = [one for one in warned if one.category is RuntimeWarning]
    assert len(ours) == 1
    assert "\n" not in str(ours[0].message)
    assert found(best) == [*found(reranked(good)), ("odd", 0.0)]
    assert best[-1] is not odd
    assert best[-1].node is odd.node


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in HOLLOW
        if case not in ("nothing", "a string", "a dictionary", "foreign class")
    ],
)
def test_a_good_text_beside_it_is_what_a_node_is_ranked_by(case: str, tmp_path: Path) -> None:
    odd = HOLLOW[case](tmp_path)
    if not isinstance(odd, ImageNode):
        return
    odd.text = "a red apple"
    hits = [*text_hits("nothing here", "red"), NodeWithScore(node=odd)]
    with pytest.warns(RuntimeWarning, match="1 of 3 nodes"):
        assert found(reranked(hits)) == [("odd", 1.0), ("n1", 0.5), ("n0", 0.0)]


def test_a_url_that_does_not_arrive() -> None:
    far = ImageNode(id_="far", text="apple", image_url="http://127.0.0.1:1/a.png")
    reranker = RNXRerank(ranker=FakeRanker(), allow_urls=True)
    with pytest.warns(RuntimeWarning, match="1 of 2 nodes .*did not arrive"):
        best = reranker.postprocess_nodes(
            [NodeWithScore(node=far), *text_hits("pear")], query_str="apple"
        )
    assert found(best) == [("far", 1.0), ("n0", 0.0)]


def test_min_score_drops_it_and_the_retrieval_score_is_kept_like_that_of_any_node() -> None:
    hits = [
        NodeWithScore(node=ImageNode(id_="odd", image_path=GONE), score=0.9),
        *text_hits("apple"),
    ]
    with pytest.warns(RuntimeWarning):
        assert found(reranked(hits, min_score=0.1)) == [("n0", 0.5)]
    with pytest.warns(RuntimeWarning):
        best = reranked(hits, keep_retrieval_score=True)
    assert best[1].node.metadata["retrieval_score"] == 0.9
    assert "retrieval_score" not in hits[0].node.metadata


def test_several_keep_the_given_order_and_one_warning_counts_them() -> None:
    odd = [NodeWithScore(node=TextNode(id_=name, text=" "), score=1.0) for name in "zax"]
    with pytest.warns(
        RuntimeWarning, match=r"3 of 4 nodes .*node 'z' holds neither.*\(and 2 more\)$"
    ) as warned:
        best = reranked([*odd, *text_hits("apple")])
    assert [name for name, _ in found(best)] == ["n0", "z", "a", "x"]
    assert len(warned) == 1


def test_a_list_of_nothing_else_loads_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_index_rnx.rerank.load_ranker", None)
    with pytest.warns(RuntimeWarning, match="2 of 2 nodes"):
        best = RNXRerank().postprocess_nodes(
            [wrapped(TextNode(id_=name, text="")) for name in "ab"], query_str="apple"
        )
    assert found(best) == [("a", 0.0), ("b", 0.0)]


@pytest.mark.parametrize("windows", ["sliding", "parallel"])
def test_it_takes_no_place_in_windows(windows: str) -> None:
    good = text_hits(*(f"{'red ' * (i % 3)}apple {i}" for i in range(50)))
    odd = [
        NodeWithScore(node=ImageNode(id_=f"odd{i}", image_path=f"/gone/{i}.png")) for i in range(30)
    ]
    mixed = [hit for i in range(50) for hit in [*odd[i : i + 1], good[i]]]
    with_odd, alone = SharingRanker(), SharingRanker()
    expected = reranked(good, ranker=alone, windows=windows)
    with pytest.warns(RuntimeWarning, match="30 of 80 nodes"):
        best = reranked(mixed, ranker=with_odd, windows=windows)
    assert found(best)[:50] == found(expected)
    assert [name for name, _ in found(best)[50:]] == [hit.node_id for hit in odd]
    assert (with_odd.reads, with_odd.shared) == (alone.reads, alone.shared)


def test_it_comes_last_beside_scores_below_0() -> None:
    class Logits(FakeRanker):
        def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
            return [score - 5 for score in super().score(query, memories)]

    with pytest.warns(RuntimeWarning):
        best = reranked(
            [wrapped(TextNode(id_="odd", text="")), *text_hits("apple", "red apple")],
            ranker=Logits(),
        )
    assert found(best) == [("n1", -4.0), ("n0", -4.5), ("odd", -4.5)]


def test_lists_of_a_batch_share_one_warning() -> None:
    asks = [
        (QueryBundle("apple"), [wrapped(TextNode(id_="odd", text="")), *text_hits("pear", "apple")])
        for _ in range(3)
    ]
    with pytest.warns(RuntimeWarning, match="3 of 9 nodes") as warned:
        lists = RNXRerank(ranker=SharingRanker()).postprocess_many(asks)
    assert [found(hits) for hits in lists] == [[("n1", 1.0), ("n0", 0.0), ("odd", 0.0)]] * 3
    assert len(warned) == 1


async def test_async_equals_sync() -> None:
    hits = [wrapped(TextNode(id_="odd", text="")), *text_hits("apple")]
    with pytest.warns(RuntimeWarning, match="1 of 2 nodes"):
        best = await RNXRerank(ranker=FakeRanker()).apostprocess_nodes(hits, query_str="apple")
    assert found(best) == [("n0", 1.0), ("odd", 0.0)]


def test_nothing_of_the_caller_is_changed() -> None:
    hits = [
        NodeWithScore(node=ImageNode(id_="odd", text="apple", image_path=GONE), score=0.9),
        *text_hits("apple"),
    ]
    before = [copy.deepcopy(hit.to_dict()) for hit in hits]
    with pytest.warns(RuntimeWarning):
        reranked(hits)
    assert [hit.to_dict() for hit in hits] == before


# --- what is still an error


def test_a_fault_of_the_model_is_no_fault_of_a_node() -> None:
    hits = [wrapped(TextNode(id_="odd", text="")), *text_hits("apple")]
    with pytest.raises(RuntimeError, match="broke"):
        reranked(hits, ranker=BrokenRanker())

    class Full(FakeRanker):
        def remember(self, candidates: Sequence[Candidate]) -> list[Any]:
            raise RNXError("out of memory on one picture; lower max_pixels.")

    with pytest.raises(RNXError, match="out of memory"):
        reranked(hits, ranker=Full())
    reranker = RNXRerank(ranker=Full(), on_error="keep_order")
    assert found(reranker.postprocess_nodes(hits, query_str="apple")) == [("odd", 0.9), ("n0", 1.0)]
    assert reranker.failures == 1


@pytest.mark.parametrize("on_error", ["raise", "keep_order"])
def test_a_query_picture_that_cannot_be_read_is_an_error(on_error: str) -> None:
    with pytest.raises(ImageError, match=r"x\.png.*not there"):
        RNXRerank(ranker=FakeRanker(), on_error=on_error).postprocess_nodes(
            text_hits("apple"), QueryBundle("red", image_path=GONE)
        )


# --- what it costs


class CountingRanker(FakeRanker):
    """Counts how often each candidate is prepared; `refused` names what it cannot take although it
    opens.
    """

    def __init__(self, refused: Sequence[str] = ()) -> None:
        super().__init__()
        self.tried: list[str] = []
        self.refused = refused

    def remember(self, candidates: Sequence[Candidate]) -> list[Any]:
        self.tried += [candidate.id for candidate in candidates]
        if any(candidate.id in self.refused and candidate.image for candidate in candidates):
            raise ImageError("the shape does not suit")
        return super().remember(candidates)


def test_a_broken_picture_does_not_have_the_others_prepared_again_and_again() -> None:
    good = [Candidate(id=f"good{i}", text=f"apple {i}") for i in range(60)]
    broken = [Candidate(id=f"bad{i}", image=file_source(f"/gone/{i}.png")) for i in range(4)]
    ranker, store = CountingRanker(), MemoryStore()
    ranking = rank(ranker, store, Query(text="apple"), [*broken, *good])
    assert ranking.order[-4:] == [0, 1, 2, 3]
    assert set(ranking.faults) == {0, 1, 2, 3}
    assert max(ranker.tried.count(one.id) for one in good) <= 2
    tried = len(ranker.tried)
    assert rank(ranker, store, Query(text="apple"), [*broken, *good]) == ranking
    assert set(ranker.tried[tried:]) <= {one.id for one in broken}  # the good ones are remembered


def test_a_picture_that_opens_and_does_not_suit_the_ranker_costs_itself_alone() -> None:
    from llama_index_rnx.candidates import pil_source

    colours = [RED, GREEN, BLUE] * 11
    from PIL import Image

    candidates = [
        Candidate(id=str(i), image=pil_source(Image.new("RGB", (9, 9 + i), colour)))
        for i, colour in enumerate(colours)
    ]
    ranker = CountingRanker(refused=["7"])
    ranking = rank(ranker, MemoryStore(), Query(text="red"), candidates)
    assert ranking.order[-1] == 7
    assert ranking.faults == {7: "the shape does not suit"}
    assert max(ranker.tried.count(one.id) for one in candidates) <= 8


def test_a_lost_picture_is_looked_for_again(tmp_path: Path) -> None:
    node = ImageNode(id_="both", text="apple", image_path=str(tmp_path / "red.png"))
    reranker = RNXRerank(ranker=FakeRanker(), memory_path=str(tmp_path / "memories"))
    for _ in range(2):
        with pytest.warns(RuntimeWarning):
            assert found(
                reranker.postprocess_nodes([NodeWithScore(node=node)], query_str="red apple")
            ) == [("both", 0.5)]
    write_image(tmp_path / "red.png", RED)
    assert found(reranker.postprocess_nodes([NodeWithScore(node=node)], query_str="red apple")) == [
        ("both", 1.0)
    ]


# --- the other doors


def test_odd_texts_and_the_shipped_model(mini: MiniRanker) -> None:
    invisible = ["\u200b", "\ufeff", "\x00", "\u00ad", "\u2028", "\U000e0001"]
    texts = [*invisible, "\ud800", "...", "\u0301", "\ue000"]
    hits = [
        *text_hits("Bees make honey."),
        *(NodeWithScore(node=TextNode(id_=repr(text), text=text)) for text in texts),
    ]
    with pytest.warns(RuntimeWarning, match=f"{len(invisible)} of {len(hits)} nodes"):
        best = found(reranked(hits, "what do bees make?", ranker=mini))
    assert best[0][0] == "n0"
    assert sorted(name for name, _ in best) == sorted(hit.node_id for hit in hits)
    assert best[-len(invisible) :] == [(repr(text), 0.0) for text in invisible]
    alone = found(
        reranked(
            [hit for hit in hits if hit.node_id not in map(repr, invisible)],
            "what do bees make?",
            ranker=mini,
        )
    )
    assert best[: -len(invisible)] == alone


def test_a_file_deleted_after_indexing(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("Iron turns to rust in wet air.")
    write_image(docs / "red.png")
    collection = NodeCollection(":memory:", memory_path=tmp_path / "memories")
    index_paths(collection, [docs], show_progress=False)
    (docs / "red.png").unlink()
    RAM.clear()
    collection.memories = MemoryStore()  # of another machine, which remembers nothing
    reranker = RNXRerank(model="rnx-mini", memory_path=str(tmp_path / "others"))
    with pytest.warns(RuntimeWarning, match=r"1 of 2 nodes .*red\.png"):
        section = compare(RNXRetriever(collection), reranker, "what rusts?")
    assert [(hit.id, hit.kind) for hit in section.after] == [
        ("a.txt", "text"),
        ("red.png", "image"),
    ]
    assert section.after[1].score == 0.0
    collection.close()


def test_a_hit_of_any_node_can_be_shown(tmp_path: Path) -> None:
    from llama_index_rnx.results import hits_of

    for case in (
        "blank text",
        "gone",
        "not base64",
        "URL not allowed",
        "no URL of a file",
        "page that cannot be drawn",
    ):
        retrieved = [NodeWithScore(node=HOLLOW[case](tmp_path), score=0.5)]
        (hit,) = hits_of(retrieved, retrieved)
        assert hit.kind in ("text", "image")
        json.dumps(hit.to_dict())


def test_why_goes_by_what_is_left() -> None:
    hits = [
        *text_hits("a red apple", "a pear"),
        *(wrapped(TextNode(id_=name, text="")) for name in "ab"),
    ]
    hits.append(NodeWithScore(node=ImageNode(id_="lost", text="red", image_path=GONE)))
    explanation = why(FakeRanker(), "red apple", hits)
    assert explanation.better.score == 1.0
    assert why(FakeRanker(), "red apple", hits, 0, 4).worse.score == 0.5
    with pytest.raises(RNXError, match="nothing of the node at position 2"):
        why(FakeRanker(), "red apple", hits, 0, 2)


def test_a_collection_goes_on_leaving_such_nodes_out(tmp_path: Path) -> None:
    from fakes import FakeEmbedding

    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    cases = [case for case, make in HOLLOW.items() if isinstance(make(tmp_path), BaseNode)]
    nodes = [
        HOLLOW[case](tmp_path)
        for case in cases
        if case not in ("no text at all", "picture of another type")
    ]
    for i, node in enumerate(nodes):
        node.id_ = str(i)
    lost = ImageNode(id_="lost", text="apple", image_path=GONE)
    assert collection.add([*nodes, lost, TextNode(id_="good", text="apple")]) == 1
    assert {skipped.id for skipped in collection.skipped} == {
        "lost",
        *(node.node_id for node in nodes),
    }
    assert all("\n" not in skipped.reason for skipped in collection.skipped)
    collection.close()


def test_a_node_of_no_known_kind_is_left_out() -> None:
    from fakes import FakeEmbedding

    class Strange(BaseNode):
        """Not even a `Node`."""

        @classmethod
        def get_type(cls) -> str:
            return "strange"

        def get_content(self, metadata_mode: Any = None) -> str:
            return "apple"

        def get_content_blocks(self, metadata_mode: Any = None) -> list[Any]:
            return []

        def set_content(self, value: Any) -> None:
            """There is nothing to set."""

        @property
        def hash(self) -> str:
            return "strange"

    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    assert collection.add([Strange(id_="strange"), TextNode(id_="good", text="apple")]) == 1
    assert "Strange, which is no kind of TextNode" in collection.skipped[0].reason
    collection.close()


def test_every_candidate_of_rnx_rerank_comes_out(rnx: Rnx, tmp_path: Path) -> None:
    candidates = [
        {"docid": "gone", "image": "gone.png"},
        {"docid": "captioned", "text": "Bees make honey.", "image": "gone.png"},
        {"docid": "rust", "text": "Rust is iron oxide."},
    ]
    rows = [
        {"qid": str(i), "query": "what do bees make?", "candidates": candidates} for i in range(2)
    ]
    lists = tmp_path / "lists.jsonl"
    lists.write_text("\n".join(map(json.dumps, rows)))
    result = rnx("rerank", lists, "--run", tmp_path / "run.trec")
    assert result.code == 0
    assert result.err.count("not seen:") == 2
    lines = [line.split() for line in (tmp_path / "run.trec").read_text().splitlines()]
    assert [line[2] for line in lines] == ["captioned", "rust", "gone"] * 2
    assert float(lines[2][4]) == 0.0


def test_usable_part_never_raises(tmp_path: Path) -> None:
    for make in HOLLOW.values():
        candidate, fault = usable_candidate(make(tmp_path))
        assert isinstance(candidate, Candidate)
        assert "\n" not in fault
