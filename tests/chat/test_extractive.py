"""Quotes: chosen by the ranker, as they stand in the source, with its number; honest where there is
nothing to quote.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from fakes import RED, FakeRanker, image_base64
from fakes.chat import StillRetriever
from llama_index.core.base.response.schema import AsyncStreamingResponse
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import ImageNode, NodeWithScore, TextNode

from llama_index_rnx.candidates import Query
from llama_index_rnx.chat import ANSWER_WORDS, quotes
from llama_index_rnx.chat.extractive import ExtractiveSynthesizer
from llama_index_rnx.chat.quotations import CONSIDERED, passages, prefilter_by_overlap
from llama_index_rnx.memory import MemoryStore


def chosen(query: str, *texts: str) -> list[tuple[str, int]]:
    return [
        (quote.text, quote.source)
        for quote in quotes(FakeRanker(window=1_000), MemoryStore(), Query(text=query), texts)
    ]


def said(query: str, *nodes: Any) -> str:
    hits = [NodeWithScore(node=node, score=1.0) for node in nodes]
    return str(ExtractiveSynthesizer(FakeRanker(window=1_000)).synthesize(query, hits))


def long(words: str) -> str:
    """A sentence that is a passage of its own."""
    return f"{words} {'and so on ' * 7}it goes."


def test_the_passages_that_the_ranker_puts_first() -> None:
    text = f"{long('Sun all day')} {long('Red rain fell')} {long('Snow at night')}"
    assert chosen("red rain", text) == [(long("Red rain fell"), 0)]


def test_best_first_over_all_texts_and_never_twice() -> None:
    once, again = long("Rain is water"), long("Red rain fell")
    assert chosen("red rain", once, again, again) == [(again, 1), (once, 0)]


def test_an_answer_is_short() -> None:
    texts = [long(f"Rain number {i} fell") for i in range(20)]
    found = chosen("rain", *texts)
    assert 1 < sum(len(text.split()) for text, _ in found) <= ANSWER_WORDS


def test_passages_are_whole_sentences_and_headings_go_with_what_follows() -> None:
    found = [
        quote.text
        for quote in passages(
            0, f"# Rain\n\nIt is wet. It falls.\n\n**Snow**\n{long('Snow is white')}"
        )
    ]
    assert found[0] == "Rain \u00b7 It is wet. It falls. Snow"
    assert found[-2] == f"Snow \u00b7 {long('Snow is white')}"
    assert [quote.first for quote in passages(0, "One. Two.")] == [0, 1]


def test_of_many_passages_those_with_the_words_are_read() -> None:
    ranker = FakeRanker(window=1_000)
    texts = [long(f"Dry day {i}") for i in range(100)] + [long("Rain at last")]
    found = quotes(ranker, MemoryStore(), Query(text="rain"), texts)
    assert found[0].source == 100
    assert ranker.reads == [CONSIDERED]


def test_thinning_keeps_the_order() -> None:
    found = [
        quote
        for source, text in enumerate(["a rain", "a sun", "rain rain"])
        for quote in passages(source, text)
    ]
    assert [quote.text for quote in prefilter_by_overlap("rain", found, 2)] == [
        "a rain",
        "rain rain",
    ]


def test_every_quote_has_its_source() -> None:
    answer = said(
        "red rain", TextNode(text=long("Rain is water")), TextNode(text=long("Red rain fell"))
    )
    assert answer == f"{long('Red rain fell')} [2]\n\n{long('Rain is water')} [1]"


@pytest.mark.parametrize(
    ("query", "nodes", "part"),
    [
        ("rain", [], "Nothing was found"),
        (
            "rain",
            [TextNode(text="Sun.")],
            "Nothing answers this clearly. The nearest passage:\n\nSun. [1]",
        ),
        (
            "red",
            [ImageNode(image=image_base64(RED), metadata={"source": "r.png"})],
            "The best match is an image: r.png [1]",
        ),
        (
            "rain",
            [ImageNode(image=image_base64(RED), metadata={"source": "r.png"})],
            "Nothing answers this clearly. The best",
        ),
        (
            "rain",
            [ImageNode(image="%%%", metadata={"source": "r.png"})],
            "Nothing answers this clearly. The best match",
        ),
        (
            "red",
            [ImageNode(image=image_base64(RED)), TextNode(text="A red sea.")],
            "[1]\n\nA red sea. [2]",
        ),
    ],
)
def test_what_is_said_where_there_is_little_to_quote(
    query: str, nodes: list[Any], part: str
) -> None:
    assert part in said(query, *nodes)


def test_what_is_looked_for_may_differ_from_what_was_asked() -> None:
    nodes = [TextNode(text=f"{long('Sun all day')} {long('Red rain fell')}")]
    made = ExtractiveSynthesizer(FakeRanker(), query="red rain")
    assert (
        str(made.synthesize("and when?", [NodeWithScore(node=node) for node in nodes]))
        == f"{long('Red rain fell')} [1]"
    )


async def test_in_a_query_engine() -> None:
    hits = [NodeWithScore(node=TextNode(id_="n", text="Rust is iron oxide."), score=0.5)]
    engine = RetrieverQueryEngine(
        StillRetriever(hits), response_synthesizer=ExtractiveSynthesizer(FakeRanker())
    )
    for answer in (engine.query("what is rust?"), await engine.aquery("what is rust?")):
        assert str(answer) == "Rust is iron oxide. [1]"
        assert [node.node_id for node in answer.source_nodes] == ["n"]


def test_streamed() -> None:
    made = ExtractiveSynthesizer(FakeRanker(), streaming=True)
    response: Any = made.synthesize("rain", [NodeWithScore(node=TextNode(text="Rain."))])
    assert list(response.response_gen) == ["Rain. [1]"]
    assert made.get_response("rain", ["Sun.", "Rain."]) == "Rain. [2]"


@pytest.mark.parametrize("texts", [["Rain. It falls."], []])
@pytest.mark.parametrize("streaming", [False, True])
async def test_a_query_engine_answers_alike_by_every_way(texts: list[str], streaming: bool) -> None:
    hits = [NodeWithScore(node=TextNode(id_=text, text=text)) for text in texts]
    synthesizer = ExtractiveSynthesizer(FakeRanker(), streaming=streaming)
    engine = RetrieverQueryEngine(StillRetriever(hits), response_synthesizer=synthesizer)
    answer, later = engine.query("rain"), await engine.aquery("rain")
    expected = ExtractiveSynthesizer(FakeRanker()).synthesize("rain", hits)
    assert (
        [hit.node_id for hit in later.source_nodes]
        == [hit.node_id for hit in answer.source_nodes]
        == texts
    )
    assert answer.metadata == later.metadata == expected.metadata
    if streaming:
        assert isinstance(later, AsyncStreamingResponse)
        assert [piece async for piece in later.async_response_gen()] == [str(expected)]
        assert str(await later.get_response()) == str(expected)
    else:
        assert str(later) == str(expected)
    assert str(answer) == str(expected)


async def test_streams_may_be_read_from_the_generator() -> None:
    made = ExtractiveSynthesizer(FakeRanker(), streaming=True)
    response: Any = await made.asynthesize("rain", [NodeWithScore(node=TextNode(text="Rain."))])
    assert [piece async for piece in response.response_gen] == ["Rain. [1]"]
    assert await made.aget_response("rain", ["Sun.", "Rain."]) == "Rain. [2]"


class WaitingRanker(FakeRanker):
    """Scores only after somebody else let it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_score = threading.Event()

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        assert self.may_score.wait(timeout=10), "nobody else could work meanwhile"
        return super().score(query, memories)


@pytest.mark.parametrize("method", ["asynthesize", "aget_response"])
async def test_the_event_loop_goes_on_while_the_ranker_works(method: str) -> None:
    ranker = WaitingRanker()
    synthesizer = ExtractiveSynthesizer(ranker)
    nodes = [NodeWithScore(node=TextNode(text="Rain."))]
    texts: Any = nodes if method == "asynthesize" else ["Rain."]

    answer = asyncio.create_task(getattr(synthesizer, method)("rain", texts))
    # The task gets its turn first; if it blocked the loop, this line would come too late.
    await asyncio.sleep(0)
    ranker.may_score.set()
    assert str(await answer) == "Rain. [1]"


async def test_other_chat_engines_stream_them() -> None:
    hits = [NodeWithScore(node=TextNode(text="Rain."))]
    synthesizer = ExtractiveSynthesizer(FakeRanker(), streaming=True)
    engine = RetrieverQueryEngine(StillRetriever(hits), response_synthesizer=synthesizer)
    chat = CondenseQuestionChatEngine.from_defaults(query_engine=engine, llm=MockLLM())
    assert "".join(chat.stream_chat("rain").response_gen) == "Rain. [1]"
    chat.reset()
    answer = await chat.astream_chat("rain")
    assert "".join([piece async for piece in answer.async_response_gen()]) == "Rain. [1]"


def test_halves_of_surrogate_pairs_are_quoted_as_question_marks(mini: Any) -> None:
    synthesizer = ExtractiveSynthesizer(mini)
    nodes = [NodeWithScore(node=TextNode(text="Bees \ud83d make honey from nectar."))]
    said = str(synthesizer.synthesize("What do bees make? \ud83d", nodes))
    assert said == "Bees ? make honey from nectar. [1]"
    assert (
        synthesizer.get_response("What do bees make?", ["Bees \ud83d make honey from nectar."])
        == said
    )
