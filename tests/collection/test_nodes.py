"""Every shape of node there and back through Qdrant: equal class, fields, hash, text, and the bytes
of its image.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import (
    BLUE,
    GREEN,
    RED,
    FakeEmbedding,
    colour_of,
    image_base64,
    image_bytes,
    write_image,
    write_pdf,
)
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from qdrant_client import QdrantClient

from llama_index_rnx import NodeCollection, RNXError
from llama_index_rnx.candidates import PageNode, Query, candidate_of

RICH = {
    "metadata": {
        "title": "Ünïcödé 表題",
        "year": 1999,
        "ratio": 0.25,
        "ok": True,
        "none": None,
        "tags": ["a", "b"],
        "deep": {"x": 1},
    },
    "excluded_embed_metadata_keys": ["year", "deep"],
    "excluded_llm_metadata_keys": ["tags"],
    "relationships": {
        NodeRelationship.SOURCE: RelatedNodeInfo(
            node_id="the-document", metadata={"file": "x.pdf"}
        ),
        NodeRelationship.CHILD: [
            RelatedNodeInfo(node_id="child-1"),
            RelatedNodeInfo(node_id="child-2"),
        ],
    },
}


class Plain(TextNode):
    """A class of the user's own."""

    colour: str = "mauve"

    @classmethod
    def class_name(cls) -> str:
        return "Plain"


def shapes(folder: Path) -> dict[str, BaseNode]:
    """One of every shape. The pictures are green."""
    picture = str(write_image(folder / "a picture é.png", GREEN))
    pdf = str(write_pdf(folder / "paper.pdf", ["first page", "second page"], colour=GREEN))
    data, b64 = image_bytes(GREEN), image_base64(GREEN)
    return {
        "TextNode": TextNode(
            text="words of a text",
            start_char_idx=3,
            end_char_idx=18,
            text_template="{content}|{metadata_str}",
            **RICH,
        ),
        "TextNode-lines": TextNode(text="  line one\r\nline two\n\ttab \U0001f41d 蜂  "),
        "ImageNode-base64": ImageNode(image=b64, image_mimetype="image/png", **RICH),
        "ImageNode-data-url": ImageNode(image="data:image/png;base64," + b64),
        "ImageNode-path": ImageNode(image_path=picture, **RICH),
        "ImageNode-base64-text": ImageNode(image=b64, text="a caption", **RICH),
        "ImageNode-path-text": ImageNode(
            image_path=picture, text="a caption", text_embedding=[0.5, 0.25]
        ),
        "ImageNode-file-url": ImageNode(image_url=Path(picture).as_uri()),
        "Node-text": Node(text_resource=MediaResource(text="words of a node"), **RICH),
        "Node-image-bytes": Node(image_resource=MediaResource(data=data), **RICH),
        "Node-image-path": Node(image_resource=MediaResource(path=Path(picture)), **RICH),
        "Node-both-bytes": Node(
            text_resource=MediaResource(text="words"),
            image_resource=MediaResource(data=data, mimetype="image/png"),
        ),
        "Node-both-path": Node(
            text_resource=MediaResource(text="words"),
            image_resource=MediaResource(path=Path(picture)),
        ),
        "ImageDocument-base64": ImageDocument(image=b64, **RICH),
        "ImageDocument-base64-text": ImageDocument(image=b64, text="words of an image document"),
        "ImageDocument-path": ImageDocument(image_path=picture, image_mimetype="image/png"),
        "Document": Document(text="words of a document", doc_id="my document", **RICH),
        "IndexNode": IndexNode(text="words of an index node", index_id="some-index"),
        "PageNode": PageNode(
            text="second page", pdf_path=pdf, page=2, metadata={"source": "paper.pdf", "page": 2}
        ),
        "PageNode-scan": PageNode(pdf_path=pdf, page=1),
    }


NAMES = (
    "TextNode",
    "TextNode-lines",
    "ImageNode-base64",
    "ImageNode-data-url",
    "ImageNode-path",
    "ImageNode-base64-text",
    "ImageNode-path-text",
    "ImageNode-file-url",
    "Node-text",
    "Node-image-bytes",
    "Node-image-path",
    "Node-both-bytes",
    "Node-both-path",
    "ImageDocument-base64",
    "ImageDocument-base64-text",
    "ImageDocument-path",
    "Document",
    "IndexNode",
    "PageNode",
    "PageNode-scan",
)


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[BaseNode], BaseNode]:
    """Puts a node into an embedded index on disk, opens that again, and searches for the node."""

    def there_and_back(node: BaseNode) -> BaseNode:
        collection = NodeCollection(tmp_path / "index", embedding=FakeEmbedding())
        assert collection.add([node]) == 1
        assert collection.skipped == []
        collection.close()
        again = NodeCollection(tmp_path / "index", embedding=FakeEmbedding())
        (hit,) = again.search(Query(text="green words page"))
        (got,) = again.get([node.node_id])
        again.close()
        assert got.to_dict() == hit.node.to_dict()
        return hit.node

    return there_and_back


def test_every_shape_is_tried(tmp_path: Path) -> None:
    assert tuple(shapes(tmp_path)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name: str, tmp_path: Path, stored: Callable[[BaseNode], BaseNode]) -> None:
    node = shapes(tmp_path)[name]
    before = node.to_dict()
    back = stored(node)
    assert type(back) is type(node)
    assert node.to_dict() == before  # the caller's node is as it was
    assert back.to_dict() == before
    assert back.hash == node.hash
    assert back.relationships == node.relationships
    for mode in MetadataMode:
        assert back.get_content(mode) == node.get_content(mode)
    _same_picture(candidate_of(node), candidate_of(back))


def _same_picture(one: object, other: object) -> None:
    assert one.digest == other.digest  # type: ignore[attr-defined]
    first, second = one.image, other.image  # type: ignore[attr-defined]
    assert (first is None) == (second is None)
    if first is not None:
        assert first.load().tobytes() == second.load().tobytes()
        assert colour_of(second.load()) == "green"


@pytest.mark.parametrize(
    "name", ["ImageNode-base64", "Node-image-bytes", "ImageDocument-base64", "Node-both-bytes"]
)
def test_the_bytes_of_an_inline_image_are_the_same(
    name: str, tmp_path: Path, stored: Callable[[BaseNode], BaseNode]
) -> None:
    node = shapes(tmp_path)[name]
    back = stored(node)
    image = candidate_of(back).image
    assert image is not None
    assert image.read() == image_bytes(GREEN)
    if isinstance(node, Node):
        assert isinstance(back, Node)
        assert back.image_resource is not None
        assert back.image_resource.data == node.image_resource.data  # type: ignore[union-attr]
    else:
        assert back.image == node.image  # type: ignore[attr-defined]


def test_a_node_with_a_class_of_its_own_comes_back_as_its_base(
    stored: Callable[[BaseNode], BaseNode],
) -> None:
    back = stored(Plain(text="words", id_="own", metadata={"a": 1}))
    assert type(back) is TextNode
    assert (back.node_id, back.get_content(), back.metadata) == ("own", "words", {"a": 1})


def test_the_stored_payload_holds_an_image_once() -> None:
    big = image_base64(RED, size=(300, 300), format="BMP")
    for node in (
        ImageNode(image=big),
        ImageDocument(image=big),
        Node(image_resource=MediaResource(data=big.encode())),
    ):
        client = QdrantClient(":memory:")
        NodeCollection(client, embedding=FakeEmbedding()).add([node])
        points, _ = client.scroll("rnx", with_payload=True)
        assert json.dumps(points[0].payload).count(big) == 1
        client.close()


def test_an_embedding_that_a_node_brings_is_not_stored_and_not_lost_to_the_caller() -> None:
    node = TextNode(text="words", embedding=[1.0, 2.0])
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    collection.add([node])
    assert node.embedding == [1.0, 2.0]
    assert collection.get([node.node_id])[0].embedding is None


def test_an_image_at_a_url_is_left_out_and_listed() -> None:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    far = ImageNode(id_="far", image_url="http://127.0.0.1:1/a.png")
    assert collection.add([far, TextNode(text="near")]) == 1
    (skipped,) = collection.skipped
    assert skipped.id == "far"
    assert "no URL is fetched unless allowed" in skipped.reason


def test_a_node_with_an_empty_page_number_fails_when_it_is_made() -> None:
    with pytest.raises(ValueError):
        PageNode(pdf_path="a.pdf")  # type: ignore[call-arg]


def test_metadata_that_json_cannot_hold_costs_its_own_node_only() -> None:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    odd = TextNode(id_="odd", text="odd", metadata={"thing": object()})
    assert collection.add([TextNode(id_="a", text="a"), odd, TextNode(id_="b", text="b")]) == 2
    assert [skipped.id for skipped in collection.skipped] == ["odd"]
    assert "JSON" in collection.skipped[0].reason


@pytest.mark.parametrize(
    "text", ["half a \ud83d pair", "\ud800", "nul \x00 byte", "\x07\x1b[31m bell"]
)
def test_odd_characters_cost_no_other_node(text: str) -> None:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    written = collection.add(
        [TextNode(id_="a", text="a"), TextNode(id_="odd", text=text), TextNode(id_="b", text="b")]
    )
    assert written + len(collection.skipped) == 3
    assert {node.node_id for node in collection.get(["a", "b"])} == {"a", "b"}
    if written == 3:
        assert collection.get(["odd"])[0].node_id == "odd"


def test_an_error_names_the_node() -> None:
    with pytest.raises(RNXError, match="'hollow'"):
        candidate_of(TextNode(id_="hollow", text=""))
    assert colour_of(candidate_of(ImageNode(image=image_base64(BLUE))).image.load()) == "blue"  # type: ignore[union-attr]
