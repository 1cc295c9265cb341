"""Hits and comparisons made by code, and a parser of the pages that show them."""

from __future__ import annotations

from html.parser import HTMLParser

from llama_index.core.schema import BaseNode, ImageNode, TextNode

from llama_index_rnx.results import Comparison, Hit


def hit(
    rank: int,
    retrieval_rank: int | None = None,
    text: str = "",
    node: BaseNode | None = None,
    **fields: object,
) -> Hit:
    node = node or TextNode(id_=f"n{rank}", text=text)
    values = {
        "rank": rank,
        "id": node.node_id,
        "score": 1 / rank,
        "retrieval_rank": retrieval_rank or rank,
        "retrieval_score": 0.03,
        "kind": "image" if isinstance(node, ImageNode) else "text",
        "source": f"notes/{node.node_id}.md",
        "page": None,
        "text": text,
        "node": node,
    }
    return Hit(**{**values, **fields})  # type: ignore[arg-type]


def section(
    before: list[Hit], after: list[Hit], query: str = "why", **fields: object
) -> Comparison:
    return Comparison(query=query, before=before, after=after, seconds=0.123, **fields)  # type: ignore[arg-type]


class Page(HTMLParser):
    """The tags and the words of a page; fails on tags that are not closed in order."""

    VOID = ("meta", "img", "br", "path")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]
