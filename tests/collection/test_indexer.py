"""From nodes to points: memories are looked up once a batch, and an indexed file stays known."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from fakes import BLUE, RED, FakeEmbedding, FakeRanker, write_image, write_pdf
from llama_index.core.schema import ImageNode, TextNode

from llama_index_rnx import NodeCollection, RNXEmbedding
from llama_index_rnx.candidates import candidate_of
from llama_index_rnx.collection import Skipped, WriteReport
from llama_index_rnx.ingestion import SourceFile, index_paths, nodes_of
from llama_index_rnx.memory import RAM, Framework, MemoryStore
from llama_index_rnx.rankers.mini import MiniRanker

TEXTS = [TextNode(id_="a", text="Bees make honey."), TextNode(id_="b", text="Rust is red.")]


@pytest.fixture
def look_ups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many contents each look-up in a memory store asks for."""
    counts: list[int] = []
    find = MemoryStore.find

    def counted(
        self: MemoryStore, fingerprint: str, digests: list[str], framework: Framework
    ) -> object:
        counts.append(len(digests))
        return find(self, fingerprint, digests, framework)

    monkeypatch.setattr(MemoryStore, "find", counted)
    return counts


def test_the_memories_of_a_batch_are_looked_up_once(mini: MiniRanker, look_ups: list[int]) -> None:
    collection = NodeCollection(":memory:", embedding=RNXEmbedding(dtype="float32"))
    assert collection.add(TEXTS) == 2
    assert look_ups == [2]
    collection.close()


def test_an_embedding_does_not_read_the_memories_of_another_ranker(look_ups: list[int]) -> None:
    ranker = FakeRanker()
    collection = NodeCollection(":memory:", ranker=ranker)
    assert collection.add(TEXTS) == 2
    assert ranker.remembered == ["a", "b"]
    assert look_ups == [2, 2]
    collection.close()


def test_a_write_reports_what_it_wrote_and_left_out(tmp_path: Path) -> None:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    nodes = [*TEXTS, ImageNode(id_="c", image_path=str(broken)), TextNode(id_="d", text=" ")]
    report = collection.write([(node, None) for node in nodes], lambda _: None)
    assert isinstance(report, WriteReport)
    assert report.written == 2
    assert sorted(skipped.id for skipped in report.skipped) == ["c", "d"]
    assert all(isinstance(skipped, Skipped) for skipped in report.skipped)
    assert collection.skipped == []  # of the last `add`, and there was none
    collection.close()


@pytest.mark.parametrize("name", ["red.png", "paper.pdf"])
def test_a_node_from_an_index_equals_the_one_that_was_indexed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".pdf"):
        write_pdf(path, ["Bees make honey."])
    else:
        write_image(path, RED)
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    index_paths(collection, [tmp_path], show_progress=False)
    (node,) = nodes_of(SourceFile(path=path, docid=name))
    (stored,) = collection.get([node.node_id])
    assert stored == node
    assert node == stored
    assert stored != node.model_copy(update={"metadata": {"source": "another"}})
    assert stored != "a text"
    collection.close()


@pytest.mark.parametrize("name", ["red.png", "paper.pdf"])
def test_an_indexed_file_that_is_gone_keeps_its_digest(tmp_path: Path, name: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    path = docs / name
    if name.endswith(".pdf"):
        write_pdf(path, ["Bees make honey."])
    else:
        write_image(path, RED)
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    index_paths(collection, [docs], show_progress=False)
    node_id = f"{name}#1" if name.endswith(".pdf") else name
    (node,) = collection.get([node_id])
    digest = candidate_of(node).digest

    path.unlink()
    (again,) = collection.get([node_id])
    assert candidate_of(again).digest == digest
    assert candidate_of(again.model_copy()).digest == digest
    assert again.class_name() == node.class_name()
    assert again.to_dict() == node.to_dict()
    unpickled = pickle.loads(pickle.dumps(again))
    assert unpickled.to_dict() == node.to_dict()
    assert candidate_of(unpickled).digest == digest
    collection.close()


def test_a_file_that_changed_after_indexing_has_another_digest(tmp_path: Path) -> None:
    path = write_image(tmp_path / "red.png", RED)
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    index_paths(collection, [tmp_path], show_progress=False)
    (node,) = collection.get(["red.png"])
    before = candidate_of(node).digest
    write_image(path, BLUE, (30, 20))
    assert candidate_of(node).digest != before
    collection.close()


def test_the_memory_of_a_file_that_is_gone_is_found(tmp_path: Path, mini: MiniRanker) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    path = write_image(docs / "red.png", RED)
    collection = NodeCollection(str(tmp_path / "index"))
    index_paths(collection, [docs], show_progress=False)
    path.unlink()
    RAM.clear()
    (node,) = collection.get(["red.png"])
    assert collection.ranker is not None
    found = collection.memories.find(collection.ranker.fingerprint, [candidate_of(node).digest])
    assert len(found) == 1
    collection.close()
