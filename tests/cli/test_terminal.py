"""A conversation in a terminal: answers with sources, commands, Ctrl-C, the end of the input,
nothing of the data unescaped.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import FakeEmbedding, FakeRanker, write_pdf
from fakes.chat import ToldLLM
from llama_index.core.schema import TextNode

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.chat.engine import chat_engine
from llama_index_rnx.cli.terminal import Terminal
from llama_index_rnx.console import SafeConsole
from llama_index_rnx.ingestion import index_paths

# LlamaIndex leaves event loops open.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def collection(tmp_path: Any) -> Iterator[NodeCollection]:
    found = NodeCollection(":memory:", embedding=FakeEmbedding())
    pdf = write_pdf(tmp_path / "bees.pdf", ["Bees sleep.", "Bees make honey."])
    index_paths(found, [pdf], show_progress=False)
    found.add(
        [
            TextNode(
                id_="t",
                text="Rust is [red]iron[/red] \x1b[31moxide.",
                metadata={"source": "rust\x1b[0m.md"},
            )
        ]
    )
    yield found
    found.close()


def talk(
    collection: NodeCollection,
    *typed: str | type[BaseException],
    llm: Any = None,
    encoding: str = "utf-8",
) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    reranker = RNXRerank(ranker=FakeRanker(), top_n=2)
    engine = chat_engine(RNXRetriever(collection), reranker, llm, extractor=FakeRanker())
    left = iter(typed)

    def read() -> str:
        line = next(left, EOFError)
        if not isinstance(line, str):
            raise line
        return line

    Terminal(engine, SafeConsole(file=stream, width=90, highlight=False), read).run()
    stream.flush()
    assert next(left, None) is None, "it stopped too early"
    return raw.getvalue().decode(encoding)


def test_an_answer_with_its_sources(collection: NodeCollection) -> None:
    out = talk(collection, "what do bees make?")
    assert "Answers are quoted from the files; no language model" in out
    assert "Bees make honey. [1]\n" in out
    assert "[1] bees.pdf, page 2  0.50" in out
    assert "[2] bees.pdf, page 1  0.25" in out


def test_what_is_shown_is_plain_text(collection: NodeCollection) -> None:
    out = talk(collection, "rust iron", "/sources")
    assert "Rust is [red]iron[/red] oxide. [1]" in out
    assert "[1] rust.md" in out
    assert "\x1b" not in out


def test_commands(collection: NodeCollection) -> None:
    out = talk(
        collection,
        "/sources",
        "/help",
        "honey",
        "/sources",
        "/before",
        "/new",
        "/before",
        "/nope",
        "",
        "/quit",
    )
    assert out.count("Nothing was asked yet.") == 2
    assert "/new      forget" in out
    assert "sources  " in out
    assert "retrieved  " in out
    assert "There is no such command" in out


def test_ctrl_c_leaves_at_the_prompt_and_stops_an_answer(
    collection: NodeCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[str] = []
    original = ToldLLM.pieces

    def interrupted(self: ToldLLM, messages: Any) -> Iterator[str]:
        for piece in original(self, messages):
            yield piece
            if not answered:
                answered.append(piece)
                raise KeyboardInterrupt

    monkeypatch.setattr(ToldLLM, "pieces", interrupted)
    out = talk(
        collection,
        "honey",
        "honey again",
        KeyboardInterrupt,
        llm=ToldLLM(answers=["one two", "three four"]),
    )
    assert "one \nstopped." in out
    assert "three four" in out


def test_a_dead_language_model_and_a_question_that_is_too_long(collection: NodeCollection) -> None:
    out = talk(collection, "honey", "x" * 5_000, llm=ToldLLM(dies=1))
    assert "Answers are written by told" in out
    assert "does not answer: nobody is there" in " ".join(out.split())
    assert "[1] bees.pdf, page 2" in out
    assert "5,000 characters" in out


def test_without_unicode(collection: NodeCollection) -> None:
    assert "was" in talk(collection, "sleep bees rust iron", encoding="ascii")
