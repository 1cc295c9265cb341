"""What a notebook shows: the same cards as a page, in a cell that changes nothing around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import BLUE, RED, FakeEmbedding, FakeRanker, image_base64
from fakes.results import Page
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import (
    ImageNode,
    MetadataMode,
    NodeWithScore,
    QueryBundle,
    TextNode,
)

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.results import compare, style_sheet
from llama_index_rnx.results.hits import hits_of_lists


class Printer:
    def __init__(self) -> None:
        self.shown = ""

    def text(self, shown: str) -> None:
        self.shown += shown


def pretty(comparison: Any) -> str:
    printer = Printer()
    comparison._repr_pretty_(printer, cycle=False)
    return printer.shown


@pytest.fixture
def retriever() -> Iterator[RNXRetriever]:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    texts = [
        TextNode(id_=f"t{i}", text=text)
        for i, text in enumerate(["sea and rain", "red <b>rain</b>", "sea"])
    ]
    pictures = [
        ImageNode(id_="p", image=image_base64(RED)),
        ImageNode(id_="q", image=image_base64(BLUE)),
    ]
    collection.add([*texts, *pictures])
    yield RNXRetriever(collection)
    collection.close()


def test_both_lists_of_a_question(retriever: RNXRetriever) -> None:
    comparison = compare(retriever, RNXRerank(ranker=FakeRanker(), top_n=5), "red rain", n=3)
    assert comparison.after[0].id == "t1"
    assert [len(comparison.before), len(comparison.after)] == [3, 3]
    assert (
        [hit.rank for hit in comparison.before]
        == [hit.retrieval_rank for hit in comparison.before]
        == [1, 2, 3]
    )
    assert comparison.seconds > 0


class CountingNode(TextNode):
    """Counts how often somebody reads what LlamaIndex would embed of it."""

    _reads: list[MetadataMode] = PrivateAttr(default_factory=list)

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        self._reads.append(metadata_mode)
        return super().get_content(metadata_mode)


def test_a_node_of_both_lists_is_looked_into_once() -> None:
    nodes = [CountingNode(id_=name, text=name) for name in ("sea", "rain")]
    retrieved = [NodeWithScore(node=node, score=0.5) for node in nodes]
    before, after = hits_of_lists([retrieved, retrieved[::-1]], retrieved)
    assert [hit.kind for hit in (*before, *after)] == ["text"] * 4
    assert [hit.retrieval_rank for hit in after] == [2, 1]
    assert [node._reads.count(MetadataMode.EMBED) for node in nodes] == [1, 1]


def test_a_list_that_was_not_reranked(retriever: RNXRetriever) -> None:
    comparison = compare(retriever, None, QueryBundle("red rain"), n=2)
    assert list(comparison.before) == list(comparison.after)
    assert "Reranked" not in comparison._repr_html_()


def test_a_cell_shows_cards_and_closes_every_tag(retriever: RNXRetriever) -> None:
    cell = compare(retriever, RNXRerank(ranker=FakeRanker()), "red rain")._repr_html_()
    page = Page(re.sub(r"<style>.*?</style>", "", cell, flags=re.DOTALL))
    assert "<b>rain</b>" in page.words
    assert len(page.all("img")) == 4  # two pictures, in both lists
    assert all(str(attrs["src"]).startswith("data:image/jpeg;base64,") for attrs in page.all("img"))
    assert page.all("script") == page.all("body") == page.all("main") == []


def test_without_html_a_cell_is_a_table(retriever: RNXRetriever) -> None:
    shown = pretty(compare(retriever, RNXRerank(ranker=FakeRanker(), top_n=2), "red rain"))
    lines = [line for line in shown.splitlines() if line.strip()]
    assert "red rain" in lines[0]
    assert "t1" in shown
    assert "\x1b" not in shown
    assert all(line == line.rstrip() and len(line) <= 100 for line in lines)


def test_the_styles_reach_nothing_outside() -> None:
    """Every rule stands inside a block that begins with .rnx."""
    styles = re.sub(r"/\*.*?\*/", "", style_sheet(), flags=re.DOTALL)
    depth, outer = 0, ""
    for sign in styles:
        depth += (sign == "{") - (sign == "}")
        outer += sign if depth == 0 and sign != "}" else ""
    assert depth == 0
    assert [
        selector
        for selector in outer.split("\n")
        if selector.strip() and not selector.startswith(".rnx")
    ] == []
    assert "url(" not in styles
    assert "@import" not in styles
