"""A `data:` URI is an image itself, wherever a path or a URL may stand: it is kept with its node
and never looked for.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_from_bytes

import pytest
from conftest import Rnx
from fakes import (
    BLUE,
    GREEN,
    RED,
    FakeEmbedding,
    FakeRanker,
    colour_of,
    image_base64,
    image_bytes,
    text_hits,
)
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import (
    BaseNode,
    ImageDocument,
    ImageNode,
    MediaResource,
    Node,
    NodeWithScore,
    QueryBundle,
)
from PIL import Image
from pydantic import AnyUrl

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.batch import list_of
from llama_index_rnx.candidates import base64_source, candidate_of, is_data_uri, source_at
from llama_index_rnx.candidates.images import MAX_FILE_BYTES
from llama_index_rnx.chat.ranker_llm import _turn
from llama_index_rnx.errors import ImageError

GREEN_BASE64, GREEN_BYTES = image_base64(GREEN), image_bytes(GREEN)
# Longer than any path may be.
LARGE = image_base64(GREEN, size=(3_000, 40), format="BMP")
SPELLINGS = {
    "usual": f"data:image/png;base64,{GREEN_BASE64}",
    "upper case": f"DATA:IMAGE/PNG;BASE64,{GREEN_BASE64}",
    "no media type": f"data:;base64,{GREEN_BASE64}",
    "parameters": f"data:image/png;name=a.png;charset=utf-8;base64,{GREEN_BASE64}",
    "blanks": f"  data:image/png; base64 ,\n {GREEN_BASE64[:40]}\r\n {GREEN_BASE64[40:]} \n",
    "percent in base64": f"data:image/png;base64,{quote(GREEN_BASE64, safe='')}",
    "without padding": f"data:image/png;base64,{GREEN_BASE64.rstrip('=')}",
    "percent-encoded": f"data:image/png,{quote_from_bytes(GREEN_BYTES)}",
    "wrong media type": f"data:text/plain;base64,{GREEN_BASE64}",
    "large": f"data:image/bmp;base64,{LARGE}",
}
PLACES: dict[str, Callable[[str], BaseNode]] = {
    "image": lambda uri: ImageNode(id_="a", image=uri),
    "image_path": lambda uri: ImageNode(id_="a", image_path=uri),
    "image_url": lambda uri: ImageNode(id_="a", image_url=uri),
    "document": lambda uri: ImageDocument(id_="a", image=uri),
    "resource data": lambda uri: Node(id_="a", image_resource=MediaResource(data=uri.encode())),
    "resource path": lambda uri: Node(id_="a", image_resource=MediaResource(path=Path(uri))),
    "resource url": lambda uri: Node(
        id_="a", image_resource=MediaResource(url=AnyUrl(uri.strip()))
    ),
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr("llama_index_rnx.candidates.images.fetch", refused)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("allow_urls", [False, True])
def test_every_spelling_in_every_place(spelling: str, place: str, allow_urls: bool) -> None:
    uri = SPELLINGS[spelling]
    if place == "resource path" and "//" in uri:
        pytest.skip("a Path makes one slash of two: such an image is lost before we see it")
    image = candidate_of(PLACES[place](uri), allow_urls).image
    assert image is not None
    assert colour_of(image.load()) == "green"


def test_base64_in_the_letters_of_urls() -> None:
    # Four times "+" a pixel, as base64 of a BMP.
    image = Image.new("RGB", (4, 4), (0xBE, 0xEF, 0xFB))
    image.paste("white", (0, 0, 2, 4))  # four times "/"
    buffer = BytesIO()
    image.save(buffer, "BMP")
    usual = base64.b64encode(buffer.getvalue()).decode()
    in_urls = base64.urlsafe_b64encode(buffer.getvalue()).decode()
    assert {"+", "/"} <= set(usual)
    for data in (in_urls, f"data:image/bmp;base64,{in_urls.rstrip('=')}"):
        assert base64_source(data, "a").load().tobytes() == image.tobytes()


@pytest.mark.parametrize("place", PLACES)
def test_it_is_kept_with_its_node(place: str) -> None:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    assert collection.add([PLACES[place](SPELLINGS["usual"])]) == 1
    assert collection.add([PLACES[place](SPELLINGS["usual"])]) == 0
    (node,) = collection.get(["a"])
    image = candidate_of(node).image
    assert image is not None
    assert colour_of(image.load()) == "green"
    collection.close()


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("data:image/png;base64,%%%", "is not base64"),
        ("data:image/png;base64,", "0 bytes"),
        ("data:,hello", "no known image format"),
        (f"data:image/png;base64,{GREEN_BASE64[:60]}", "cannot be read as an image"),
        (f"data:image/png;base64,{'A' * 9_001}", "cannot be read as an image|is not base64"),
    ],
)
def test_a_broken_one_is_no_path_and_no_url(uri: str, reason: str) -> None:
    for place in ("image", "image_path", "image_url"):
        image = candidate_of(PLACES[place](uri), allow_urls=True).image
        assert image is not None
        with pytest.raises(ImageError, match=reason) as caught:
            image.load()
        assert len(str(caught.value)) < 1_000
        assert "image of node 'a'" in str(caught.value)


def test_its_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_FILE_BYTES == 512 * 2**20
    monkeypatch.setattr("llama_index_rnx.candidates.images.MAX_FILE_BYTES", 50)
    for uri in (SPELLINGS["usual"], GREEN_BASE64, SPELLINGS["percent-encoded"]):
        with pytest.raises(ImageError, match="at most 50"):
            base64_source(uri, "x").load()


def test_what_is_a_path_stays_one(tmp_path: Path) -> None:
    for path in ("data/red.png", "data", "./data:image/png;base64,AAAA", "/data:,x"):
        assert not is_data_uri(path)
        assert source_at(path, "x").label == str(Path(path))


def test_equal_images_share_a_memory() -> None:
    digests = {
        base64_source(SPELLINGS[name], "x").digest
        for name in ("usual", "upper case", "parameters", "percent in base64")
    }
    assert digests == {base64_source(GREEN_BASE64, "x").digest}


def test_a_query_may_be_one() -> None:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    collection.add(
        [
            ImageNode(id_=name, image=image_base64(colour))
            for name, colour in (("red", RED), ("green", GREEN))
        ]
    )
    query = QueryBundle("", image_path=SPELLINGS["usual"])
    hits = RNXRetriever(collection).retrieve(query)
    assert hits[0].node_id == "green"
    assert (
        RNXRerank(ranker=FakeRanker(), top_n=1).postprocess_nodes(hits, query)[0].node_id == "green"
    )
    collection.close()


def test_rows_of_a_list_may_hold_them(tmp_path: Path) -> None:
    candidates = [{"docid": name, "image": uri} for name, uri in SPELLINGS.items()]
    row = {"qid": "1", "query": "", "image": SPELLINGS["blanks"], "candidates": candidates}
    read = list_of(row, tmp_path, "row 1")
    for image in [read.query.image, *(candidate.image for candidate in read.candidates)]:
        assert image is not None
        assert colour_of(image.load()) == "green"


def test_a_batch_of_queries_may_hold_them(rnx: Rnx, tmp_path: Path) -> None:
    collection = NodeCollection(tmp_path / "index")
    collection.add(
        [
            ImageNode(id_=name, image=image_base64(colour))
            for name, colour in (("blue", BLUE), ("green", GREEN))
        ]
    )
    collection.close()
    queries = tmp_path / "q.jsonl"
    queries.write_text(json.dumps({"qid": "1", "query": "", "image": SPELLINGS["usual"]}))
    result = rnx(
        "search", "--queries", queries, "--run", tmp_path / "run.trec", "--from", tmp_path / "index"
    )
    assert result.code == 0
    assert (tmp_path / "run.trec").read_text().split()[2] == "green"


@pytest.mark.parametrize("spelling", ["usual", "upper case", "percent-encoded", "large"])
def test_a_block_of_a_conversation_may_be_one(spelling: str) -> None:
    uri = SPELLINGS[spelling]
    for block in (
        ImageBlock(url=uri),
        ImageBlock(image=uri.encode()),
        ImageBlock(image=base64.b64decode(GREEN_BASE64)),
    ):
        (image,) = _turn(ChatMessage(blocks=[block])).contents
        assert not isinstance(image, str)
        assert colour_of(image.load()) == "green"


def test_a_language_model_is_shown_them_and_nothing_that_is_gone() -> None:
    from fakes.chat import StillRetriever, ToldLLM

    from llama_index_rnx.chat.engine import chat_engine

    nodes = [
        ImageNode(id_="inline", image_url=SPELLINGS["usual"]),
        ImageNode(id_="lost", text="bees", image_path="/gone/x.png"),
    ]
    llm = ToldLLM()
    hits = [NodeWithScore(node=node, score=1.0) for node in nodes] + text_hits("Bees make honey.")
    engine = chat_engine(StillRetriever(hits), None, llm, multimodal=True, condense=False)  # type: ignore[arg-type]
    assert str(engine.chat("what do bees make?")) == "an answer"
    blocks = [block for message in llm._sent[0] for block in message.blocks]
    (image,) = [block for block in blocks if isinstance(block, ImageBlock)]
    assert (
        colour_of(base64_source(image.resolve_image(as_base64=True).read(), "x").load()) == "green"
    )
    assert "bees" in llm.sent(0)
    assert "Bees make honey." in llm.sent(0)
