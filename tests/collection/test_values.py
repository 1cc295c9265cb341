"""Metadata as users have it, in memory, in a folder and on a server: stored, filtered, measured."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QdrantServer
from fakes import RED, FakeEmbedding, image_base64, write_image
from fakes.places import PLACES, Place, ids, place_of
from httpx import Headers
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse

from llama_index_rnx import NodeCollection, RNXError
from llama_index_rnx.candidates import Query
from llama_index_rnx.collection import Stamp, Storage, qdrant_index, upload
from llama_index_rnx.collection.servers import RequestTooLargeError, _is_too_large

OP, AND, OR, NOT = FilterOperator, FilterCondition.AND, FilterCondition.OR, FilterCondition.NOT
ODD_KEYS = [
    "file name",
    "dc:title",
    "a/b",
    "@id",
    "owner's",
    'the "key"',
    "back\\slash",
    "a[0]",
    "b[]",
    "",
    " ",
    "ключ",
    "1st",
    "v1.2",
    "a.b.c.d.e",
    ".x",
    "nul\0x",
    "half \ud800",
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Place]:
    found = place_of(request.param, request, tmp_path)
    yield found
    found.close_all()


def node(name: str, **metadata: Any) -> TextNode:
    return TextNode(
        id_=name,
        text=f"word {name}",
        metadata=metadata,
        excluded_embed_metadata_keys=list(metadata),
    )


def rule(key: str, value: Any, operator: FilterOperator = OP.EQ) -> MetadataFilter:
    """LlamaIndex's own check of values is left out: it knows neither booleans nor dates."""
    return MetadataFilter.model_construct(key=key, value=value, operator=operator)


def search(found: NodeCollection, *parts: Any, condition: FilterCondition = AND) -> str:
    filters = MetadataFilters.model_construct(filters=list(parts), condition=condition)
    return "".join(sorted(ids(found.search(Query(text="word"), filters=filters))))


LIBRARY: list[BaseNode] = [
    node(
        "a",
        v=2024,
        title="Red Apple PIE",
        author={"name": "Ada", "v1.0": 1},
        tags=["x", "y"],
        open=True,
    ),
    node("b", v=2024.0, title="red apple pie", author={"name": "Bob"}, tags=["y"], open=False),
    node("c", v="2024", title="100% [sic] \\d+ ÄÖ", **{"author.name": "Ada"}),
    node("d", v="2024-01-01T00:00:00Z", title=["Plum cake", "apple"]),
    node("e", v="2024-01-01T01:00:00+01:00", title=["İstanbul"]),
    node("f", v=dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),
    node("g", v=True, title=""),
    node("h", v=1, empty=None, list=[]),
    node("i", v=1.0, empty=float("nan")),
    node("j", v=np.int64(2**53 + 1), empty=[None]),
    node("k", v="2024-01-02", empty=""),
    node("l", v="2024-02-31"),
    *(node(chr(ord("A") + position), **{key: "x"}) for position, key in enumerate(ODD_KEYS)),
]
FILTERS: list[tuple[str, Any, FilterOperator, str]] = [
    ("v", 2024, OP.EQ, "ab"),
    ("v", 2024.0, OP.EQ, "ab"),
    ("v", np.int32(2024), OP.EQ, "ab"),
    ("v", np.float32(2024), OP.EQ, "ab"),
    ("v", "2024", OP.EQ, "c"),
    ("v", np.str_("2024"), OP.EQ, "c"),
    ("v", True, OP.EQ, "g"),
    ("v", 1, OP.EQ, "hi"),
    ("v", 2**53 + 1, OP.EQ, "j"),
    ("v", 2**53, OP.EQ, ""),
    ("v", "2024-01-01T00:00:00+00:00", OP.EQ, "def"),
    ("v", "2024-01-01T00:00:00.000Z", OP.EQ, "def"),
    ("v", "2023-12-31 23:00:00-01:00", OP.EQ, "def"),
    ("v", dt.datetime(2024, 1, 1, tzinfo=dt.UTC), OP.EQ, "def"),
    ("v", dt.date(2024, 1, 2), OP.EQ, "k"),
    ("v", "2024-02-31", OP.EQ, "l"),
    # No moment of Python's: it lies before the year 1.
    (
        "v",
        "0001-01-01T00:00:00+05:00",
        OP.EQ,
        "",
    ),
    ("v", ["2024-01-01T00:00:00Z", 2024, "2024"], OP.IN, "abcdef"),
    ("v", {1}, OP.ANY, "hi"),
    ("v", np.array([1.0, 2024.0]), OP.IN, "abhi"),
    ("v", dt.date(2024, 1, 1), OP.GT, "k"),
    ("v", "2024-01-01T00:00:00+00:00", OP.GTE, "defk"),
    ("v", 1, OP.GT, "abj"),
    ("tags", ["x", "y"], OP.ALL, "a"),
    ("tags", ("x",), OP.ANY, "a"),
    ("open", np.bool_(False), OP.EQ, "b"),
    ("author.name", "Ada", OP.EQ, "ac"),
    ("author.v1.0", 1, OP.EQ, "a"),
    ("title", "Apple", OP.TEXT_MATCH, "a"),
    ("title", "app", OP.TEXT_MATCH, "bd"),
    ("title", "APPLE", OP.TEXT_MATCH_INSENSITIVE, "abd"),
    ("title", "d Apple P", OP.TEXT_MATCH, "a"),
    ("title", "% [sic] \\d", OP.TEXT_MATCH, "c"),
    ("title", "äö", OP.TEXT_MATCH_INSENSITIVE, "c"),
    # Its first letter becomes two in lower case.
    (
        "title",
        "stanbul",
        OP.TEXT_MATCH_INSENSITIVE,
        "e",
    ),
    ("v", "2", OP.TEXT_MATCH, "cdefkl"),
    ("title", "", OP.TEXT_MATCH, "abcdeg"),
    ("author.name", "d", OP.TEXT_MATCH, "ac"),
]


@pytest.fixture(scope="module", params=PLACES)
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodeCollection]:
    where = place_of(request.param, request, tmp_path_factory.mktemp("values"))
    found = where.open()
    assert found.add(LIBRARY) == len(LIBRARY)
    assert found.add(LIBRARY) == 0
    yield found
    where.close_all()


@pytest.mark.parametrize(("key", "value", "operator", "expected"), FILTERS)
def test_equal_values_are_found_in_any_spelling(
    library: NodeCollection, key: str, value: Any, operator: FilterOperator, expected: str
) -> None:
    assert search(library, rule(key, value, operator)) == expected


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_filter_finds_any_key(library: NodeCollection, key: str) -> None:
    name = chr(ord("A") + ODD_KEYS.index(key))
    assert search(library, rule(key, "x")) == name
    assert search(library, rule(key, "x", OP.TEXT_MATCH)) == name
    assert name not in search(library, rule(key, "x", OP.NE))
    (back,) = library.get([name])
    assert back.metadata == {key.replace("\ud800", "\\ud800"): "x"}


def test_empty_is_absent_null_or_blank(library: NodeCollection) -> None:
    assert (
        search(
            library,
            rule("empty", None, OP.IS_EMPTY),
            rule("v", [1, 2**53 + 1, "2024-01-02"], OP.IN),
        )
        == "hik"
    )
    assert "a" not in search(library, rule("author.name", None, OP.IS_EMPTY))


def test_text_operators_nest(library: NodeCollection) -> None:
    apple = rule("title", "apple", OP.TEXT_MATCH_INSENSITIVE)
    upper = rule("title", "Apple", OP.TEXT_MATCH)
    number = rule("v", 2024)
    assert search(library, apple, upper) == "a"
    assert search(library, apple, number) == "ab"
    assert (
        search(library, number, MetadataFilters.model_construct(filters=[upper], condition=NOT))
        == "b"
    )
    assert search(library, upper, rule("v", "2024"), condition=OR) == "ac"
    either = MetadataFilters.model_construct(
        filters=[upper, rule("title", "cake", OP.TEXT_MATCH)], condition=OR
    )
    assert search(library, either, rule("v", True, OP.NE)) == "ad"
    assert (
        search(library, MetadataFilters.model_construct(filters=[either], condition=NOT), number)
        == "b"
    )


def test_text_is_looked_up_among_the_nodes_of_the_other_filters(
    library: NodeCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    scroll = library._index.scroll

    def counted(fields: list[str], condition: Any = None) -> Any:
        for point_id, payload in scroll(fields, condition):
            read.append(point_id)
            yield point_id, payload

    monkeypatch.setattr(library._index, "scroll", counted)
    assert (
        search(library, rule("title", "APPLE", OP.TEXT_MATCH_INSENSITIVE), rule("v", 2024)) == "ab"
    )
    assert len(read) == 2


@pytest.mark.parametrize(
    ("value", "operator"),
    [
        ("many", OP.GT),
        (True, OP.GTE),
        (None, OP.IN),
        ([None], OP.IN),
        (object(), OP.EQ),
        (5, OP.TEXT_MATCH),
        (None, OP.TEXT_MATCH),
        ({"a": 1}, OP.NE),
    ],
)
def test_a_value_that_an_operator_cannot_use_is_one_line(
    library: NodeCollection, value: Any, operator: FilterOperator
) -> None:
    with pytest.raises(RNXError, match="metadata filter 'v'") as caught:
        search(library, rule("v", value, operator))
    assert "\n" not in str(caught.value)


# --- strings that UTF-8 refuses


def test_halves_of_surrogate_pairs_are_stored_and_found(place: Place) -> None:
    found = place.open()
    parent = RelatedNodeInfo(node_id="doc \ud801", metadata={"k\ud801": np.int64(1)})
    nodes: list[BaseNode] = [
        TextNode(id_="text", text="The set \ud835 is open."),
        TextNode(id_="id \ud800", text="words", relationships={NodeRelationship.SOURCE: parent}),
        TextNode(id_="id \ud801", text="words"),
        TextNode(
            id_="meta",
            text="words",
            metadata={"title": "a \ud83d", "k\ud83d": 1},
            excluded_llm_metadata_keys=["k\ud83d"],
        ),
        Document(id_="doc", text="zero \0 \udfff"),
        Node(id_="node", text_resource={"text": "half \ud800"}),  # type: ignore[arg-type]
        ImageNode(id_="image", text="\ud800 picture", image=image_base64(RED)),
    ]
    assert found.add(nodes) == len(nodes)
    assert found.skipped == []
    assert found.add(nodes) == 0
    back = found.get([one.node_id for one in nodes])
    assert len(back) == len(nodes)
    assert found.add(back) == 0, "what comes out goes in unchanged"
    assert back[0].get_content() == "The set ? is open."
    assert back[1].node_id == "id \\ud800"
    assert found.get([back[1].node_id]) == [back[1]]
    assert "text" in ids(found.search(Query(text="set \ud835 open")))
    assert search(found, rule("title", "a \ud83d")) == search(found, rule("k\ud83d", 1)) == "meta"
    found.delete(["id \ud801"])
    assert len(found) == len(nodes) - 1


def test_a_file_whose_name_is_not_utf_8(place: Place, tmp_path: Path) -> None:
    """As a node's picture it is opened again; as an indexed file it is left out: its path would be
    in every report.
    """
    found = place.open()
    picture = tmp_path / "b\udcff.png"
    write_image(picture, RED)
    stamp = Stamp(path=str(picture), size=1, mtime_ns=2, sha256="s", nodes=1)
    assert found.add([ImageNode(id_="a", image_path=str(picture))]) == 1
    assert found.get(["a"])[0].image_path == str(picture)  # type: ignore[attr-defined]
    report = found.write([(TextNode(id_="b", text="words"), stamp)], lambda _: None)
    assert report.written == 0
    assert "rename it" in report.skipped[0].reason
    report.skipped[0].reason.encode()
    assert found.paths() == set()
    assert found.files([str(picture)], [str(picture)]) == {}
    found.remove_file(str(picture))


# --- values


def test_odd_values_are_stored_and_one_without_json_costs_itself_alone(place: Place) -> None:
    found = place.open()
    rows: dict[str, Any] = {
        "i": np.int64(1),
        "s": {2, 1},
        "d": dt.date(2024, 1, 1),
        "n": float("nan"),
        "b": b"\xff",
        "z": 9**40,
    }
    nodes = [TextNode(id_=name, text="word", metadata={"v": value}) for name, value in rows.items()]
    bad = TextNode(id_="bad", text="word", metadata={"v": object()})
    deep: Any = 1
    for _ in range(22):
        deep = {"a": [deep]} if isinstance(deep, int) else {"a": deep}
    assert (
        found.add([*nodes, bad, TextNode(id_="deep", text="word", metadata={"v": deep})])
        == len(rows) + 1
    )
    assert [one.id for one in found.skipped] == ["bad"]
    assert "\n" not in found.skipped[0].reason
    back = {one.node_id: one.metadata["v"] for one in found.get(list(rows))}
    assert back == {"i": 1, "s": [1, 2], "d": "2024-01-01", "n": None, "b": "/w==", "z": str(9**40)}
    assert found.add([*nodes, *found.get(list(rows))]) == 0
    assert nodes[0].metadata["v"] is rows["i"], "the caller's node stays as it is"


@pytest.mark.server
@pytest.mark.parametrize("grpc", [False, True])
def test_values_by_grpc_as_by_rest(qdrant_server: QdrantServer, grpc: bool) -> None:
    storage = Storage(
        grpc=grpc, metadata_indexes={"file name": "keyword", "v1.2": "keyword", "year": "float"}
    )
    found = NodeCollection(
        qdrant_server.url, name=f"values-{grpc}", embedding=FakeEmbedding(), storage=storage
    )
    deep: Any = 1
    for _ in range(22):
        deep = [deep]
    odd = {"file name": "x", "v1.2": "y", "half \ud800": 10**30}
    found.add(
        [
            node("a", year=2024, deep=deep, **odd),
            node("b", year=2024.0),
            node("c", day="0001-01-01T00:00:00+05:00"),
        ]
    )
    assert search(found, rule("day", "0001-01-01T00:00:00+05:00")) == "c"
    assert search(found, rule("year", 2024)) == "ab"
    assert search(found, rule("file name", "x")) == search(found, rule("v1.2", "y")) == "a"
    assert search(found, rule("file name", "X", OP.TEXT_MATCH_INSENSITIVE)) == "a"
    schema = found._index.call(lambda client: client.get_collection(found.name)).payload_schema
    assert {'metadata."file name"', 'metadata."v1.2"', "metadata.v1.2", "metadata.year"} <= set(
        schema
    )
    found.close()


# --- sizes


def test_parts_are_measured_with_their_metadata(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "REQUEST_BYTES", 100_000)
    sizes: list[int] = []
    write = qdrant_index.upsert_points

    def counted(client: QdrantClient, name: str, points: Any) -> None:
        sizes.append(len(points))
        write(client, name, points)

    monkeypatch.setattr(qdrant_index, "upsert_points", counted)
    found = place.open()
    assert found.add([node(f"n{i}", html="é" * 20_000) for i in range(6)]) == 6
    assert sizes == [1] * 6  # 40 kB each as UTF-8, and 25 kB for its vector


def test_a_node_too_large_for_the_server_costs_itself_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = qdrant_index.upsert_points

    def refusing(client: QdrantClient, name: str, points: Any) -> None:
        if any("big" in point.payload["node"] for point in points):
            raise RequestTooLargeError("too large")
        write(client, name, points)

    monkeypatch.setattr(qdrant_index, "upsert_points", refusing)
    found = place.open()
    assert found.add([node("a"), node("b"), node("big"), node("c"), node("d")]) == 4
    assert [one.id for one in found.skipped] == ["big"]
    assert "shorten its text" in found.skipped[0].reason
    assert len(found) == 4


@pytest.mark.server
def test_the_servers_own_limit(qdrant_server: QdrantServer) -> None:
    found = NodeCollection(qdrant_server.url, name="too-large", embedding=FakeEmbedding())
    big = node("big", html="x" * 34_000_000)
    assert found.add([node("a"), big, node("b")]) == 2
    assert [one.id for one in found.skipped] == ["big"]
    assert "34,0" in found.skipped[0].reason
    assert "\n" not in found.skipped[0].reason
    found.close()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (413, b"<html>Request Entity Too Large</html>", True),
        (
            400,
            b'{"status":{"error":"JSON payload (40 bytes) is larger than allowed '
            b'(limit: 30 bytes)."}}',
            True,
        ),
        (400, b'{"status":{"error":"Vector dimension error: expected dim: 4, got 3"}}', False),
    ],
)
def test_which_refusals_are_for_size(status: int, body: bytes, expected: bool) -> None:
    error = UnexpectedResponse(
        status_code=status, reason_phrase="", content=body, headers=Headers()
    )
    assert _is_too_large(error) == expected
