"""Wrong arguments to public methods: each is one line that says what is needed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeEmbedding, FakeRanker, text_hits
from llama_index.core.schema import Document, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter
from qdrant_client import AsyncQdrantClient, QdrantClient

from llama_index_rnx import (
    NodeCollection,
    RNXEmbedding,
    RNXError,
    RNXRerank,
    RNXRetriever,
    load_ranker,
)
from llama_index_rnx.candidates import Query
from llama_index_rnx.chat.engine import chat_engine
from llama_index_rnx.chat.extractive import ExtractiveSynthesizer
from llama_index_rnx.collection import Storage

NODE = TextNode(id_="a", text="iron rusts")
HIT = NodeWithScore(node=NODE)


def open_(location: Any = ":memory:", **options: Any) -> NodeCollection:
    return NodeCollection(location, **{"embedding": FakeEmbedding(), **options})


@pytest.fixture
def collection() -> Iterator[NodeCollection]:
    found = open_()
    found.add([NODE])
    yield found
    found.close()


def refused(work: Callable[[], Any], needed: str | None = None) -> None:
    with pytest.raises(RNXError, match=needed) as caught:
        work()
    assert "\n" not in str(caught.value)


def short_line(work: Callable[[], Any]) -> None:
    refused(work)
    with pytest.raises(RNXError) as caught:
        work()
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    "nodes",
    [
        None,
        5,
        "text",
        b"text",
        {"a": NODE},
        NODE,
        HIT,
        ["text"],
        [None],
        [HIT],
        [[NODE]],
        [QueryBundle("a")],
        [NODE, 5],
    ],
    ids=repr,
)
def test_add_takes_nodes(collection: NodeCollection, nodes: Any) -> None:
    refused(lambda: collection.add(nodes), "nodes")
    assert len(collection) == 1


def test_add_says_how_to_take_the_nodes_out_of_hits(collection: NodeCollection) -> None:
    refused(lambda: collection.add([HIT]), r"\[hit\.node for hit in hits\]")  # type: ignore[list-item]


def test_add_takes_any_iterable(collection: NodeCollection) -> None:
    assert collection.add(TextNode(id_=name, text=name) for name in "bc") == 2
    assert collection.add((Document(text="d"),)) == 1
    assert collection.add(()) == 0


@pytest.mark.parametrize("node_ids", [None, 5, "a", b"a", NODE, [5], [None], [NODE]], ids=repr)
def test_delete_and_get_take_ids(collection: NodeCollection, node_ids: Any) -> None:
    refused(lambda: collection.delete(node_ids), "node_ids")
    refused(lambda: collection.get(node_ids), "node_ids")
    assert [node.node_id for node in collection.get(iter(["a"]))] == ["a"]


@pytest.mark.parametrize(
    "query",
    ["iron", None, QueryBundle("iron"), Query(), Query(text=" "), Query(text=5), Query(image="x")],
    ids=repr,
)  # type: ignore[arg-type]
def test_search_takes_a_query(collection: NodeCollection, query: Any) -> None:
    refused(lambda: collection.search(query), "query")


@pytest.mark.parametrize("k", [0, -1, "5", None, 1.5, True, [1]])
def test_k_is_a_whole_number_from_1(collection: NodeCollection, k: Any) -> None:
    refused(lambda: collection.search(Query(text="iron"), k=k), "k=")
    refused(lambda: RNXRetriever(collection, top_k=k), "top_k=")
    assert len(collection.search(Query(text="iron"), k=np.int64(2))) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("filters", [{"a": 1}, [], MetadataFilter(key="a", value=1), "a"], ids=repr)
def test_filters_are_metadata_filters(collection: NodeCollection, filters: Any) -> None:
    refused(lambda: collection.search(Query(text="iron"), filters=filters), "MetadataFilters")
    refused(lambda: RNXRetriever(collection, filters=filters), "MetadataFilters")


@pytest.mark.parametrize("query", [None, 5, "", b"iron", QueryBundle("")], ids=repr)
async def test_a_retriever_takes_a_text_or_a_bundle(collection: NodeCollection, query: Any) -> None:
    refused(lambda: RNXRetriever(collection).retrieve(query), "query")
    with pytest.raises(RNXError, match="query"):
        await RNXRetriever(collection).aretrieve(query)


@pytest.mark.parametrize("wrong", [None, ":memory:", FakeEmbedding], ids=repr)
def test_a_retriever_takes_a_collection(wrong: Any) -> None:
    refused(lambda: RNXRetriever(wrong), "NodeCollection")


# Names of folders that no system can have.
FOLDERS = [
    "x" * 5_000,
    "x/" * 5_000,
    "half \ud800",
    "~nobody-of-that-name/index",
]


@pytest.mark.parametrize(
    "location",
    [
        None,
        5,
        b"x",
        {},
        [],
        [5],
        object(),
        "ftp://a",
        "http://",
        "http://[::1",
        "http://a:99999",
        "a\0b",
        "localhost:6333",
        *FOLDERS,
    ],
)
def test_a_location_is_a_folder_a_url_or_a_client(
    location: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(lambda: open_(location))
    assert list(tmp_path.iterdir()) == []


def test_an_async_client_is_none() -> None:
    refused(
        lambda: open_(AsyncQdrantClient(":memory:")), "AsyncQdrantClient; a QdrantClient is needed"
    )


@pytest.mark.parametrize(
    "options",
    [
        {"name": 5},
        {"name": ""},
        {"name": "a\ud800"},
        {"embedding": "rnx-mini"},
        {"embedding": FakeEmbedding},
        {"ranker": "rnx-mini"},
        {"ranker": FakeRanker},
        {"memory_path": 5},
        {"storage": {}},
    ],
    ids=str,
)
def test_options_of_a_collection(options: dict[str, Any]) -> None:
    refused(lambda: open_(**options))


def test_after_close_every_method_says_so(collection: NodeCollection) -> None:
    collection.close()
    works: list[Callable[[], Any]] = [
        lambda: len(collection),
        lambda: collection.add([NODE]),
        lambda: collection.add([TextNode(text="new")]),
        lambda: collection.get(["a"]),
        lambda: collection.delete(["a"]),
        lambda: collection.search(Query(text="iron")),
        lambda: collection.paths(),
        lambda: RNXRetriever(collection).retrieve("iron"),
    ]
    for work in works:
        refused(work, "was closed; open it again")


def test_a_client_that_its_owner_closed() -> None:
    client = QdrantClient(":memory:")
    collection = open_(client)
    collection.add([NODE])
    client.close()
    refused(lambda: len(collection), "was closed")
    refused(lambda: collection.add([TextNode(text="new")]), "was closed")


@pytest.mark.parametrize(
    "options",
    [
        {"top_n": 0},
        {"top_n": "x"},
        {"model": None},
        {"window": 0},
        {"windows": "x"},
        {"on_error": "x"},
        {"nope": 1},
        {"min_score": "x"},
        {"prompts": 5},
        {"top_n": 0, "window": 0, "stride": "x"},
    ],
    ids=str,
)
def test_fields_of_a_reranker(options: dict[str, Any]) -> None:
    refused(lambda: RNXRerank(**options), f"RNXRerank: {next(iter(options))}=")


@pytest.mark.parametrize("nodes", [None, "a", NODE, HIT, [NODE], [None], ["a"]], ids=repr)
def test_a_reranker_takes_hits(nodes: Any) -> None:
    refused(
        lambda: RNXRerank(ranker=FakeRanker()).postprocess_nodes(nodes, query_str="iron"),
        "NodeWithScore",
    )


def test_a_reranker_takes_a_query() -> None:
    refused(
        lambda: RNXRerank(ranker=FakeRanker()).postprocess_nodes(text_hits("a"), query_str=5),
        "query",
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"model_name": 5}, {"device": 5}, {"embed_batch_size": 0}], ids=str
)
def test_fields_of_an_embedding(options: dict[str, Any]) -> None:
    refused(lambda: RNXEmbedding(**options), "RNXEmbedding: ")


@pytest.mark.parametrize(
    "model", [None, 5, "", "nope", ["a"], "http://", "http://[::1", "http://a:99999"], ids=repr
)
def test_the_name_of_a_ranker(model: Any) -> None:
    refused(lambda: load_ranker(model), "model")


@pytest.mark.parametrize(
    "options",
    [
        {"shards": "2"},
        {"shards": True},
        {"shards": 1.5},
        {"timeout": None},
        {"retries": -1},
        {"oversampling": float("nan")},
        {"quantization": 5},
        {"metadata_indexes": ["year"]},
        {"metadata_indexes": None},
        {"metadata_indexes": {5: "integer"}},
        {"metadata_indexes": {"year": []}},
    ],
    ids=str,
)
def test_settings_of_a_storage(options: dict[str, Any]) -> None:
    refused(lambda: Storage(**options), next(iter(options)))


# --- odd values: each is one short line, whatever the value says of itself


class Lines:
    """As an array or a data frame: its `repr` has many lines."""

    def __repr__(self) -> str:
        return "first\n    second " + "x" * 100_000


class Silent:
    def __repr__(self) -> str:
        raise RuntimeError("this has no repr")


ODD: dict[str, Any] = {
    "digits": 10**5_000,
    "bytes": b"x",
    "mixed": ["a", None],
    "mapping": {"a": 1},
    "array": np.ones((2, 2)),
    "lines": Lines(),
    "silent": Silent(),
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_no_value_makes_more_than_one_short_line(collection: NodeCollection, value: Any) -> None:
    retriever, reranker = RNXRetriever(collection), RNXRerank(ranker=FakeRanker())
    works: list[Callable[[], Any]] = [
        lambda: RNXRetriever(value),
        lambda: RNXRetriever(collection, callback_manager=value),
        lambda: retriever.retrieve(value),
        lambda: retriever.retrieve(QueryBundle("iron", image_path=value)),
        lambda: collection.search(value),
        lambda: open_(storage=value),
        lambda: open_(ranker=value),
        lambda: Storage(quantization=value),
        lambda: Storage(metadata_indexes={"year": value}),
        lambda: reranker.postprocess_many(value),
        lambda: reranker.postprocess_many([value]),
        lambda: reranker.postprocess_many([(QueryBundle("iron"), value)]),
        lambda: RNXRerank(windows=value),
        lambda: RNXRerank(callback_manager=value),
        lambda: RNXEmbedding(callback_manager=value),
        lambda: RNXEmbedding().get_query_embedding(value),
        lambda: RNXEmbedding().get_text_embedding_batch([value]),
        lambda: ExtractiveSynthesizer().synthesize(value, []),
        lambda: ExtractiveSynthesizer().synthesize("iron", [value]),
        lambda: ExtractiveSynthesizer().get_response("iron", [value]),
        lambda: chat_engine(value, None),
        lambda: chat_engine(retriever, value),
        lambda: chat_engine(retriever, None, value),
    ]
    for work in works:
        short_line(work)


@pytest.mark.parametrize(
    "value",
    [None, 5, object(), Lines(), Silent(), TextNode(text="a")],
    ids=lambda one: type(one).__name__,
)
def test_no_list_is_a_list(value: Any) -> None:
    embedding = RNXEmbedding()
    works: list[Callable[[], Any]] = [
        lambda: embedding.get_text_embedding_batch(value),
        lambda: embedding.get_image_embedding_batch(value),
        lambda: embedding.get_agg_embedding_from_queries(value),
        lambda: RNXRerank(ranker=FakeRanker()).postprocess_many(value),
        lambda: ExtractiveSynthesizer().synthesize("iron", value),
        lambda: ExtractiveSynthesizer().get_response("iron", value),
    ]
    for work in works:
        short_line(work)


async def test_a_text_in_place_of_a_list_is_no_list_of_letters() -> None:
    embedding = RNXEmbedding()
    refused(lambda: embedding.get_text_embedding_batch("iron"), "list of texts")  # type: ignore[arg-type]
    refused(lambda: embedding.get_agg_embedding_from_queries("iron"), "list of texts")  # type: ignore[arg-type]
    refused(lambda: embedding.get_image_embedding_batch("a.png"), "list of images")  # type: ignore[arg-type]
    refused(lambda: embedding.get_image_embedding_batch(BytesIO(b"x")), "list of images")  # type: ignore[arg-type]
    with pytest.raises(RNXError, match="list of texts"):
        await embedding.aget_text_embedding_batch("iron")  # type: ignore[arg-type]
    with pytest.raises(RNXError, match="list of images"):
        await embedding.aget_image_embedding_batch("a.png")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "texts",
    [5, 1.5, object(), [None], ["iron", None], [["iron"]], Silent()],
    ids=lambda one: type(one).__name__,
)
def test_texts_to_embed_in_place_of_the_question(collection: NodeCollection, texts: Any) -> None:
    bundle = QueryBundle("iron", custom_embedding_strs=texts)
    refused(lambda: RNXRetriever(collection).retrieve(bundle), "custom_embedding_strs")
    refused(
        lambda: collection.search(Query(text="iron", dense_texts=texts)), "custom_embedding_strs"
    )


@pytest.mark.parametrize(
    "vector",
    [5, object(), "iron", ["a"], [float("nan")], [0.0], Silent()],
    ids=lambda one: type(one).__name__,
)
def test_a_vector_in_place_of_the_question(collection: NodeCollection, vector: Any) -> None:
    refused(lambda: collection.search(Query(text="iron", dense_vector=vector)), "embedding")


def test_arrays_are_lists_of_texts_and_of_numbers(collection: NodeCollection) -> None:
    size = len(FakeEmbedding().get_query_embedding("iron"))
    for query in (
        Query(dense_texts=np.array(["iron", "rust"])),  # type: ignore[arg-type]
        Query(dense_vector=np.ones(size)),  # type: ignore[arg-type]
    ):
        assert len(collection.search(query)) == 1


# LlamaIndex leaves the connection of its memory open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "message",
    [None, 5, "", " ", b"iron", ["iron"], QueryBundle("iron"), Lines()],
    ids=lambda one: type(one).__name__,
)
async def test_a_conversation_takes_a_text(collection: NodeCollection, message: Any) -> None:
    engine = chat_engine(RNXRetriever(collection), None, extractor=FakeRanker())
    for work in (engine.chat, engine.stream_chat, lambda text: list(engine.turn(text))):
        refused(lambda work=work: work(message), "question")
    for later in (engine.achat, engine.astream_chat):
        with pytest.raises(RNXError, match="question"):
            await later(message)
    assert engine.chat_history == []


def test_no_callback_manager_is_an_empty_one(collection: NodeCollection) -> None:
    """LlamaIndex's own classes take None, too."""
    reranker = RNXRerank(ranker=FakeRanker(), callback_manager=None)
    assert len(reranker.postprocess_nodes(text_hits("a"), query_str="iron")) == 1
    assert len(RNXRetriever(collection, callback_manager=None).retrieve("iron")) == 1


@pytest.mark.parametrize("path", ["a\0b", "half \ud800"], ids=ascii)
def test_a_memory_path_that_is_none(path: str) -> None:
    refused(lambda: open_(memory_path=path), "memory_path")


@pytest.mark.parametrize("device", [1.5, object(), "x" * 10_000], ids=["number", "object", "long"])
def test_a_device_is_a_name(device: Any) -> None:
    short_line(lambda: load_ranker("rnx-mini", device=device))
    short_line(lambda: load_ranker("rnx-mini", dtype=device))


def test_torchs_own_names_of_devices_and_types() -> None:
    assert (
        load_ranker("rnx-mini", device=torch.device("cpu"), dtype=torch.float32).name == "rnx-mini"
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x" * 5_000, "x/" * 3_000, "a\0b"], ids=["long", "deep", "zero"])
def test_the_name_of_a_model_that_no_folder_can_have(name: str) -> None:
    short_line(lambda: load_ranker(name))


def test_a_message_is_one_line_and_no_longer_than_a_screen() -> None:
    assert str(RNXError("one\n    two\r\nthree  four")) == "one two three  four"
    assert len(str(RNXError("x" * 1_000_000))) <= 2_000
    assert str(pickle.loads(pickle.dumps(RNXError("one\ntwo")))) == "one two"
