"""An index of version 0.1, made by `rnx index` at commit c18ce0a, is read and completed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Rnx
from llama_index.core.schema import ImageNode

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.candidates import PageNode

RECORDED = Path(__file__).parent / "recorded" / "index-0.1"
NAMES = ["espresso-grind.md", "page.pdf#1", "red.png", "swarm.md"]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A copy of the recorded folder."""
    return Path(shutil.copytree(RECORDED, tmp_path / "index"))


def test_its_nodes_come_back(index: Path, closing: list[NodeCollection]) -> None:
    collection = NodeCollection(index)
    closing.append(collection)
    nodes = collection.get(NAMES)
    assert [node.node_id for node in nodes] == NAMES
    assert isinstance(nodes[1], PageNode)
    assert (nodes[1].pdf_path, nodes[1].page) == ("/srv/manuals/page.pdf", 1)
    assert isinstance(nodes[2], ImageNode)
    assert nodes[3].metadata["source"] == "swarm.md"


def test_its_nodes_are_recognised_as_unchanged(index: Path, closing: list[NodeCollection]) -> None:
    """What is stored of a node, and its digest, are what they were."""
    collection = NodeCollection(index)
    closing.append(collection)
    assert collection.add(collection.get(NAMES)) == 0
    assert collection.skipped == []


def test_it_is_searched_and_its_memories_are_used(
    index: Path, closing: list[NodeCollection], monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = NodeCollection(index)
    closing.append(collection)

    def refuse(candidates: object) -> object:
        raise AssertionError(f"{candidates} were remembered again")

    monkeypatch.setattr(type(collection.ranker), "remember", refuse)
    reranker = RNXRerank(ranker=collection.ranker, memory_path=index / "memories")
    query = "Where did the swarm settle?"
    hits = reranker.postprocess_nodes(RNXRetriever(collection).retrieve(query), query_str=query)
    assert hits[0].node_id == "swarm.md"
    assert sorted(hit.node_id for hit in hits) == NAMES
    assert hits[0].score == pytest.approx(0.867, abs=2e-3)


def test_the_command_line_reads_it_and_adds_to_it(index: Path, tmp_path: Path, rnx: Rnx) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "rust.txt").write_text("Iron turns to rust in salt water.")
    assert rnx("index", tmp_path / "docs", "--to", index).code == 0
    result = rnx("search", "rust on iron", "--from", index, "--format", "json", "-n", 1)
    assert result.code == 0, result.err
    assert "rust.txt" in result.out
