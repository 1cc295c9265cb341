"""Three nodes of a real cluster on loopback, replication 2: one dies amid searching and indexing,
and nothing is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import QdrantServer, qdrant_binary
from fakes import FakeEmbedding
from llama_index.core.schema import BaseNode, TextNode

from llama_index_rnx import NodeCollection, RNXError, Storage
from llama_index_rnx.candidates import Query

pytestmark = pytest.mark.server


class SlowEmbedding(FakeEmbedding):
    """Takes its time over each batch, as a model does: a node dies in the midst of it."""

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        time.sleep(0.05)
        return super()._get_text_embeddings(texts)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[QdrantServer]]:
    binary = qdrant_binary()
    if binary is None:
        pytest.skip("no Qdrant server: set RNX_QDRANT_SERVER to its binary, or run `make qdrant`")
    nodes: list[QdrantServer] = []
    try:
        for number in range(3):
            folder = tmp_path / f"node{number}"
            folder.mkdir()
            nodes.append(
                QdrantServer(binary, folder, cluster=True, first=nodes[0] if nodes else None)
            )
            nodes[-1].start()
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def texts(count: int, mark: str) -> list[BaseNode]:
    return [TextNode(id_=f"{mark}{i}", text=f"word {mark}{i}") for i in range(count)]


def active_replicas(node: QdrantServer, name: str) -> int:
    """Return how many replicas of the collection's shards this node believes alive, its own and
    those of other nodes.
    """
    found = httpx.get(f"{node.url}/collections/{name}/cluster", timeout=5, trust_env=False).json()[
        "result"
    ]
    return sum(
        shard["state"] == "Active" for shard in [*found["local_shards"], *found["remote_shards"]]
    )


def wait_until(true: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)


class Searcher(threading.Thread):
    """Searches without pause, and keeps what went wrong and how many searches went well."""

    def __init__(self, collection: NodeCollection, known: int) -> None:
        super().__init__()
        self.collection, self.known = collection, known
        self.faults: list[Any] = []
        self.done = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            asked = f"old{self.done % self.known}"
            try:
                found = self.collection.search(Query(text=f"word {asked}"), k=3)
                if asked not in [hit.node_id for hit in found]:
                    self.faults.append((asked, [hit.node_id for hit in found]))
            except RNXError as fault:
                self.faults.append(fault)
            self.done += 1


@pytest.mark.parametrize(
    "grpc", [False, pytest.param(True, marks=pytest.mark.stress)], ids=["rest", "grpc"]
)
def test_a_node_dies_amid_searching_and_indexing(cluster: list[QdrantServer], grpc: bool) -> None:
    urls, storage = (
        [node.url for node in cluster],
        Storage(shards=3, replication_factor=2, grpc=grpc, retries=8),
    )
    collection = NodeCollection(urls, embedding=SlowEmbedding(), storage=storage)
    assert collection.add(texts(100, "old")) == 100
    searcher = Searcher(
        NodeCollection(",".join(urls), embedding=FakeEmbedding(), storage=storage), 100
    )
    searcher.start()
    dying = threading.Timer(0.3, cluster[0].stop)  # SIGKILL to the node that both ask first
    dying.start()
    assert collection.add(texts(400, "new")) == 400
    dying.join()
    before = searcher.done
    wait_until(lambda: searcher.done > before + 5)
    everything = [f"old{i}" for i in range(100)] + [f"new{i}" for i in range(400)]
    assert [node.node_id for node in collection.get(everything)] == everything
    assert len(collection) == 500

    cluster[0].start()  # it comes back and is brought up to date: then another may die
    wait_until(lambda: all(active_replicas(node, "rnx") == 6 for node in cluster))
    cluster[1].stop()
    assert [node.node_id for node in collection.get(everything)] == everything
    assert len(collection) == 500
    searcher.stopped.set()
    searcher.join()
    assert searcher.faults == []
    assert searcher.done > 10
    for one in (collection, searcher.collection):
        one.close()
