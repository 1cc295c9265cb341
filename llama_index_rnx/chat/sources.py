"""The sources of an answer as a language model is shown them: with their numbers, and with their
images inside. They know no conversation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.response_synthesizers import CompactAndRefine
from llama_index.core.schema import BaseNode, NodeWithScore

from llama_index_rnx.candidates import with_inline_image
from llama_index_rnx.results import Hit


class MultimodalSynthesizer(CompactAndRefine):
    """Shows a language model the images of nodes wherever they are; one that is gone costs itself,
    not the answer.
    """

    def synthesize(
        self, query: Any, nodes: list[NodeWithScore], *args: Any, **options: Any
    ) -> RESPONSE_TYPE:
        """Return the answer of the language model."""
        return super().synthesize(query, with_inline_images(nodes), *args, **options)

    async def asynthesize(
        self, query: Any, nodes: list[NodeWithScore], *args: Any, **options: Any
    ) -> RESPONSE_TYPE:
        """Return the answer of the language model; images are read beside the event loop."""
        inline = await asyncio.to_thread(with_inline_images, nodes)
        return await super().asynthesize(query, inline, *args, **options)


def numbered(hits: Sequence[Hit]) -> list[NodeWithScore]:
    """Return the nodes with their numbers in the text that a language model is shown, so that it
    can name them.
    """
    return [NodeWithScore(node=_numbered_node(hit), score=hit.score) for hit in hits]


def with_inline_images(nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    """Return the nodes with their images inside, as base64."""
    return [
        NodeWithScore(node=with_inline_image(scored.node), score=scored.score) for scored in nodes
    ]


def _numbered_node(hit: Hit) -> BaseNode:
    node = hit.node.model_copy()
    node.metadata = {"number": f"[{hit.rank}]", **hit.node.metadata}
    return node
