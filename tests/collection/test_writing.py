"""Writing nodes: the index is asked for many at once, and vectors are plain numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from fakes import FakeEmbedding
from llama_index.core.schema import BaseNode, TextNode

from llama_index_rnx import NodeCollection
from llama_index_rnx.candidates import Candidate
from llama_index_rnx.collection import BATCH
from llama_index_rnx.collection.qdrant_index import QdrantIndex
from llama_index_rnx.embed import embed_candidates

FILLERS = [TextNode(id_=f"filler {number}", text=f"Text {number}.") for number in range(BATCH)]


@pytest.fixture
def collection() -> Iterator[NodeCollection]:
    opened = NodeCollection(":memory:", embedding=FakeEmbedding(), ranker=None)
    yield opened
    opened.close()


def written(collection: NodeCollection, nodes: Sequence[BaseNode]) -> int:
    return collection.write([(node, None) for node in nodes], lambda _: None).written


def test_several_batches_are_looked_up_together(
    collection: NodeCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    retrieve = QdrantIndex.retrieve

    def counted(self: QdrantIndex, ids: Sequence[str], fields: Any) -> object:
        counts.append(len(ids))
        return retrieve(self, ids, fields)

    monkeypatch.setattr(QdrantIndex, "retrieve", counted)
    nodes = [*FILLERS, TextNode(id_="a", text="Bees make honey.")]
    assert [collection.add(nodes), collection.add(nodes)] == [BATCH + 1, 0]
    assert counts == [BATCH + 1, BATCH + 1]


def test_of_equal_ids_the_last_content_stays_across_batches(collection: NodeCollection) -> None:
    """The index holds the last content already, but not any more when its turn comes."""
    first, last = (TextNode(id_="a", text=text) for text in ("Bees make honey.", "Rust is red."))
    assert written(collection, [last]) == 1
    assert written(collection, [first, *FILLERS, last]) == BATCH + 2
    assert [node.get_content() for node in collection.get(["a"])] == ["Rust is red."]


def test_of_equal_contents_in_two_batches_one_is_written(collection: NodeCollection) -> None:
    node = TextNode(id_="a", text="Bees make honey.")
    assert written(collection, [node, *FILLERS, node]) == BATCH + 1


class NumpyEmbedding(FakeEmbedding):
    """Gives numpy's numbers, as some integrations do."""

    def _get_text_embedding(self, text: str) -> Any:
        return np.array([1, 2], np.float32)


def test_vectors_are_pythons_own_numbers() -> None:
    (vectors,) = embed_candidates(NumpyEmbedding(), [Candidate(id="a", text="Bees.")])
    assert vectors.text == [1.0, 2.0]
    assert [type(number) for number in vectors.text] == [float, float]
