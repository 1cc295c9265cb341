"""The page in a real browser, headless Chromium: upload, ask, look, follow up; nothing of the data
runs; small screens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import chromium
from fakes import RED, image_bytes, pdf_bytes
from fakes.chat import ToldLLM
from fakes.ui import page

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.chat import RNXChatEngine, conversations
from llama_index_rnx.chat.engine import chat_engine
from llama_index_rnx.rankers.mini import MiniRanker
from llama_index_rnx.ui.library import Library

playwright = pytest.importorskip(
    "playwright.sync_api", reason="not installed: pip install playwright"
)
CHROMIUM = chromium()
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None, reason="no browser: apt-get install chromium, or RNX_CHROMIUM=PATH"
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
WAIT = 60_000  # milliseconds; on a machine that is busy otherwise

HANDBOOK = [
    "Contents of the handbook for the tractor.",
    "The engine oil is changed every 200 hours.",
    "The front tyres are pumped to 1.6 bar.",
    "The headlights have bulbs of 55 watts.",
]
DRAWINGS = [
    "",
    "0.9 0.7 0.1 rg 60 80 m 150 260 l 240 80 l f",
    "0.1 0.1 0.1 RG 30 w 90 100 120 120 re S",
    "0.2 0.4 0.9 rg 60 80 180 40 re f 60 160 120 40 re f",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture
def index(tmp_path: Path, mini: MiniRanker) -> Iterator[tuple[NodeCollection, Library]]:
    collection = NodeCollection(tmp_path / "index")
    library = Library(collection, tmp_path / "index" / "uploads", max_bytes=2**20)
    try:
        yield collection, library
    finally:
        library.close()
        collection.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page as a visitor of their own. What it says in the console, a refused script too,
    fails the test.
    """
    contexts, heard = [], []

    def opened(url: str, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(WAIT)
        tab.on("pageerror", lambda error: heard.append(str(error)))
        tab.on("dialog", lambda dialog: heard.append(dialog.message))
        tab.on("console", lambda said: heard.append(said.text) if is_fault(said) else None)
        tab.goto(url)
        tab.locator("html[data-ready]").wait_for()
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert heard == []


def is_fault(said: Any) -> bool:
    """Of what stands in the console; that a request was refused stands there, too."""
    return (
        said.type == "error"
        and "the server responded with" not in said.text
        and "ERR_CONNECTION" not in said.text
    )


def send(tab: Any, name: str, data: bytes) -> None:
    tab.set_input_files(
        "#file", {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    )


def ask(tab: Any, question: str) -> Any:
    """The turn of a question that was typed, once it is answered."""
    before = tab.locator(".turn").count()
    tab.fill("#question", question)
    tab.keyboard.press("Enter")
    turn = tab.locator(".turn").nth(before)
    tab.locator(".turn[data-done]").nth(before).wait_for()
    return turn


def test_a_pdf_is_uploaded_asked_and_seen(index: Any, visit: Callable[..., Any]) -> None:
    with page(*index, conversations(index[0])) as url:
        tab = visit(url, viewport={"width": 1440, "height": 900})
        assert "Add a file" in tab.inner_text("#welcome")
        send(tab, "handbook.pdf", pdf_bytes(HANDBOOK, drawings=DRAWINGS))
        tab.locator("#files li.ready").wait_for()
        assert "4 pages" in tab.inner_text("#files")

        turn = ask(tab, "How often is the engine oil changed?")
        assert "every 200 hours" in turn.locator(".answer").inner_text()
        assert "handbook.pdf, page 2" in turn.locator(".source-card").first.inner_text()
        assert (
            tab.locator(".sheet img").evaluate(
                "seen => seen.decode().then(() => seen.naturalWidth)"
            )
            > 300
        )
        assert "page 2" in tab.inner_text(".sight h2")

        turn = ask(tab, "and how far are its tyres pumped up?")
        assert (
            turn.locator(".looked")
            .inner_text()
            .startswith("Looked for: How often is the engine oil changed? and")
        )
        assert "1.6 bar" in turn.locator(".answer").inner_text()

        turn.locator("summary", has_text="Before and after").click()
        assert (
            turn.locator(".retrieved .card").count() == turn.locator(".reranked .card").count() == 4
        )
        turn.locator(".reranked .card").nth(1).click()
        assert tab.inner_text(".sight h2").startswith("[2]")
        tab.keyboard.press("ArrowLeft")
        assert tab.inner_text(".sight h2").startswith("[1]")
        tab.focus(".sheet")
        tab.keyboard.press("Enter")
        assert tab.locator("#large[open] .stage img").count() == 1
        tab.keyboard.press("Escape")
        assert tab.locator("#large[open]").count() == 0

        tab.reload()
        tab.locator(".turn[data-done]").nth(1).wait_for()
        other = visit(url)
        assert other.locator(".turn").count() == 0, (
            "another visitor has a conversation of their own"
        )
        assert ask(other, "and how far are its tyres pumped up?").locator(".looked").count() == 0
        tab.click("#begin")
        assert tab.locator(".turn").count() == 0


def test_names_and_texts_are_shown_and_never_run(index: Any, visit: Callable[..., Any]) -> None:
    name, text = "<img src=x onerror=alert(1)>.png", "<script>alert(2)</script> <b>tractor</b>"
    llm = ToldLLM(answers=["<img src=y onerror=alert(4)> [1] [9] </div><script>alert(5)</script>"])

    def begin() -> RNXChatEngine:
        return chat_engine(RNXRetriever(index[0]), RNXRerank(top_n=3), llm)

    with page(*index, begin) as url:
        tab = visit(url)
        send(tab, name, image_bytes(RED))
        send(tab, "script.pdf", pdf_bytes([text.replace("(", "\\(").replace(")", "\\)")]))
        tab.locator("#files li.ready").nth(1).wait_for()
        assert name in tab.inner_text("#files")
        turn = ask(tab, "<b>tractor</b> <script>alert(6)</script>")
        assert turn.locator("h2").inner_text() == "<b>tractor</b> <script>alert(6)</script>"
        assert turn.locator(".answer").inner_text().startswith("<img src=y onerror=alert(4)>")
        assert turn.locator(".cite").count() == 1, "[9] is no source"
        turn.locator("summary", has_text="Before and after").click()
        tab.click(".passage summary")
        assert text in tab.inner_text(".sight")
        assert (
            tab.locator("img[src=x], img[src=y], .turn b:has-text('tractor'), .ui script").count()
            == 0
        )


def test_what_goes_wrong_is_one_line_and_the_page_goes_on(
    index: Any, visit: Callable[..., Any]
) -> None:
    llm = ToldLLM(answers=["fine [1]"], dies=1)
    with page(*index, lambda: chat_engine(RNXRetriever(index[0]), RNXRerank(top_n=3), llm)) as url:
        tab = visit(url)
        assert "the index is empty" in ask(tab, "anything?").locator(".answer").inner_text()
        for name, data, part in (
            ("none.pdf", b"", "is empty"),
            ("note.pdf", b"Dear diary", "neither a PDF nor an image"),
            ("big.pdf", bytes(2**20 + 1), "more than 1 MiB"),
        ):
            send(tab, name, data)
            tab.locator("#files li", has_text=part).wait_for()
        for _ in range(3):
            tab.click("#files .away >> nth=0")
        assert tab.locator("#files li").count() == 0
        for again in range(2):
            send(tab, f"handbook-{again}.pdf", pdf_bytes(HANDBOOK))
            tab.locator("#files li.ready").wait_for()
        tab.locator("#notice", has_text="is there already, as handbook-0.pdf").wait_for()
        turn = ask(tab, "How often is the engine oil changed?")
        assert "does not answer: nobody is there." in turn.locator(".fault").inner_text()
        assert turn.locator(".source-card").count() == 3
        assert (
            ask(tab, "How often is the engine oil changed?")
            .locator(".answer")
            .inner_text()
            .startswith("fine")
        )
    assert "is it still running?" in ask(tab, "hello?").locator(".fault").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_small_screen(index: Any, visit: Callable[..., Any], scheme: str) -> None:
    with page(*index, conversations(index[0])) as url:
        tab = visit(url, viewport={"width": 360, "height": 640}, color_scheme=scheme)
        tab.click(".stock summary")
        send(
            tab, "a-very-long-name-without-any-blank-in-it-that-has-no-end.pdf", pdf_bytes(HANDBOOK)
        )
        tab.locator("#files li.ready").wait_for()
        turn = ask(tab, "How often is the engine oil changed?")
        turn.locator("summary", has_text="Before and after").click()
        assert tab.evaluate("document.scrollingElement.scrollWidth") <= 360
        assert tab.evaluate("document.querySelector('.turns').scrollWidth") <= 360
        turn.locator(".cite").first.click()
        assert tab.locator("#large[open]").count() == 1, (
            "where there is no room beside the answer, a source is enlarged"
        )
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(251, 250, 247)", "dark": "rgb(22, 24, 27)"}[scheme]
