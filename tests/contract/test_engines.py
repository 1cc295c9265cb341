"""The retriever and the reranker inside LlamaIndex's engines: what the prompt of a multimodal model
receives.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import BLUE, GREEN, RED, FakeEmbedding, FakeRanker, image_base64, image_bytes, write_pdf
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ImageBlock, TextBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import ImageNode, MediaResource, Node, TextNode

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.candidates import PageNode

# LlamaIndex's chat memory closes nothing.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _collect_here() -> Iterator[None]:
    """Collect what the engines left open, before another test is blamed for it."""
    yield
    gc.collect()


class RecordingLLM(MockLLM):
    """Answers with a fixed word and records every message that it gets."""

    _sent: list[ChatMessage] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "RecordingLLM"

    def _answer(self, messages: Sequence[ChatMessage]) -> ChatResponse:
        self._sent.extend(messages)
        return ChatResponse(message=ChatMessage(role="assistant", content="an answer"))

    def chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        return self._answer(messages)

    async def achat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        return self._answer(messages)

    def blocks(self, kind: type) -> list[Any]:
        return [
            block for message in self._sent for block in message.blocks if isinstance(block, kind)
        ]

    def text(self) -> str:
        return "\n".join(block.text for block in self.blocks(TextBlock))


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[NodeCollection]:
    found = NodeCollection(":memory:", embedding=FakeEmbedding())
    pdf = write_pdf(tmp_path / "paper.pdf", ["a page of red words"], colour=RED)
    found.add(
        [
            TextNode(id_="text", text="a red apple fell"),
            ImageNode(id_="image", image=image_base64(RED), image_mimetype="image/png"),
            Node(
                id_="both",
                text_resource=MediaResource(text="red caption"),
                image_resource=MediaResource(data=image_bytes(RED, (5, 5))),
            ),
            PageNode(id_="page", text="a page of red words", pdf_path=str(pdf), page=1),
            ImageNode(id_="blue", image=image_base64(BLUE), image_mimetype="image/png"),
            ImageNode(id_="green", image=image_base64(GREEN), image_mimetype="image/png"),
            TextNode(id_="rain", text="rain over the sea"),
        ]
    )
    yield found
    found.close()


@pytest.fixture
def parts(collection: NodeCollection) -> tuple[RNXRetriever, RNXRerank, FakeRanker]:
    ranker = FakeRanker()
    return RNXRetriever(collection, top_k=100), RNXRerank(ranker=ranker, top_n=4), ranker


def check(llm: RecordingLLM, sources: Sequence[Any], ranker: FakeRanker) -> None:
    """Check that the four red nodes were chosen out of seven, and that text and images of all of
    them reached the prompt.
    """
    assert {source.node_id for source in sources} == {"text", "image", "both", "page"}
    assert ranker.reads == [7]
    assert "a red apple fell" in llm.text()
    images = [block.resolve_image().read() for block in llm.blocks(ImageBlock)]
    assert image_bytes(RED) in images
    assert image_bytes(BLUE) not in images
    assert image_bytes(GREEN) not in images
    # The page is drawn as a JPEG.
    assert any(data.startswith(b"\xff\xd8") for data in images)
    assert "rain over the sea" not in llm.text()


def test_query_engine(parts: tuple[RNXRetriever, RNXRerank, FakeRanker]) -> None:
    retriever, reranker, ranker = parts
    llm = RecordingLLM(is_chat_model=True)
    engine = RetrieverQueryEngine.from_args(
        retriever, llm=llm, node_postprocessors=[reranker], multimodal=True
    )
    answer = engine.query("red")
    assert str(answer) == "an answer"
    check(llm, answer.source_nodes, ranker)


async def test_query_engine_async(parts: tuple[RNXRetriever, RNXRerank, FakeRanker]) -> None:
    retriever, reranker, ranker = parts
    llm = RecordingLLM(is_chat_model=True)
    engine = RetrieverQueryEngine.from_args(
        retriever, llm=llm, node_postprocessors=[reranker], multimodal=True
    )
    answer = await engine.aquery("red")
    assert str(answer) == "an answer"
    check(llm, answer.source_nodes, ranker)


def test_the_order_of_the_prompt_is_that_of_the_reranker(collection: NodeCollection) -> None:
    llm, ranker = RecordingLLM(is_chat_model=True), FakeRanker()
    retriever, reranker = RNXRetriever(collection), RNXRerank(ranker=ranker, top_n=2)
    engine = RetrieverQueryEngine.from_args(
        retriever, llm=llm, node_postprocessors=[reranker], multimodal=True
    )
    answer = engine.query("rain over the sea in red")
    assert answer.source_nodes[0].node_id == "rain"
    scores = [source.score for source in answer.source_nodes]
    assert scores == sorted(scores, reverse=True)


def test_a_plain_query_engine_with_a_text_model(
    parts: tuple[RNXRetriever, RNXRerank, FakeRanker],
) -> None:
    retriever, reranker, _ = parts
    engine = RetrieverQueryEngine.from_args(
        retriever, llm=MockLLM(), node_postprocessors=[reranker]
    )
    answer = engine.query("red")
    assert "a red apple fell" in str(answer)  # MockLLM repeats its prompt
    assert len(answer.source_nodes) == 4


def test_an_empty_collection_gives_an_empty_answer() -> None:
    retriever = RNXRetriever(NodeCollection(":memory:", embedding=FakeEmbedding()))
    reranker = RNXRerank(ranker=FakeRanker())
    engine = RetrieverQueryEngine.from_args(
        retriever, llm=MockLLM(), node_postprocessors=[reranker]
    )
    assert engine.query("red").source_nodes == []


@pytest.mark.parametrize("kind", [ContextChatEngine, CondensePlusContextChatEngine])
async def test_chat_engines(kind: Any, parts: tuple[RNXRetriever, RNXRerank, FakeRanker]) -> None:
    retriever, reranker, ranker = parts
    llm = RecordingLLM(is_chat_model=True)
    engine = kind.from_defaults(retriever=retriever, llm=llm, node_postprocessors=[reranker])
    answer = engine.chat("red")
    assert {source.node_id for source in answer.source_nodes} == {"text", "image", "both", "page"}
    assert "a red apple fell" in llm.text()
    ranker.reads.clear()
    again = await engine.achat("red")
    assert {source.node_id for source in again.source_nodes} == {"text", "image", "both", "page"}


async def test_the_multimodal_chat_engine_shows_the_images(
    parts: tuple[RNXRetriever, RNXRerank, FakeRanker],
) -> None:
    chat_engine = pytest.importorskip("llama_index.core.chat_engine.multi_modal_context")
    retriever, reranker, ranker = parts
    llm = RecordingLLM(is_chat_model=True)
    engine = chat_engine.MultiModalContextChatEngine.from_defaults(
        retriever=retriever, multi_modal_llm=llm, node_postprocessors=[reranker]
    )
    answer = engine.chat("red")
    assert {source.node_id for source in answer.source_nodes} == {"text", "image", "both", "page"}
    assert llm.blocks(ImageBlock)
    llm._sent.clear()
    ranker.reads.clear()
    again = await engine.achat("red")
    assert {source.node_id for source in again.source_nodes} == {"text", "image", "both", "page"}
    assert llm.blocks(ImageBlock)
