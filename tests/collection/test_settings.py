"""Settings of a server, several servers, and faults that pass: asked again, of another one, and
said in one line.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import QdrantServer, free_port
from fakes import RED, FakeEmbedding, image_base64
from llama_index.core.schema import BaseNode, ImageNode, TextNode
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from llama_index_rnx import NodeCollection, RNXError, Storage
from llama_index_rnx.candidates import Query
from llama_index_rnx.collection import connection as connections
from llama_index_rnx.collection import servers
from llama_index_rnx.collection.connect import connect
from llama_index_rnx.collection.fusion import search_params
from llama_index_rnx.collection.servers import ServerConnection, urls_of
from llama_index_rnx.collection.upload import background_writes
from llama_index_rnx.system import FolderLock

_names = itertools.count()


@pytest.fixture
def opened() -> Iterator[list[NodeCollection]]:
    found: list[NodeCollection] = []
    yield found
    for collection in found:
        collection.close()


def open_on(
    server: QdrantServer | Any,
    opened: list[NodeCollection],
    name: str | None = None,
    **options: Any,
) -> NodeCollection:
    location = server.url if isinstance(server, QdrantServer) else server
    found = NodeCollection(
        location, name=name or f"storage-{next(_names)}", embedding=FakeEmbedding(), **options
    )
    opened.append(found)
    return found


def texts(*found: str) -> list[BaseNode]:
    return [
        TextNode(id_=f"n{i}", text=text, metadata={"year": 1990 + i})
        for i, text in enumerate(found)
    ]


# --- settings


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"shards": 0}, "shards=0"),
        ({"retries": -1}, "retries=-1"),
        ({"oversampling": 0.5}, "oversampling=0.5"),
        ({"quantization": "int4"}, "'int8'"),
        ({"replication_factor": 1, "write_consistency_factor": 2}, "write_consistency_factor=2"),
        ({"metadata_indexes": {"year": "number"}}, "keyword, integer"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(RNXError, match=word):
        Storage(**settings)


@pytest.mark.parametrize("location", [":memory:", "folder", "client"])
def test_the_embedded_engine_has_no_such_settings(tmp_path: Path, location: str) -> None:
    where: Any = {"folder": tmp_path / "index", "client": QdrantClient(":memory:")}.get(
        location, location
    )
    with pytest.raises(RNXError, match=r"shards=3, grpc=True was given for .*only a Qdrant server"):
        NodeCollection(where, embedding=FakeEmbedding(), storage=Storage(shards=3, grpc=True))
    assert not (tmp_path / "index").exists()


@pytest.mark.server
def test_a_collection_is_made_as_asked(
    qdrant_server: QdrantServer, opened: list[NodeCollection]
) -> None:
    asked = Storage(
        shards=2,
        replication_factor=1,
        write_consistency_factor=1,
        on_disk=True,
        payload_on_disk=True,
        quantization="int8",
        metadata_indexes={"year": "integer"},
    )
    collection = open_on(qdrant_server, opened, storage=asked)
    collection.add(texts("red apple", "green pear"))
    info = QdrantClient(url=qdrant_server.url, check_compatibility=False).get_collection(
        collection.name
    )
    assert info.config.params.shard_number == 2
    assert info.config.params.vectors["text"].on_disk is True  # type: ignore[index]
    assert info.config.params.sparse_vectors["bm25"].index.on_disk is True  # type: ignore[index, union-attr]
    assert info.config.quantization_config.scalar.type == "int8"  # type: ignore[union-attr]
    assert {name: field.data_type for name, field in info.payload_schema.items()} == {
        "file": "keyword",
        "file_sha": "keyword",
        "kind": "keyword",
        "metadata.source": "keyword",
        "metadata.year": "integer",
    }
    assert collection.search(Query(text="red apple"), k=1)[0].node_id == "n0"


@pytest.mark.server
def test_other_settings_than_the_collection_has_are_told_apart(
    qdrant_server: QdrantServer, opened: list[NodeCollection]
) -> None:
    made = open_on(qdrant_server, opened, storage=Storage(shards=2))
    made.add(texts("one"))
    open_on(qdrant_server, opened, made.name)  # nothing asked: as it is
    open_on(qdrant_server, opened, made.name, storage=Storage(shards=2, timeout=5, retries=0))
    with pytest.raises(
        RNXError,
        match=r"made with shards=2, quantization=None, asked for is shards=3, quantization='int8'",
    ):
        open_on(qdrant_server, opened, made.name, storage=Storage(shards=3, quantization="int8"))


@pytest.mark.server
@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_a_quantized_collection_is_searched_with_rescoring(
    qdrant_server: QdrantServer, opened: list[NodeCollection], grpc: bool
) -> None:
    plain = open_on(qdrant_server, opened, storage=Storage(grpc=grpc))
    small = open_on(
        qdrant_server, opened, storage=Storage(grpc=grpc, quantization="int8", oversampling=3.0)
    )
    nodes = [
        *texts(*[f"red word{i}" for i in range(30)]),
        ImageNode(id_="i", image=image_base64(RED)),
    ]
    for collection in (plain, small):
        assert collection.add(nodes) == 31
    # It sees by itself that the collection is quantized.
    again = open_on(qdrant_server, opened, small.name)
    assert [collection._index.quantized for collection in (plain, small, again)] == [
        False,
        True,
        True,
    ]
    params = search_params(3.0)
    assert params is not None
    assert params.quantization is not None
    assert params.quantization.rescore is True
    assert params.quantization.oversampling == 3.0
    exact = ranks(plain, "red word7")
    assert exact["n7"] == max(exact.values())
    for collection in (small, again):
        assert ranks(collection, "red word7") == exact


def ranks(collection: NodeCollection, query: str) -> dict[str, float]:
    """The scores of what the query tells apart; equal texts stand in any order."""
    hits = {
        hit.node_id: round(hit.score or 0, 6) for hit in collection.search(Query(text=query), k=5)
    }
    return {name: hits[name] for name in ("n7", "i")}


@pytest.mark.server
@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_both_wires_do_the_same(
    qdrant_server: QdrantServer, opened: list[NodeCollection], grpc: bool
) -> None:
    collection = open_on(qdrant_server, opened, storage=Storage(grpc=grpc))
    assert collection.add(texts("red", "green", "blue")) == 3
    assert collection.add(texts("red", "gruen", "blue")) == 1
    collection.delete(["n2"])
    assert len(collection) == 2
    assert collection.get(["n1"])[0].get_content() == "gruen"
    assert collection.search(Query(text="gruen"), k=1)[0].node_id == "n1"


@pytest.mark.server
def test_an_older_collection_gets_the_index_that_it_lacks(
    qdrant_server: QdrantServer, opened: list[NodeCollection]
) -> None:
    first = open_on(qdrant_server, opened)
    first.add(texts("one"))
    client = QdrantClient(url=qdrant_server.url, check_compatibility=False)
    client.delete_payload_index(first.name, "kind")
    open_on(
        qdrant_server, opened, first.name, storage=Storage(metadata_indexes={"year": "integer"})
    ).add(texts("one", "two"))
    assert {"kind", "metadata.year"} <= set(client.get_collection(first.name).payload_schema)


@pytest.mark.server
def test_workers_that_make_one_collection_at_once(
    qdrant_server: QdrantServer, opened: list[NodeCollection]
) -> None:
    name, faults = f"storage-{next(_names)}", list[BaseException]()
    workers = [open_on(qdrant_server, opened, name) for _ in range(4)]
    start = threading.Barrier(4)

    def work(collection: NodeCollection) -> None:
        try:
            start.wait()
            collection.add(texts("one", "two", "three"))
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(collection,)) for collection in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(workers[0]) == 3


# --- several servers, and faults


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://a:1", ["http://a:1"]),
        ("http://a:1, https://b:2/,", ["http://a:1", "https://b:2"]),
        (["http://a:1", "http://b:2"], ["http://a:1", "http://b:2"]),
        ("folder,with,commas", []),
        (Path("folder"), []),
    ],
)
def test_servers_are_a_list_or_parted_by_commas(location: Any, expected: list[str]) -> None:
    assert urls_of(location) == expected


@pytest.mark.parametrize("location", ["http://a:1,folder", ["folder"], [], "http://a:port"])
def test_a_list_of_servers_holds_nothing_else(location: Any) -> None:
    with pytest.raises(RNXError, match="http://host:6333"):
        connect(location, Storage())


@pytest.mark.server
def test_a_dead_server_is_passed_by(
    qdrant_server: QdrantServer, opened: list[NodeCollection]
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    for location in ([dead, qdrant_server.url], f"{dead},{qdrant_server.url}"):
        collection = open_on(location, opened, storage=Storage(retries=0))
        assert collection.add(texts("one", "two")) == 2
        start = time.monotonic()
        assert collection.search(Query(text="two"), k=1)[0].node_id == "n1"
        assert time.monotonic() - start < 5


class Answers:
    """A server that fails as told, one answer an attempt, and then works."""

    def __init__(self, *faults: BaseException) -> None:
        self.faults, self.asked = list(faults), 0
        self._client = None

    def close(self) -> None: ...

    def count(self) -> str:
        self.asked += 1
        if self.faults:
            raise self.faults.pop(0)
        return "found"


def http_fault(status: int) -> UnexpectedResponse:
    return UnexpectedResponse(status, "said", b"no\nway", httpx.Headers())


GONE = ResponseHandlingException(httpx.ConnectError("refused"))


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(servers.time, "sleep", pauses.append)
    return pauses


def asking(*clients: Answers, **settings: Any) -> ServerConnection:
    return ServerConnection(clients, "there", Storage(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fault", [GONE, http_fault(500), http_fault(503), http_fault(429), httpx.ReadTimeout("slow")]
)
def test_what_may_pass_is_asked_again_after_pauses_that_grow(
    fault: Exception, no_pause: list[float]
) -> None:
    server = Answers(fault, fault, fault)
    assert asking(server, retries=3).call(lambda client: client.count()) == "found"  # type: ignore[arg-type, call-arg]
    assert server.asked == 4
    assert no_pause == [0.2, 0.4, 0.8]


@pytest.mark.parametrize(
    ("fault", "word"), [(http_fault(400), "refused: .*no"), (http_fault(404), "refused")]
)
def test_what_will_not_pass_is_said_at_once(
    fault: Exception, word: str, no_pause: list[float]
) -> None:
    server = Answers(fault)
    with pytest.raises(RNXError, match=f"Qdrant at there {word}"):
        asking(server).call(lambda client: client.count())  # type: ignore[arg-type, call-arg]
    assert server.asked == 1


def test_attempts_end(no_pause: list[float]) -> None:
    server = Answers(*[GONE] * 10)
    with pytest.raises(RNXError, match="does not answer"):
        asking(server, retries=2).call(lambda client: client.count())  # type: ignore[arg-type, call-arg]
    assert server.asked == 3
    assert Storage(retries=8).pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_another_server_is_asked_without_a_pause_and_stays_the_first(no_pause: list[float]) -> None:
    dead, young, well = Answers(*[GONE] * 10), Answers(http_fault(404)), Answers()
    connection = asking(dead, young, well)
    for _ in range(3):
        assert connection.call(lambda client: client.count()) == "found"  # type: ignore[arg-type, call-arg]
    assert (dead.asked, young.asked, well.asked) == (1, 1, 3)
    assert no_pause == []


def test_a_write_that_fails_behind_comes_out() -> None:
    done: list[int] = []

    def work(number: int) -> int:
        if number == 3:
            raise RNXError("the server is full")
        return number

    def write_all() -> None:
        with background_writes(2, done.append) as submit:
            for number in range(100):
                submit(partial(work, number))

    with pytest.raises(RNXError, match="is full"):
        write_all()
    assert 3 not in done
    assert len(done) < 100


def test_what_nobody_closed_is_closed_at_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_owned", weakref.WeakSet())
    left = NodeCollection(tmp_path / "index", embedding=FakeEmbedding())
    connections._close_owned()
    # The lock of the folder is free.
    FolderLock(tmp_path / "index" / ".lock").release()
    del left
