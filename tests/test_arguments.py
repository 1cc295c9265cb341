"""Wrong arguments to public methods: each is one line that says what is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEmbedding, FakeRanker, text_hits
from llama_index.core.schema import Document, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter
from qdrant_client import AsyncQdrantClient, QdrantClient

from llama_index_rnx import NodeCollection, RNXEmbedding, RNXError, RNXRerank, RNXRetriever, load_ranker
from llama_index_rnx.candidates import Query
from llama_index_rnx.storage import Storage

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


@pytest.mark.parametrize(
    "nodes",
    [None, 5, "text", b"text", {"a": NODE}, NODE, HIT, ["text"], [None], [HIT], [[NODE]], [QueryBundle("a")], [NODE, 5]],
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
    "query", ["iron", None, QueryBundle("iron"), Query(), Query(text=" "), Query(text=5), Query(image="x")], ids=repr
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


@pytest.mark.parametrize(
    "location",
    [None, 5, b"x", {}, [], [5], object(), "ftp://a", "http://", "http://[::1", "http://a:99999", "a\0b", "localhost:6333"],
)
def test_a_location_is_a_folder_a_url_or_a_client(location: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(lambda: open_(location))
    assert list(tmp_path.iterdir()) == []


def test_an_async_client_is_none() -> None:
    refused(lambda: open_(AsyncQdrantClient(":memory:")), "AsyncQdrantClient; a QdrantClient is needed")


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
    refused(lambda: RNXRerank(ranker=FakeRanker()).postprocess_nodes(nodes, query_str="iron"), "NodeWithScore")


def test_a_reranker_takes_a_query() -> None:
    refused(lambda: RNXRerank(ranker=FakeRanker()).postprocess_nodes(text_hits("a"), query_str=5), "query")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"model_name": 5}, {"device": 5}, {"embed_batch_size": 0}], ids=str)
def test_fields_of_an_embedding(options: dict[str, Any]) -> None:
    refused(lambda: RNXEmbedding(**options), "RNXEmbedding: ")


@pytest.mark.parametrize("model", [None, 5, "", "nope", ["a"], "http://", "http://[::1", "http://a:99999"], ids=repr)
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
