"""Retrieved nodes made by code."""

from __future__ import annotations

from llama_index.core.schema import NodeWithScore, TextNode


def text_hits(*texts: str) -> list[NodeWithScore]:
    """A retrieved list of texts with ids n0, n1, ... and falling scores."""
    return [
        NodeWithScore(
            node=TextNode(id_=f"n{i}", text=text, metadata={"place": i}), score=1 / (i + 1)
        )
        for i, text in enumerate(texts)
    ]
