"""Conversations: sources first, follow-up questions, memory, a language model that is dead, slow,
or sees pictures.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fakes import RED, FakeEmbedding, FakeRanker, image_base64
from fakes.chat import ToldLLM
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.llms import CompletionResponse
from llama_index.core.schema import ImageNode, TextNode

from llama_index_rnx import NodeCollection, RNXError, RNXRerank, RNXRetriever
from llama_index_rnx.chat import (
    Event,
    FailedEvent,
    RetrievedEvent,
    RNXChatEngine,
    TextEvent,
    conversations,
)
from llama_index_rnx.chat.engine import NOTHING, chat_engine
from llama_index_rnx.chat.followups import standalone

# LlamaIndex leaves event loops open.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def collection() -> Iterator[NodeCollection]:
    found = NodeCollection(":memory:", embedding=FakeEmbedding())
    texts = [
        "Bees make honey.",
        "Bees sleep in winter.",
        "Rust is iron oxide.",
        "Rain {falls} down.",
    ]
    nodes = [
        TextNode(id_=f"t{i}", text=text, metadata={"source": f"{i}.md"})
        for i, text in enumerate(texts)
    ]
    picture = ImageNode(
        id_="red",
        image=image_base64(RED),
        image_mimetype="image/png",
        metadata={"source": "red.png"},
    )
    found.add([*nodes, picture])
    yield found
    found.close()
    gc.collect()


def engine_of(collection: NodeCollection, llm: Any = None, **options: Any) -> RNXChatEngine:
    reranker = RNXRerank(ranker=FakeRanker(), top_n=3)
    return chat_engine(
        RNXRetriever(collection), reranker, llm, extractor=FakeRanker(window=1_000), **options
    )


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextEvent))


def test_the_sources_come_before_the_answer(collection: NodeCollection) -> None:
    events = list(engine_of(collection).turn("what do bees make?"))
    assert isinstance(events[0], RetrievedEvent)
    assert events[0].section.after[0].id == "t0"
    assert len(events[0].section.after) == len(events[0].section.before) == 3
    assert text_of(events).startswith("Bees make honey. [1]")


def test_a_follow_up_is_looked_for_with_what_it_points_to(collection: NodeCollection) -> None:
    engine = engine_of(collection)
    list(engine.turn("what do bees make?"))
    found, *answer = engine.turn("and in winter?")
    assert isinstance(found, RetrievedEvent)
    assert found.section.query == "what do bees make? and in winter?"
    assert "Bees sleep in winter. [" in text_of(answer)
    engine.reset()
    assert next(iter(engine.turn("and in winter?"))).section.query == "and in winter?"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("before", "question", "expected"),
    [
        ([], "and now?", "and now?"),
        (["Why does iron rust?"], "How do bees make honey?", "How do bees make honey?"),
        (["Why does iron rust?"], "How often?", "Why does iron rust? How often?"),
        (
            ["Why does iron rust?"],
            "How fast does it go on wet days?",
            "Why does iron rust? How fast does it go on wet days?",
        ),
        (
            ["Why does iron rust?"],
            "What about zinc plates?",
            "Why does iron rust? What about zinc plates?",
        ),
        (
            ["a b?", "Why does iron rust?", "And zinc?"],
            "And tin?",
            "Why does iron rust? And zinc? And tin?",
        ),
        (["one?", "two?", "three?", "four?"], "five?", "two? three? four? five?"),
    ],
)
def test_which_questions_stand_alone(before: list[str], question: str, expected: str) -> None:
    assert standalone(before, question) == expected


def test_a_language_model_gets_numbered_sources_and_the_history(collection: NodeCollection) -> None:
    llm = ToldLLM(answers=["honey [1]", "what do bees do in winter?", "they sleep [1]"])
    engine = engine_of(collection, llm)
    events = list(engine.turn("what do bees make {x}?"))
    assert [event.text for event in events if isinstance(event, TextEvent)] == ["honey ", "[1] "]
    assert "number: [1]\nsource: 0.md\n\nBees make honey." in llm.sent(0)
    found, *answer = engine.turn("and in winter?")
    assert isinstance(found, RetrievedEvent)
    # The model was asked to put the question into words that stand alone.
    assert "what do bees make {x}?" in llm.sent(1)
    assert found.section.query == "what do bees do in winter?"
    assert found.section.after[0].id == "t1"
    assert text_of(answer).strip() == "they sleep [1]"
    assert "honey [1]" in llm.sent(2)
    assert [message.content for message in engine.chat_history][:2] == [
        "what do bees make {x}?",
        "honey [1] ",
    ]


def test_a_dead_language_model_costs_the_answer_and_not_the_sources(
    collection: NodeCollection,
) -> None:
    engine = engine_of(collection, ToldLLM(dies=1))
    found, failed = engine.turn("what do bees make?")
    assert isinstance(found, RetrievedEvent)
    assert found.section.after[0].id == "t0"
    assert isinstance(failed, FailedEvent)
    assert failed.line.startswith(
        "the language model (told) does not answer: nobody is there. The sources"
    )
    assert "\n" not in failed.line
    assert engine.chat_history == []


def test_one_that_dies_over_a_follow_up(collection: NodeCollection) -> None:
    engine = engine_of(collection, ToldLLM(dies=2))
    list(engine.turn("what do bees make?"))
    found, failed = engine.turn("and in winter?")
    assert isinstance(found, RetrievedEvent)
    assert found.section.query == "what do bees make? and in winter?"
    assert isinstance(failed, FailedEvent)


def test_a_turn_that_is_left_alone_is_not_remembered(collection: NodeCollection) -> None:
    engine = engine_of(collection, ToldLLM(answers=["a long answer"]))
    events = engine.turn("what do bees make?")
    assert [next(events), next(events)][1] == TextEvent(text="a ")
    events.close()  # type: ignore[attr-defined]
    assert engine.chat_history == []


def test_pictures_reach_a_model_that_sees(collection: NodeCollection) -> None:
    llm = ToldLLM()
    engine = engine_of(collection, llm, multimodal=True, condense=False)
    list(engine.turn("red bees"))
    list(engine.turn("and it?"))
    blocks = [block for messages in llm._sent for message in messages for block in message.blocks]
    assert any(isinstance(block, ImageBlock) for block in blocks)
    assert "number: [2]" in llm.sent(0)
    assert "Bees" in llm.sent(0)
    assert "The conversation so far" not in llm.sent(0)
    assert "The conversation so far:\nuser: red bees\nassistant: an answer" in llm.sent(1)
    assert "Question: and it?" in llm.sent(1)


async def test_the_methods_of_every_chat_engine(collection: NodeCollection) -> None:
    engine = engine_of(collection)
    assert str(engine.chat("what do bees make?")).startswith("Bees make honey. [1]")
    assert "sleep" in str(await engine.achat("and in winter?"))
    assert len(engine.chat_history) == 4
    assert str(await engine_of(collection, ToldLLM()).achat("what do bees make?")) == "an answer"


@pytest.mark.parametrize("reranks", [True, False])
@pytest.mark.parametrize("llm", [None, ToldLLM()])
async def test_every_way_of_asking_gives_the_same_answer(
    collection: NodeCollection, reranks: bool, llm: Any
) -> None:
    def engine() -> RNXChatEngine:
        reranker = RNXRerank(ranker=FakeRanker(), top_n=3) if reranks else None
        return chat_engine(
            RNXRetriever(collection, top_k=4), reranker, llm, extractor=FakeRanker(window=1_000)
        )

    question, asking = "what do bees make?", [engine() for _ in range(4)]
    answers = [asking[0].chat(question), await asking[1].achat(question)]
    streamed = [asking[2].stream_chat(question), await asking[3].astream_chat(question)]
    texts = [
        "".join(streamed[0].response_gen),
        "".join([piece async for piece in streamed[1].async_response_gen()]),
    ]
    assert {text.strip() for text in [*map(str, answers), *texts]} == {str(answers[0])}
    assert "t0" in {hit.node_id for hit in answers[0].source_nodes}
    for answer in [*answers, *streamed]:
        assert [hit.node_id for hit in answer.source_nodes] == [
            hit.node_id for hit in answers[0].source_nodes
        ]
    for one in asking:
        assert [str(message.content).strip() for message in one.chat_history] == [
            question,
            str(answers[0]),
        ]
    assert "".join(
        event.text for event in engine().turn(question) if isinstance(event, TextEvent)
    ).startswith(str(answers[0])[:9])


@pytest.mark.parametrize(
    ("question", "part"),
    [(" \n", "is empty"), ("x" * 4_001, "4,001 characters; 4,000 are allowed")],
)
def test_questions_that_are_refused(collection: NodeCollection, question: str, part: str) -> None:
    with pytest.raises(RNXError, match=part):
        list(engine_of(collection).turn(question))


def test_an_empty_index() -> None:
    empty = NodeCollection(":memory:", embedding=FakeEmbedding())
    events = list(engine_of(empty, ToldLLM()).turn("what do bees make?"))
    assert text_of(events) == NOTHING


class EmptyCompletion(ToldLLM):
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text="  ")


def test_a_model_that_rewrites_to_nothing(collection: NodeCollection) -> None:
    engine = engine_of(collection, EmptyCompletion())
    list(engine.turn("what do bees make?"))
    assert next(iter(engine.turn("and in winter?"))).section.query == "and in winter?"  # type: ignore[union-attr]


def test_conversations_share_models_and_nothing_else(collection: NodeCollection) -> None:
    begin = conversations(collection, llm="test_chat:ToldLLM", options={"answers": ["x"]})
    one, other = begin(), begin()
    list(one.turn("what do bees make?"))
    assert len(one.chat_history) == 2
    assert other.chat_history == []
    assert one.writer == "told"
    assert conversations(collection, llm="llama_index.core.llms:MockLLM")().writer == "MockLLM"
