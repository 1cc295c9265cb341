"""`optimize`: the same answers before, during and after; nothing is lost, whatever ends it."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEmbedding
from llama_index.core.schema import BaseNode, TextNode
from qdrant_client import QdrantClient, models

from llama_index_rnx import NodeCollection, RNXError
from llama_index_rnx.candidates import Query
from llama_index_rnx.collection.edge import EdgeClient, EdgeError, client, engine
from llama_index_rnx.system import size_on_disk

DIMENSIONS = 32
NAME = "c"
Vectors = np.ndarray[Any, np.dtype[np.float32]]


def unit_vectors(count: int, seed: int) -> Vectors:
    """Return vectors of unit length, [count, DIMENSIONS]."""
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def points(vectors: Vectors, first: int = 0) -> list[models.PointStruct]:
    return [
        models.PointStruct(id=number, vector={"text": vector}, payload={"odd": number % 2})
        for number, vector in enumerate(vectors.tolist(), start=first)
    ]


def nearest(edge: EdgeClient, vector: Vectors, limit: int) -> list[int]:
    prefetch = models.Prefetch(query=vector.tolist(), using="text", limit=limit)
    fusion = models.RrfQuery(rrf=models.Rrf(k=60))
    response = edge.query_points(NAME, prefetch=[prefetch], query=fusion, limit=limit)
    return [int(point.id) for point in response.points]


def exact(stored: Vectors, vector: Vectors, limit: int) -> list[int]:
    return [int(i) for i in np.argsort(-(stored @ vector))[:limit]]


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeClient]:
    opened = EdgeClient(tmp_path)
    params = models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
    opened.create_collection(NAME, {"text": params}, {}, metadata={})
    yield opened
    opened.close()


def test_search_is_exact_below_the_threshold(edge: EdgeClient) -> None:
    stored = unit_vectors(2_000, seed=0)
    edge.upsert(NAME, points(stored))
    queries = unit_vectors(10, seed=1)
    before = [nearest(edge, vector, 100) for vector in queries]
    assert before == [exact(stored, vector, 100) for vector in queries]
    assert edge.optimize(NAME)
    assert [nearest(edge, vector, 100) for vector in queries] == before


def test_above_the_threshold_a_graph_finds_nearly_all(
    edge: EdgeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "EXACT_KB", 64)
    params = models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
    edge.delete_collection(NAME)
    edge.create_collection(NAME, {"text": params}, {}, metadata={})
    stored = unit_vectors(1_500, seed=0)
    edge.upsert(NAME, points(stored))
    assert edge.get_collection(NAME).indexed_vectors_count == 0
    assert edge.optimize(NAME)
    assert edge.get_collection(NAME).indexed_vectors_count == len(stored)

    recalls = [
        len({*nearest(edge, vector, 100)} & {*exact(stored, vector, 100)}) / 100
        for vector in unit_vectors(10, seed=1)
    ]
    assert np.mean(recalls) > 0.95


def test_what_is_written_and_removed_meanwhile_is_in_the_new_files(
    edge: EdgeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = unit_vectors(1_200, seed=0)
    edge.upsert(NAME, points(stored))
    optimize_files = engine.Engine._optimize_files

    def meanwhile(self: engine.Engine, files: Path) -> bool:
        is_done = optimize_files(self, files)
        edge.upsert(NAME, points(-stored[:3]))
        edge.upsert(NAME, points(unit_vectors(2, seed=2), first=5_000))
        edge.delete(NAME, models.PointIdsList(points=[7, 8]))
        return is_done

    monkeypatch.setattr(engine.Engine, "_optimize_files", meanwhile)
    assert edge.optimize(NAME)
    assert edge.count(NAME).count == 1_200
    assert nearest(edge, -stored[1], 1) == [1]
    assert edge.retrieve(NAME, [7, 8]) == []
    assert len(edge.retrieve(NAME, [5_000, 5_001])) == 2


def test_searches_and_writes_go_on(edge: EdgeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = unit_vectors(1_200, seed=0)
    edge.upsert(NAME, points(stored))
    is_running = threading.Event()
    go_on = threading.Event()

    def wait(self: subprocess.Popen[str]) -> tuple[str, str]:
        is_running.set()
        assert go_on.wait(30)
        self.wait()
        return "", ""

    monkeypatch.setattr(subprocess.Popen, "communicate", wait)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(edge.optimize(NAME)))
    thread.start()
    assert is_running.wait(30)
    assert nearest(edge, stored[5], 1) == [5]
    edge.upsert(NAME, points(unit_vectors(1, seed=3), first=9_000))
    go_on.set()
    thread.join(30)
    assert results == [True]
    assert edge.count(NAME).count == 1_201


def test_little_is_left_as_it_is(edge: EdgeClient) -> None:
    edge.upsert(NAME, points(unit_vectors(999, seed=0)))
    assert not edge.optimize(NAME)
    edge.upsert(NAME, points(unit_vectors(1, seed=1), first=999))
    assert edge.optimize(NAME)
    assert not edge.optimize(NAME)


def test_what_was_written_before_counts_in_the_next_process(
    edge: EdgeClient, tmp_path: Path
) -> None:
    edge.upsert(NAME, points(unit_vectors(1_000, seed=0)))
    edge.close()
    reopened = EdgeClient(tmp_path)
    assert reopened.optimize(NAME)
    reopened.close()
    reopened = EdgeClient(tmp_path)
    assert not reopened.optimize(NAME)
    assert reopened.count(NAME).count == 1_000
    reopened.close()


def test_what_was_removed_leaves_the_disk(edge: EdgeClient, tmp_path: Path) -> None:
    def size() -> int:
        # Beside the log of writes.
        return sum(map(size_on_disk, tmp_path.glob("*/*/segments")))

    edge.upsert(NAME, points(unit_vectors(8_000, seed=0)))
    odd = models.FieldCondition(key="odd", match=models.MatchValue(value=1))
    edge.delete(NAME, models.FilterSelector(filter=models.Filter(must=[odd])))
    edge.flush(NAME)
    before = size()
    assert edge.optimize(NAME)
    assert size() < 0.8 * before
    assert edge.count(NAME).count == 4_000


def folders(edge: EdgeClient) -> list[str]:
    return sorted(path.name for path in (edge.folder / NAME).iterdir() if path.is_dir())


def test_a_process_that_fails_leaves_the_index_as_it_was(
    edge: EdgeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.upsert(NAME, points(unit_vectors(1_000, seed=0)))
    program = tmp_path / "fails.py"
    program.write_text("raise SystemExit('no room')")
    monkeypatch.setattr(engine, "_OPTIMIZER", program)
    with pytest.raises(EdgeError, match="could not be optimized: no room"):
        edge.optimize(NAME)
    assert folders(edge) == ["shard"]
    assert edge.count(NAME).count == 1_000


def test_an_interrupted_one_leaves_the_index_as_it_was(
    edge: EdgeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.upsert(NAME, points(unit_vectors(1_000, seed=0)))

    def interrupt(_: subprocess.Popen[str]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "communicate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            edge.optimize(NAME)
    assert folders(edge) == ["shard"]
    assert edge.count(NAME).count == 1_000
    assert edge.optimize(NAME)


def test_closing_ends_it(edge: EdgeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edge.upsert(NAME, points(unit_vectors(1_000, seed=0)))
    program = tmp_path / "sleeps.py"
    program.write_text("import time\ntime.sleep(600)")
    monkeypatch.setattr(engine, "_OPTIMIZER", program)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(edge.optimize(NAME)))
    thread.start()
    opened = edge._engines[NAME]
    while opened._process is None:
        time.sleep(0.01)
    edge.close()
    thread.join(30)
    assert results == [False]
    assert folders(edge) == ["shard"]


def test_leftovers_go_when_it_is_opened(edge: EdgeClient, tmp_path: Path) -> None:
    edge.upsert(NAME, points(unit_vectors(1_000, seed=0)))
    assert edge.optimize(NAME)
    edge.close()
    for name in ("shard", "new-x"):
        (tmp_path / NAME / name).mkdir()
    reopened = EdgeClient(tmp_path)
    assert reopened.count(NAME).count == 1_000
    assert folders(reopened) == ["shard-1"]
    reopened.close()


def nodes(count: int) -> list[BaseNode]:
    return [TextNode(id_=f"n{i}", text=f"number {i}") for i in range(count)]


def test_a_collection_answers_alike_before_and_after(tmp_path: Path) -> None:
    collection = NodeCollection(tmp_path, embedding=FakeEmbedding())
    assert not collection.optimize()
    collection.add(nodes(1_000))
    before = [hit.node_id for hit in collection.search(Query(text="number 77"), k=1)]
    assert before == ["n77"]
    assert collection.optimize()
    assert [hit.node_id for hit in collection.search(Query(text="number 77"), k=1)] == before
    assert len(collection) == 1_000
    collection.close()
    with pytest.raises(RNXError, match="was closed"):
        collection.optimize()


def test_a_failure_is_one_line_and_the_index_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = NodeCollection(tmp_path / "index", embedding=FakeEmbedding())
    collection.add(nodes(1_000))
    monkeypatch.setattr(engine, "_OPTIMIZER", tmp_path / "missing.py")
    with pytest.raises(RNXError, match=r"is whole, but searched more slowly.*could not be opt"):
        collection.optimize()
    assert len(collection) == 1_000
    collection.close()


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = NodeCollection(tmp_path, embedding=FakeEmbedding())
    collection.add(nodes(1_000))
    monkeypatch.setattr(engine, "WRITE_RESERVE", 2**60)
    with pytest.raises(RNXError, match=r"is whole, but searched more slowly.*disk is full"):
        collection.optimize()
    collection.close()


def test_other_engines_have_nothing_to_do(tmp_path: Path) -> None:
    collection = NodeCollection(QdrantClient(path=str(tmp_path)), embedding=FakeEmbedding())
    collection.add(nodes(3))
    assert not collection.optimize()
