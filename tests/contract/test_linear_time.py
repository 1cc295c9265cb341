"""The time for foreign text grows with its length, not with its square: a page of blanks stops no
search.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest
from fakes.results import hit, section
from llama_index.core.schema import TextNode

from llama_index_rnx.batch.trec import field_of
from llama_index_rnx.chat.followups import standalone
from llama_index_rnx.chat.quotations import passages
from llama_index_rnx.console import SafeConsole
from llama_index_rnx.results import html_page, print_table
from llama_index_rnx.text import bm25, clean, clean_text, json_text, lines, one_line, sentences

SHORT, LONG = 12_500, 50_000  # characters
NOISE = 0.1  # seconds; a function that takes no longer is fast enough, whatever it grows with
QUERY = "pump oil x a 1"

PATTERNS = {
    "blanks": " ",
    "tabs": "\t",
    "line ends": "\n",
    "blank lines": " \n",
    "carriage returns": "\r\n",
    "hashes": "#",
    "heading marks": "# ",
    "headings": "# a\n",
    "heading ends": "# a.:. \n",
    "dots": ".",
    "dots and blanks": ". ",
    "initials": "a.",
    "sentences": "A b. ",
    "dots and closers": ".)",
    "quotes": "\"'",
    "closing quotes": ".\u201d\u2019",
    "brackets": "(",
    "closing brackets": ")",
    "stars": "*",
    "list marks": "\n- ",
    "numbers": "1",
    "numbered": "\n1. ",
    "numbers and line ends": "\n1",
    "letters": "x",
    "words": "x ",
    "other words": "oil pump ",
    "letters of other scripts": "日",
    "escapes": "\x1b",
    "titles": "\x1b]",
    "sequences": "\x1b[1",
    "controls": "\x00",
    "marks": "\u202e",
    "halves": "\ud800",
    "per cent": "%",
    "underscores": "__",
    "backticks": "`",
    "combining": "e\u0301",
}


def table(text: str) -> None:
    print_table([hit(1, text=text)], SafeConsole(file=io.StringIO(), width=80), title=QUERY)


def page(text: str) -> None:
    html_page([section([hit(1, text=text)], [hit(1, text=text)], query=QUERY)], title="t")


FUNCTIONS: dict[str, Callable[[str], object]] = {
    "table": table,
    "page": page,
    "title": lambda text: html_page([section([hit(1)], [], query=text)], title=text),
    "clean": clean,
    "lines": lines,
    "one_line": one_line,
    "json_text": json_text,
    "field_of": field_of,
    "clean_text": clean_text,
    "sentences": sentences,
    "passages": lambda text: list(passages(0, text)),
    "document_vector": bm25.document_vector,
    "query_vector": bm25.query_vector,
    "standalone": lambda text: standalone(["How?", text], text),
    "docid": lambda text: hit(1, node=TextNode(id_="n"), source=text, page=1).docid,
}


def repeated(pattern: str, length: int) -> list[str]:
    """Return a text of so many characters, alone, and inside a heading."""
    text = (pattern * (length // len(pattern) + 1))[:length]
    return [text, f"# Oil{text}pressure\n\nThe pump starts."]


def seconds(function: Callable[[str], object], pattern: str, length: int) -> float:
    texts = repeated(pattern, length)
    start = time.process_time()
    for text in texts:
        function(text)
    return time.process_time() - start


def grows_by_the_square(function: Callable[[str], object], pattern: str) -> bool:
    """Whether four times the text takes more than ten times as long: linear growth takes four
    times as long, growth by the square sixteen times.
    """
    long = seconds(function, pattern, LONG)
    return long > NOISE and long > 10 * seconds(function, pattern, SHORT)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_time_grows_with_the_length_of_a_text(name: str) -> None:
    function = FUNCTIONS[name]
    slow = {kind for kind, pattern in PATTERNS.items() if grows_by_the_square(function, pattern)}
    still_slow = {kind for kind in slow if grows_by_the_square(function, PATTERNS[kind])}
    assert still_slow == set()


def test_a_square_would_be_seen() -> None:
    def square(text: str) -> int:
        return sum(len(list(text)) for _ in range(0, len(text), 32))

    assert grows_by_the_square(square, "x")
