"""What docs/faq.md says of LlamaIndex and Qdrant is still so in the versions that are installed.

If one of these fails after an upgrade, that trap is gone or moved: change the page with the test.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import (
    BaseNode,
    ImageDocument,
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from PIL import Image
from pydantic import PrivateAttr
from qdrant_client import QdrantClient
from qdrant_client.local.local_collection import LocalCollection

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.candidates import Query, candidate_of

PIXEL = b"iVBORw0KGgo="  # base64; never decoded here


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "pump.png"
    Image.new("RGB", (32, 32), "steelblue").save(path)
    return str(path)


class StoringStore(BasePydanticVectorStore):
    """A vector store that keeps texts itself, as the one for Qdrant does. It records queries."""

    stores_text: bool = True
    _queries: list[VectorStoreQuery] = PrivateAttr(default_factory=list)

    @property
    def client(self) -> None:
        return None

    def add(self, nodes: Any, **_: Any) -> list[str]:
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **_: Any) -> None:
        raise NotImplementedError

    def query(self, query: VectorStoreQuery, **_: Any) -> VectorStoreQueryResult:
        self._queries.append(query)
        return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])


def test_an_index_made_of_nodes_asks_the_store_for_its_image_nodes_only(picture: str) -> None:
    store = StoringStore()
    nodes = [
        TextNode(id_="text", text="a"),
        ImageNode(id_="picture", image_path=picture, text="a pump"),
    ]
    index = VectorStoreIndex(
        nodes=nodes, storage_context=_over(store), embed_model=MockEmbedding(embed_dim=2)
    )
    index.as_retriever().retrieve("a")
    assert store._queries[-1].node_ids == ["picture"]
    both = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=2))
    both.as_retriever().retrieve("a")
    assert not store._queries[-1].node_ids


def test_an_index_made_of_nodes_drops_pictures_without_text(
    picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index = VectorStoreIndex(
        nodes=[ImageNode(id_="picture", image_path=picture)], embed_model=MockEmbedding(embed_dim=2)
    )
    assert not index.index_struct.nodes_dict
    assert "skipping" in capsys.readouterr().out


def test_what_a_vector_store_of_llama_index_gives_back_of_a_node(picture: str) -> None:
    inline = ImageNode(id_="inline", image=PIXEL.decode(), text="a pump")
    assert _stored(inline).image == PIXEL.decode()  # type: ignore[attr-defined]
    resource = Node(id_="resource", image_resource=MediaResource(data=PIXEL))
    assert candidate_of(resource).image is not None
    kept = _stored(resource)
    assert not isinstance(kept, Node) or kept.image_resource is None or not kept.image_resource.data
    document = ImageDocument(id_="document", image_path=picture, text="a pump")
    assert type(_stored(document)) is not ImageDocument


def test_our_collection_gives_back_what_was_put_in(picture: str) -> None:
    data = Path(picture).read_bytes()
    nodes: list[BaseNode] = [
        Node(id_="resource", image_resource=MediaResource(data=data)),
        ImageDocument(id_="document", image_path=picture, text="a pump"),
    ]
    collection = NodeCollection(":memory:")
    assert collection.add(nodes) == 2
    found = collection.get(["resource", "document"])
    assert [type(node) for node in found] == [Node, ImageDocument]
    assert [candidate_of(node).kind for node in found] == ["image", "both"]


def test_an_image_node_drops_the_bytes_of_a_resource_in_its_constructor() -> None:
    node = ImageNode(image_resource=MediaResource(data=PIXEL))
    assert node.image is None
    assert not hasattr(node, "image_resource")


def test_an_image_node_leaves_its_own_text_out_of_the_prompt(picture: str) -> None:
    blocks = ImageNode(image_path=picture, text="a blue pump").get_content_blocks(MetadataMode.NONE)
    assert [type(block) for block in blocks] == [ImageBlock]
    whole = Node(
        text_resource=MediaResource(text="a blue pump"),
        image_resource=MediaResource(path=Path(picture)),
    )
    assert [type(block) for block in whole.get_content_blocks(MetadataMode.NONE)] == [
        TextBlock,
        ImageBlock,
    ]


def test_a_node_with_a_url_is_fetched_by_whoever_looks_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched = []
    monkeypatch.setattr(
        "requests.get",
        lambda url, **_: fetched.append(url) or (_ for _ in ()).throw(OSError("offline")),
    )
    with pytest.raises(OSError):
        ImageNode(image_url="http://10.0.0.1/a.png").get_content_blocks()
    assert fetched == ["http://10.0.0.1/a.png"]


async def test_the_async_vector_retriever_forgets_the_picture_of_a_query(
    monkeypatch: pytest.MonkeyPatch, picture: str
) -> None:
    index = VectorStoreIndex(nodes=[TextNode(text="a")], embed_model=MockEmbedding(embed_dim=2))
    retriever, seen = index.as_retriever(), list[str | None]()

    async def look(bundle: QueryBundle) -> list[NodeWithScore]:
        seen.append(bundle.image_path)
        return []

    monkeypatch.setattr(retriever, "_aget_nodes_with_embeddings", look)
    await retriever.aretrieve(QueryBundle("a", image_path=picture))
    assert seen == [None]


async def test_ours_does_not(monkeypatch: pytest.MonkeyPatch, picture: str) -> None:
    collection, seen = NodeCollection(":memory:"), list[Query]()
    monkeypatch.setattr(collection, "search", lambda query, **_: seen.append(query) or [])
    await RNXRetriever(collection).aretrieve(QueryBundle("a", image_path=picture))
    assert seen[0].image is not None


async def test_concurrent_async_calls_enter_a_postprocessor_at_once() -> None:
    class Counting(BaseNodePostprocessor):
        _together: threading.Barrier = PrivateAttr(
            default_factory=lambda: threading.Barrier(3, timeout=5)
        )

        def _postprocess_nodes(
            self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
        ) -> list[NodeWithScore]:
            self._together.wait()  # raises unless three are in here
            return nodes

    postprocessor = Counting()
    await asyncio.gather(*(postprocessor.apostprocess_nodes([], query_str="a") for _ in range(3)))


def test_a_score_in_the_metadata_would_be_read_by_the_model_and_ours_is_not() -> None:
    leaky = TextNode(text="a", metadata={"retrieval_score": 0.5})
    assert "0.5" in leaky.get_content(MetadataMode.LLM)
    hit = NodeWithScore(node=TextNode(text="a"), score=0.5)
    (found,) = RNXRerank(keep_retrieval_score=True).postprocess_nodes([hit], query_str="a")
    assert found.node.metadata["retrieval_score"] == 0.5
    assert "0.5" not in found.node.get_content(MetadataMode.LLM) + found.node.get_content(
        MetadataMode.EMBED
    )


# The client itself leaves its lock file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_embedded_qdrant_is_one_process_and_warns_of_large_collections(tmp_path: Path) -> None:
    first = QdrantClient(path=str(tmp_path))
    with pytest.raises(RuntimeError, match="already accessed"):
        QdrantClient(path=str(tmp_path))
    first.close()
    assert LocalCollection.LARGE_DATA_THRESHOLD == 20_000


def _over(store: StoringStore) -> Any:
    from llama_index.core import StorageContext

    return StorageContext.from_defaults(vector_store=store)


def _stored(node: BaseNode) -> BaseNode:
    """Return a node after the way through a payload that LlamaIndex's own stores share."""
    return metadata_dict_to_node(
        node_to_metadata_dict(node, remove_text=False, flat_metadata=False)
    )
