"""`copy`, `deepcopy` and `pickle` of a collection, a retriever, an engine and a model give one that
answers alike.
"""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import QdrantServer
from fakes import FakeEmbedding, FakeRanker, text_hits
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import ExactMatchFilter, MetadataFilters
from qdrant_client import QdrantClient

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
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers.mini import MiniRanker

# LlamaIndex leaves event loops open.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

# No two are equally near to a query: the engine orders ties by chance.
TEXTS = [
    "iron turns to rust",
    "bees make honey",
    "rain falls",
    "old iron turns to dark rust",
    "rust is red and brown here",
]
Copier = Callable[[Any], Any]
COPIERS: dict[str, Copier] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda original: pickle.loads(pickle.dumps(original)),
    "pickle of a copy": lambda original: pickle.loads(pickle.dumps(copy.deepcopy(original))),
}
each_copier = pytest.mark.parametrize("copied", COPIERS.values(), ids=COPIERS)


class PlainRanker(FakeRanker):
    """One that can be pickled, as its lock cannot."""

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "window": self.window, "fingerprint": self.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def filled(location: Any = ":memory:", **options: Any) -> NodeCollection:
    collection = NodeCollection(location, **{"embedding": FakeEmbedding(), **options})
    collection.add(
        [TextNode(id_=f"t{i}", text=text, metadata={"odd": i % 2}) for i, text in enumerate(TEXTS)]
    )
    return collection


def scores(collection: NodeCollection) -> list[float | None]:
    """Of equal scores a server, and a folder that is opened again, may order nodes otherwise."""
    return [score for _, score in answers(collection)]


def answers(collection: NodeCollection) -> list[tuple[str, float | None]]:
    return [
        (hit.node_id, hit.score)
        for text in ("iron", "honey")
        for hit in collection.search(Query(text=text))
    ]


# --- collections


@each_copier
def test_a_collection_in_ram_travels_with_its_points(copied: Copier) -> None:
    collection = filled()
    collection.delete(["t2"])
    other = copied(collection)
    assert len(other) == 4
    assert answers(other) == answers(collection)


@pytest.mark.parametrize("name", ["deepcopy", "pickle"])
def test_what_is_done_to_a_deep_copy_is_not_done_to_the_original(name: str) -> None:
    collection = filled()
    other = COPIERS[name](collection)
    other.add([TextNode(id_="new", text="iron and rust")])
    collection.delete(["t0"])
    assert (len(collection), len(other)) == (4, 6)
    collection.close()
    assert other.search(Query(text="iron"))[0].node_id in ("new", "t0")


def test_a_copy_outlives_its_original() -> None:
    collection = filled()
    expected, other = answers(collection), copy.copy(collection)
    collection.close()
    assert answers(other) == expected


def test_an_empty_collection_is_copied_empty() -> None:
    for copied in COPIERS.values():
        other = copied(NodeCollection(":memory:", embedding=FakeEmbedding()))
        assert len(other) == 0
        assert other.add([TextNode(text="rust")]) == 1


@each_copier
def test_a_folder_is_opened_again(copied: Copier, tmp_path: Path) -> None:
    collection = filled(tmp_path / "index")
    other = copied(collection)
    assert answers(other) == answers(collection)
    other.add([TextNode(id_="new", text="snow")])
    assert len(collection) == 6  # one engine a folder and process
    collection.close()
    assert len(other) == 6
    other.close()


def test_a_closed_folder_is_opened_where_the_pickle_arrives(tmp_path: Path) -> None:
    collection = filled(tmp_path / "index")
    expected, data = scores(collection), pickle.dumps(collection)
    collection.close()
    other = pickle.loads(data)
    assert scores(other) == expected
    other.close()


@each_copier
def test_settings_are_kept(copied: Copier, tmp_path: Path) -> None:
    ranker = PlainRanker()
    options = {
        "name": "other",
        "ranker": ranker,
        "memory_path": tmp_path / "memories",
        "allow_urls": True,
    }
    other = copied(filled(**options))
    assert (other.name, other.allow_urls, other.memories.path) == (
        "other",
        True,
        tmp_path / "memories",
    )
    assert other.ranker.fingerprint == ranker.fingerprint
    assert copied(filled(ranker=None)).ranker is None
    assert isinstance(other.embedding, FakeEmbedding)


@each_copier
def test_a_client_of_the_users_in_ram(copied: Copier) -> None:
    client = QdrantClient(":memory:")
    collection = filled(client)
    other = copied(collection)
    assert answers(other) == answers(collection)
    assert (other.location is client) == (copied in (copy.copy, copy.deepcopy))


def test_a_client_of_the_users_in_a_folder_says_that_it_is_in_use(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path / "own"), force_disable_check_same_thread=True)
    collection = filled(client)
    assert answers(copy.deepcopy(collection)) == answers(collection)
    data = pickle.dumps(collection)
    with pytest.raises(RNXError, match="cannot be made again") as refused:
        pickle.loads(data)
    assert "\n" not in str(refused.value)
    del refused
    client.close()
    other = pickle.loads(data)
    assert len(other) == 5
    other.location.close()


def test_a_client_that_cannot_be_pickled_is_said_in_one_line() -> None:
    client = QdrantClient(":memory:")
    client.init_options["auth_token_provider"] = lambda: "token"
    with pytest.raises(RNXError, match=r"cannot be pickled.*give the URL") as refused:
        pickle.dumps(filled(client))
    assert "\n" not in str(refused.value)


@pytest.mark.server
@each_copier
def test_a_server_is_connected_to_again(copied: Copier, qdrant_server: QdrantServer) -> None:
    storage = Storage(timeout=7, retries=1, replication_factor=1)
    collection = filled(qdrant_server.url, name="copied", storage=storage)
    other = copied(collection)
    assert other.storage == storage
    assert scores(other) == scores(collection)
    client = QdrantClient(url=qdrant_server.url, check_compatibility=False)
    assert scores(
        copied(NodeCollection(client, name="copied", embedding=FakeEmbedding()))
    ) == scores(collection)
    collection.close()


# --- retrievers and engines


@each_copier
def test_a_retriever(copied: Copier) -> None:
    only = MetadataFilters(filters=[ExactMatchFilter(key="odd", value=1)])
    retriever = RNXRetriever(filled(), top_k=1, filters=only)
    other = copied(retriever)
    assert [hit.node_id for hit in other.retrieve("iron rust")] == ["t3"]
    assert other.top_k == 1


@pytest.mark.usefixtures("own_loop")
@each_copier
def test_a_query_engine(copied: Copier) -> None:
    retriever, reranker = RNXRetriever(filled()), RNXRerank(ranker=PlainRanker(), top_n=2)
    for synthesizer in (ExtractiveSynthesizer(PlainRanker()), None):
        engine = RetrieverQueryEngine.from_args(
            retriever,
            llm=MockLLM(),
            response_synthesizer=synthesizer,
            node_postprocessors=[reranker],
        )
        expected, answer = engine.query("what rusts?"), copied(engine).query("what rusts?")
        assert str(answer) == str(expected)
        assert [hit.node_id for hit in answer.source_nodes] == [
            hit.node_id for hit in expected.source_nodes
        ]


@pytest.mark.usefixtures("own_loop")
@each_copier
def test_a_conversation(copied: Copier) -> None:
    engine = chat_engine(
        RNXRetriever(filled()), RNXRerank(ranker=PlainRanker(), top_n=2), extractor=PlainRanker()
    )
    engine.chat("what makes honey?")
    other = copied(engine)
    assert len(other.chat_history) == 2
    answer = str(other.chat("and rust?"))
    shared = copied is copy.copy
    assert len(engine.chat_history) == (4 if shared else 2)
    if not shared:
        assert answer == str(engine.chat("and rust?"))


# --- models


@each_copier
def test_a_model_and_what_holds_it(copied: Copier, mini: MiniRanker) -> None:
    assert copied(mini) is mini
    hits = text_hits("Bees make honey.", "Rust is iron oxide.")
    for reranker in (RNXRerank(dtype="float32", top_n=1), RNXRerank(ranker=mini, top_n=1)):
        reranker.postprocess_nodes(hits, query_str="rust")
        assert [
            hit.node_id for hit in copied(reranker).postprocess_nodes(hits, query_str="rust")
        ] == ["n1"]
    embedding = RNXEmbedding(dtype="float32")
    vector = embedding.get_query_embedding("rust")
    assert copied(embedding).get_query_embedding("rust") == vector
    assert embedding._ranker is mini  # still loaded


@each_copier
def test_a_service(copied: Copier) -> None:
    ranker = load_ranker("http://127.0.0.1:9/rerank#model", api_key="secret", max_pixels=99)
    other = copied(ranker)
    assert (other.name, other.fingerprint) == (ranker.name, ranker.fingerprint)
    assert other._client.headers["authorization"] == "Bearer secret"


def test_a_vision_language_model_is_shared_and_not_pickled(folders: dict[str, Path]) -> None:
    ranker = load_ranker(str(folders["qwen2_vl"]), device="cpu")
    assert copy.deepcopy(ranker) is ranker
    with pytest.raises(RNXError, match=r"give model=.* instead of ranker=") as refused:
        pickle.dumps(RNXRerank(ranker=ranker))
    assert "\n" not in str(refused.value)


@each_copier
def test_a_store_of_memories(copied: Copier, tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "memories")
    assert copied(store).path == store.path
    assert copied(MemoryStore()).path is None


# --- other processes


def searched(retriever: RNXRetriever, elsewhere: bytes) -> tuple[list[str], str]:
    """What a worker finds, and what it is told of a folder that another process has open."""
    ids = [hit.node_id for hit in retriever.retrieve("what rusts?")]
    try:
        pickle.loads(elsewhere)
    except RNXError as error:
        return ids, str(error)
    return ids, ""


def test_a_worker_that_was_spawned_gets_a_retriever(tmp_path: Path) -> None:
    retriever, folder = RNXRetriever(filled(), top_k=3), filled(tmp_path / "index")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        answer = pool.apply_async(searched, (retriever, pickle.dumps(folder)))
        ids, message = answer.get(timeout=300)
    assert ids == [hit.node_id for hit in retriever.retrieve("what rusts?")]
    assert "is in use by process" in message
    folder.close()
