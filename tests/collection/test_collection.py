"""The collection, with the same tests on embedded Qdrant in memory, in a folder, and on a real
server.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import QdrantServer, free_port
from fakes import BLUE, GREEN, RED, FakeEmbedding, FakeRanker, image_base64, text_hits, write_image
from fakes.places import PLACES, Place, ids, new_name, place_of
from llama_index.core.schema import BaseNode, ImageNode, QueryBundle, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from qdrant_client import QdrantClient, models

from llama_index_rnx import NodeCollection, RNXError, RNXRetriever
from llama_index_rnx.candidates import Query, file_source
from llama_index_rnx.rankers.mini import MiniRanker


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    found = place_of(request.param, request, tmp_path)
    yield found
    found.close_all()


@pytest.fixture(params=PLACES[1:])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    found = place_of(request.param, request, tmp_path)
    yield found
    found.close_all()


def texts(*words: str) -> list[BaseNode]:
    return [hit.node for hit in text_hits(*words)]


def find(collection: NodeCollection, query: str, **options: Any) -> list[str]:
    return ids(collection.search(Query(text=query), **options))


# --- writing


def test_add_is_idempotent_and_says_how_many_it_wrote(place: Place) -> None:
    collection = place.open()
    assert len(collection) == 0
    assert collection.add(texts("one", "two", "three")) == 3
    assert collection.add(texts("one", "two", "three")) == 0
    assert len(collection) == 3
    assert collection.embedding._texts == [
        "place: 0\n\none",
        "place: 1\n\ntwo",
        "place: 2\n\nthree",
    ]  # type: ignore[attr-defined]


def test_a_changed_node_is_replaced(place: Place) -> None:
    collection = place.open()
    collection.add(texts("one", "two"))
    changed = texts("one", "zwei")
    assert collection.add(changed) == 1
    assert [node.get_content() for node in collection.get(["n0", "n1"])] == ["one", "zwei"]
    assert len(collection) == 2
    assert find(collection, "zwei", k=1) == ["n1"]


@pytest.mark.parametrize("change", ["metadata", "image", "excluded", "class"])
def test_any_change_counts(place: Place, change: str) -> None:
    collection = place.open()
    before = ImageNode(id_="x", text="words", image=image_base64(RED), metadata={"a": 1})
    options: dict[str, Any] = {
        "id_": "x",
        "text": "words",
        "image": image_base64(RED),
        "metadata": {"a": 1},
    }
    options |= {
        "metadata": {"metadata": {"a": 2}},
        "image": {"image": image_base64(BLUE)},
        "excluded": {"excluded_llm_metadata_keys": ["a"]},
        "class": {},
    }[change]
    after = (
        TextNode(id_="x", text="words", metadata={"a": 1})
        if change == "class"
        else ImageNode(**options)
    )
    assert collection.add([before]) == 1
    assert collection.add([after]) == 1
    assert collection.add([after]) == 0
    (back,) = collection.get(["x"])
    assert back.to_dict() == after.to_dict()
    assert len(collection) == 1


def test_delete_and_get(place: Place) -> None:
    collection = place.open()
    collection.delete(["n0"])  # nothing there yet
    assert collection.get(["n0"]) == []
    collection.add(texts("one", "two", "three"))
    collection.delete(["n1", "unknown"])
    collection.delete([])
    assert len(collection) == 2
    assert ids(collection.get(["n2", "n1", "n0"])) == ["n2", "n0"]
    assert "n1" not in find(collection, "two")


def test_more_nodes_than_one_batch(place: Place) -> None:
    collection = place.open()
    many = texts(*[f"word{i} text" for i in range(150)])
    assert collection.add(many) == 150
    assert len(collection) == 150
    assert find(collection, "word77", k=1) == ["n77"]
    assert len(find(collection, "text", k=120)) == 120


def test_equal_nodes_with_one_id_are_written_once_different_ones_refused(place: Place) -> None:
    collection = place.open()
    one, same, other = (TextNode(id_="x", text=text) for text in ("a", "a", "b"))
    assert collection.add([one, same, *texts("c")]) == 2
    with pytest.raises(RNXError, match="two different nodes have the id 'x'"):
        collection.add([*texts("d", "e"), one, other])
    assert len(collection) == 2  # nothing of the refused list was written


def test_nodes_with_one_id_that_differ_in_their_metadata_are_refused(place: Place) -> None:
    collection = place.open()
    with pytest.raises(RNXError, match="two different nodes"):
        collection.add(
            [
                TextNode(id_="x", text="a", metadata={"page": 1}),
                TextNode(id_="x", text="a", metadata={"page": 2}),
            ]
        )


def test_bad_nodes_are_listed_and_the_rest_is_written(place: Place, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "empty.png").touch()
    bad = [
        TextNode(id_="hollow", text=" "),
        ImageNode(id_="broken", image_path=str(tmp_path / "broken.png"), text="text too"),
        ImageNode(id_="empty", image_path=str(tmp_path / "empty.png")),
        ImageNode(id_="gone", image_path=str(tmp_path / "gone.png")),
        ImageNode(id_="odd", image="%%%"),
        ImageNode(id_="far", image_url="http://127.0.0.1:1/a.png"),
    ]
    good = [*texts(*"abcdefghij"), ImageNode(id_="picture", image=image_base64())]
    mixed = [*good[:3], *bad[:3], *good[3:7], *bad[3:], *good[7:]]
    collection = place.open()
    assert collection.add(mixed) == 11
    assert {skipped.id for skipped in collection.skipped} == {node.node_id for node in bad}
    assert all(
        "\n" not in skipped.reason and len(skipped.reason) > 20 for skipped in collection.skipped
    )
    assert ids(collection.get([node.node_id for node in mixed])) == [
        n.node_id for n in mixed if n in good
    ]
    collection.add(texts("k"))
    assert collection.skipped == []  # of the last call


def test_an_empty_list(place: Place) -> None:
    collection = place.open()
    assert collection.add([]) == 0
    assert len(collection) == 0
    assert find(collection, "anything") == []


def test_large_inline_pictures(place: Place) -> None:
    """A server takes 32 MiB at once; five photographs as base64 are more."""
    collection = place.open()
    nodes = [
        ImageNode(id_=f"p{i}", image=image_base64((i, 0, 0), size=(1600, 1200), format="BMP"))
        for i in range(6)
    ]
    assert collection.add(nodes) == 6  # type: ignore[arg-type]
    assert collection.get(["p5"])[0].image == nodes[5].image  # type: ignore[attr-defined]


# --- searching


def test_dense_finds_what_shares_no_stem(place: Place) -> None:
    class Synonyms(FakeEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return super()._get_query_embedding(query.replace("automobile", "car"))

    collection = place.open(embedding=Synonyms())
    collection.add(texts("apple pie", "a car", "plum"))
    assert find(collection, "automobile", k=1) == ["n1"]


def test_bm25_finds_a_word_that_dense_does_not_see(place: Place) -> None:
    class Blind(FakeEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return [1.0] * 1_024

        def _get_text_embedding(self, text: str) -> list[float]:
            return [1.0] * 1_024

    collection = place.open(embedding=Blind())
    collection.add(texts(*[f"common word number{i}" for i in range(20)], "the walrus sings"))
    assert find(collection, "singing walruses", k=1) == ["n20"]  # by their stems


def test_texts_and_images_in_one_list(place: Place) -> None:
    collection = place.open()
    collection.add(
        [
            TextNode(id_="text", text="a red thing"),
            TextNode(id_="other", text="weather report"),
            ImageNode(id_="image", image=image_base64(RED)),
            ImageNode(id_="blue", image=image_base64(BLUE)),
            ImageNode(id_="both", image=image_base64(RED), text="red"),
        ]
    )
    found = find(collection, "red")
    assert found[0] == "both"  # first in both kinds
    assert set(found[:3]) == {"both", "image", "text"}
    assert set(found) == {"text", "other", "image", "blue", "both"}


def test_scores_are_those_of_reciprocal_rank_fusion(place: Place) -> None:
    collection = place.open()
    collection.add(texts("red apple", "green pear", "blue plum"))
    hits = collection.search(Query(text="red apple"))
    scores = [hit.score for hit in hits]
    assert hits[0].node_id == "n0"
    assert all(type(score) is float and score > 0 for score in scores)
    assert scores == sorted(scores, reverse=True)
    # The scores are those of the texts of nodes.
    assert scores == pytest.approx([1 / 60, 1 / 61, 1 / 62][: len(scores)], rel=0.05)


def test_k_is_what_comes_out_at_most(place: Place) -> None:
    collection = place.open()
    collection.add(
        [
            *texts(*["same words"] * 10),
            *[ImageNode(id_=f"i{i}", image=image_base64((200, i, i))) for i in range(10)],
        ]
    )
    for k in (1, 7, 20, 50):
        assert len(find(collection, "red same", k=k)) == min(k, 20)


def test_a_small_k_is_the_head_of_a_large_one(place: Place) -> None:
    collection = place.open()
    collection.add(
        texts(*[f"red {' '.join('abcdefghijklmnop'[i:])} {'pear ' * (i % 4)}" for i in range(16)])
    )
    everything = find(collection, "red pear f", k=16)
    for k in (1, 3, 7):
        assert find(collection, "red pear f", k=k) == everything[:k]


def test_equal_searches_give_equal_lists(place: Place) -> None:
    collection = place.open()
    collection.add(
        texts(*[f"red {word} " + "filler " * place for place, word in enumerate("abcdefgh")])
    )
    first = [(hit.node_id, hit.score) for hit in collection.search(Query(text="red d"))]
    for _ in range(3):
        assert [(hit.node_id, hit.score) for hit in collection.search(Query(text="red d"))] == first


def test_an_image_is_a_query(place: Place, tmp_path: Path) -> None:
    collection = place.open()
    collection.add(
        [
            ImageNode(id_=n, image=image_base64(c))
            for n, c in (("red", RED), ("green", GREEN), ("blue", BLUE))
        ]
    )
    picture = file_source(write_image(tmp_path / "q.png", GREEN))
    assert ids(collection.search(Query(image=picture), k=1)) == ["green"]
    retriever = RNXRetriever(collection, top_k=1)
    assert ids(retriever.retrieve(QueryBundle("", image_path=str(tmp_path / "q.png")))) == ["green"]
    both = collection.search(Query(text="blue", image=picture), k=2)
    assert set(ids(both)) == {"green", "blue"}


@pytest.mark.parametrize(
    "query", ["the of and", "?!...", "蜂蜜", "\U0001f41d", "a\x00b", "x" * 20_000, "' OR 1=1 --"]
)
def test_odd_queries_find_something(place: Place, query: str) -> None:
    collection = place.open()
    collection.add(texts("apple", "pear"))
    assert len(find(collection, query)) == 2


async def test_async_retrieval_equals_sync(place: Place) -> None:
    collection = place.open()
    collection.add(texts(*[f"word{i} red" for i in range(30)]))
    retriever = RNXRetriever(collection, top_k=5)
    single = [ids(retriever.retrieve(f"word{i}")) for i in range(6)]
    assert [
        ids(hits)
        for hits in await asyncio.gather(*[retriever.aretrieve(f"word{i}") for i in range(6)])
    ] == single
    assert single[3][0] == "n3"


def test_an_empty_query_is_refused(place: Place) -> None:
    retriever = RNXRetriever(place.open())
    with pytest.raises(RNXError, match="empty"):
        retriever.retrieve("  ")


def test_an_empty_collection_finds_nothing(place: Place) -> None:
    assert RNXRetriever(place.open()).retrieve("apple") == []


# --- filters

LIBRARY: list[BaseNode] = [
    TextNode(
        id_=name,
        text=f"word {name}",
        metadata=metadata,
        excluded_embed_metadata_keys=list(metadata),
    )
    for name, metadata in {
        "a": {
            "year": 1990,
            "lang": "en",
            "tags": ["x", "y"],
            "mark": 0.5,
            "open": True,
            "title": "Red Apple pie",
            "on": "2020-05-01",
        },
        "b": {
            "year": 2000,
            "lang": "de",
            "tags": ["y"],
            "mark": 1.5,
            "open": False,
            "title": "green apple",
            "on": "2021-05-01",
        },
        "c": {
            "year": 2010,
            "lang": "en",
            "tags": ["z"],
            "mark": 2.5,
            "open": True,
            "title": "blue plum",
            "on": "2022-05-01",
        },
        "d": {"lang": "fr", "deep": {"er": "down"}},
    }.items()
]
OP = FilterOperator
ONE_FILTER: list[tuple[str, Any, FilterOperator, str]] = [
    ("lang", "en", OP.EQ, "ac"),
    ("year", 2000, OP.EQ, "b"),
    ("mark", 0.5, OP.EQ, "a"),
    ("tags", "y", OP.EQ, "ab"),
    ("deep.er", "down", OP.EQ, "d"),
    ("lang", "en", OP.NE, "bd"),
    ("year", 2000, OP.NE, "acd"),
    ("year", 1990, OP.GT, "bc"),
    ("year", 2000, OP.GTE, "bc"),
    ("year", 2000, OP.LT, "a"),
    ("mark", 1.5, OP.LTE, "ab"),
    ("on", "2021-01-01", OP.GTE, "bc"),
    ("on", "2021-01-01", OP.LT, "a"),
    ("lang", ["en", "fr"], OP.IN, "acd"),
    ("year", [1990, 2010], OP.IN, "ac"),
    ("lang", [], OP.IN, ""),
    ("lang", ["en", "fr"], OP.NIN, "b"),
    ("lang", [], OP.NIN, "abcd"),
    ("tags", ["x", "z"], OP.ANY, "ac"),
    ("tags", ["x", "y"], OP.ALL, "a"),
    ("tags", "y", OP.CONTAINS, "ab"),
    ("title", "green", OP.TEXT_MATCH, "b"),
    ("title", "Apple pie", OP.TEXT_MATCH, "a"),
    ("title", "plum", OP.TEXT_MATCH_INSENSITIVE, "c"),
    ("year", None, OP.IS_EMPTY, "d"),
    ("nothing", None, OP.IS_EMPTY, "abcd"),
    ("nothing", "x", OP.EQ, ""),
]


@pytest.fixture(scope="module", params=PLACES)
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodeCollection]:
    place = place_of(request.param, request, tmp_path_factory.mktemp("library"))
    collection = place.open()
    collection.add(LIBRARY)
    yield collection
    place.close_all()


def filtered(
    collection: NodeCollection, *parts: Any, condition: FilterCondition = FilterCondition.AND
) -> str:
    filters = MetadataFilters(filters=list(parts), condition=condition)
    return "".join(sorted(ids(RNXRetriever(collection, filters=filters).retrieve("word"))))


@pytest.mark.parametrize(("key", "value", "operator", "expected"), ONE_FILTER)
def test_every_filter_operator(
    library: NodeCollection, key: str, value: Any, operator: FilterOperator, expected: str
) -> None:
    assert filtered(library, MetadataFilter(key=key, value=value, operator=operator)) == expected


def test_every_operator_of_llama_index_is_tried() -> None:
    assert {operator for *_, operator, _ in ONE_FILTER} == set(FilterOperator)


def test_filters_are_joined_and_nested(library: NodeCollection) -> None:
    english, german = (MetadataFilter(key="lang", value=value) for value in ("en", "de"))
    old, new = (
        MetadataFilter(key="year", value=2000, operator=OP.LT),
        MetadataFilter(key="year", value=2005, operator=OP.GT),
    )
    assert filtered(library) == "abcd"
    assert filtered(library, english, new) == "c"
    assert filtered(library, german, new, condition=FilterCondition.OR) == "bc"
    assert filtered(library, english, old, condition=FilterCondition.NOT) == "bd"
    either = MetadataFilters(filters=[german, old], condition=FilterCondition.OR)
    assert filtered(library, english, either) == "a"
    assert filtered(library, either, condition=FilterCondition.NOT) == "cd"
    assert (
        filtered(
            library,
            MetadataFilters(filters=[either, english]),
            german,
            condition=FilterCondition.OR,
        )
        == "ab"
    )
    assert filtered(library, english, MetadataFilters(filters=[])) == "ac"


@pytest.mark.parametrize(
    ("value", "operator"),
    [("many", OP.GT), (None, OP.EQ), (["a"], OP.GT), ({"a": 1}, OP.EQ)],
    ids=["word", "none", "list", "dict"],
)
def test_a_filter_that_cannot_be_is_one_clear_line(
    library: NodeCollection, value: Any, operator: FilterOperator
) -> None:
    wrong = MetadataFilter.model_construct(key="year", value=value, operator=operator)
    with pytest.raises(RNXError, match="year"):
        filtered(library, wrong)


# --- models and foreign collections


def test_another_model_is_refused(place: Place) -> None:
    if place.kind == "memory":
        place.location = QdrantClient(":memory:")
    place.open().add(texts("one"))
    place.open()
    with pytest.raises(
        RNXError,
        match="made with FakeEmbedding/fake-embedding, the embedding given is FakeEmbedding/other",
    ):
        place.open(embedding=FakeEmbedding(model_name="other"))
    assert len(place.open()) == 1


def test_a_collection_of_somebody_else_is_refused(place: Place) -> None:
    location = place.location
    client = (
        QdrantClient(url=location, check_compatibility=False) if place.kind == "server" else None
    )
    if place.kind == "folder":
        client = QdrantClient(path=str(location))
    elif place.kind == "memory":
        client = place.location = QdrantClient(":memory:")
    assert client is not None
    client.create_collection(
        place.name, vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT)
    )
    if place.kind != "memory":
        client.close()
    with pytest.raises(RNXError, match="not made by this package"):
        place.open()


def test_two_collections_in_one_place_are_apart(place: Place) -> None:
    if place.kind == "memory":
        place.location = QdrantClient(":memory:")
    one, two = place.open(), place.open(name=f"{place.name}-two")
    one.add(texts("one"))
    two.add(texts("two", "three"))
    assert (len(one), len(two)) == (1, 2)
    assert find(one, "two") == ["n0"]


def test_the_model_of_the_package(place: Place, mini: MiniRanker) -> None:
    from llama_index_rnx import RNXEmbedding

    collection = place.open(embedding=RNXEmbedding(dtype="float32"))
    nodes = [
        *texts("Bees make honey in hives.", "Rust is iron oxide."),
        ImageNode(id_="red", image=image_base64(RED)),
    ]
    assert collection.add(nodes) == 3
    assert collection.add(nodes) == 0
    found = find(collection, "what do bees make?")
    assert set(found) == {"n0", "n1", "red"}
    assert [i for i in found if i != "red"] == ["n0", "n1"]
    if place.kind != "memory":
        with pytest.raises(RNXError, match="the embedding given is FakeEmbedding"):
            place.open()


def test_memories_are_made_when_nodes_are_added(place: Place, tmp_path: Path) -> None:
    ranker = FakeRanker()
    collection = place.open(ranker=ranker, memory_path=tmp_path / "memories")
    collection.add([*texts("one", "two"), ImageNode(id_="i", image=image_base64())])
    assert sorted(ranker.remembered) == ["i", "n0", "n1"]
    collection.add(texts("one", "two"))
    assert len(ranker.remembered) == 3


# --- closing, reopening, two at once


def test_it_lasts_over_close_and_reopen(lasting: Place) -> None:
    lasting.open().add([*texts("red apple", "pear"), ImageNode(id_="i", image=image_base64(BLUE))])
    lasting.close_all()
    again = lasting.open()
    assert len(again) == 3
    # The best text and the best image share the first rank.
    assert "n0" in find(again, "red apple", k=2)
    assert again.add(texts("red apple", "pear")) == 0


def test_opened_twice_in_one_process(lasting: Place) -> None:
    one, two = lasting.open(), lasting.open()
    one.add(texts("one"))
    assert len(two) == 1
    two.add(texts("one", "two"))
    assert len(one) == 2
    one.close()
    assert find(two, "two", k=1) == ["n1"]  # the other one still works
    two.close()
    assert len(lasting.open()) == 2


def test_closing_twice_is_no_fault(lasting: Place) -> None:
    collection = lasting.open()
    collection.add(texts("one"))
    collection.close()
    collection.close()


def test_threads_add_and_search_at_once(place: Place) -> None:
    if place.kind == "memory":
        place.location = QdrantClient(":memory:", force_disable_check_same_thread=True)
    one, two = place.open(), place.open()
    one.add(texts("red"))
    faults: list[BaseException] = []

    def guarded(work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as fault:
            faults.append(fault)

    def adds(collection: NodeCollection, mark: str) -> Callable[[], Any]:
        return lambda: [
            collection.add([TextNode(id_=f"{mark}{i}", text=f"red {mark}{i}")]) for i in range(15)
        ]

    work = [adds(one, "x"), adds(two, "y"), *[lambda: [find(two, "red") for _ in range(15)]] * 2]
    threads = [threading.Thread(target=guarded, args=(one_of,)) for one_of in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(one) == 31


HOLDER = """
import sys
from qdrant_client import QdrantClient
client = QdrantClient(path=sys.argv[1])
print("holding", flush=True)
sys.stdin.read()
"""


# qdrant-client leaves its lock file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_folder_in_use_by_another_process(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline().strip() == "holding"
        with pytest.raises(
            RNXError, match="in use by another process; wait for it, or run a Qdrant server"
        ):
            NodeCollection(folder, embedding=FakeEmbedding())
    finally:
        holder.communicate(timeout=30)
    NodeCollection(folder, embedding=FakeEmbedding()).close()  # free again


def test_a_file_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(RNXError, match="is a file"):
        NodeCollection(tmp_path / "file", embedding=FakeEmbedding())


def test_no_place_is_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RNXError, match="no location was given"):
        NodeCollection(" ", embedding=FakeEmbedding())
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_index_is_one_clear_line(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    collection = NodeCollection(folder, embedding=FakeEmbedding())
    collection.add(texts("one"))
    collection.close()
    (settings,) = folder.glob("edge/*/collection.json")
    settings.write_text('{"params": {"vectors"')
    with pytest.raises(RNXError, match=r"collection\.json is damaged"):
        NodeCollection(folder, embedding=FakeEmbedding())


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(
        RNXError, match=r"http://127\.0\.0\.1:\d+ does not answer.*start it, or check the address"
    ):
        NodeCollection(f"http://127.0.0.1:{free_port()}", embedding=FakeEmbedding())
    assert time.monotonic() - start < 10


@pytest.mark.server
def test_a_server_that_dies_between_two_calls(qdrant_server: QdrantServer) -> None:
    collection = NodeCollection(qdrant_server.url, name=new_name(), embedding=FakeEmbedding())
    collection.add(texts("one", "two"))
    qdrant_server.stop()
    try:
        for call in (
            lambda: find(collection, "one"),
            lambda: collection.add(texts("three")),
            lambda: len(collection),
        ):
            start = time.monotonic()
            with pytest.raises(RNXError, match="does not answer"):
                call()
            assert time.monotonic() - start < 10
    finally:
        qdrant_server.start()
    assert find(collection, "two", k=1) == ["n1"]  # as if nothing had been
    assert collection.add(texts("one", "two")) == 0
    collection.close()


@pytest.mark.server
def test_a_collection_that_vanished_from_the_server(qdrant_server: QdrantServer) -> None:
    name = new_name()
    collection = NodeCollection(qdrant_server.url, name=name, embedding=FakeEmbedding())
    collection.add(texts("one"))
    QdrantClient(url=qdrant_server.url, check_compatibility=False).delete_collection(name)
    with pytest.raises(RNXError, match=name):
        find(collection, "one")
    collection.close()


def test_a_picture_is_not_lost_among_many_texts(place: Place, mini: MiniRanker) -> None:
    from llama_index_rnx import RNXEmbedding

    collection = place.open(embedding=RNXEmbedding(dtype="float32"))
    said = [f"a red square was sold on day {i} of the year" for i in range(70)]
    collection.add([*texts(*said), ImageNode(id_="red", image=image_base64(RED))])
    # The query shares no word with the nodes: BM25's ties would be broken by chance.
    found = find(collection, "goods that were auctioned", k=60)
    assert "red" in found  # by its rank among pictures
    assert found[0] != "red"
