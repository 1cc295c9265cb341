"""Cuts out the stretch of a text that says most about a query, and marks the query's words in it.
It knows no nodes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from llama_index_rnx.text import bm25
from llama_index_rnx.text.sanitize import printable_lines

# Characters in which the best excerpt is looked for.
MAX_TEXT = 8_000

# Characters that are looked at before white space is shrunk.
MAX_RAW = 8 * MAX_TEXT

# An excerpt may begin where this share of the largest number of terms follows.
GOOD_SHARE = 0.7

# Question words say nothing about an answer. BM25 drops articles and the like itself.
QUESTION_WORDS = frozenset(
    """can could did do does each from has have how i many me much my often our should so
    what when where which who why you your""".split()  # noqa: SIM905
)

_WORD = re.compile(r"\w+")

# The position of a word in a text, and the term of the query that it is.
TermPosition = tuple[int, int]


def excerpt(text: str, terms: frozenset[int], length: int) -> str:
    """Return an early stretch of a text, about `length` characters, that holds many of the query's
    terms; the beginning of the text if it holds none.
    """
    if len(text) <= length:
        return text

    text = text[:MAX_TEXT]
    hits = [
        (word.start(), term) for word in _WORD.finditer(text) for term in _terms_of(word[0]) & terms
    ]
    best = _first_rich_position(hits, length * 3 // 4)

    # Begin and end between two words.
    start = 0
    if best >= length // 3:
        start = text.rfind(" ", 0, max(1, best - length // 8)) + 1
    end = len(text)
    if start + length < end:
        end = text.rfind(" ", start, start + length)

    # A single word may be longer than the excerpt.
    if end <= start:
        end = start + length

    before = "… " if start else ""
    after = " …" if end < len(text) else ""
    return f"{before}{text[start:end].strip()}{after}"


def _first_rich_position(hits: Sequence[TermPosition], width: int) -> int:
    """Return the position of the first hit after which about as many terms follow as anywhere."""
    richness = _richness(hits, width)
    threshold = GOOD_SHARE * max(richness, default=0)
    for (position, _), terms in zip(hits, richness, strict=True):
        if terms >= threshold:
            return position
    return 0


def _richness(hits: Sequence[TermPosition], width: int) -> list[int]:
    """Return for each hit how many terms occur in the `width` characters from its position on."""
    counts: Counter[int] = Counter()
    richness: list[int] = []
    end = 0
    for position, term in hits:
        while end < len(hits) and hits[end][0] < position + width:
            counts[hits[end][1]] += 1
            end += 1
        richness.append(len(counts))

        counts[term] -= 1
        if not counts[term]:
            del counts[term]
    return richness


def prose(text: str) -> str:
    """Turn headings of Markdown into sentences, so that they do not run into the text when it
    becomes one line.
    """
    return "\n".join(map(_sentence, text[:MAX_RAW].split("\n")))


def _sentence(line: str) -> str:
    """Return a heading without its marks, and with a full stop if it has no sign at its end; any
    other line as it is.
    """
    words = line.lstrip("#")
    level = len(line) - len(words)
    if not 1 <= level <= 6 or not words.startswith(" "):
        return line

    heading = words.strip()
    if heading.endswith((".", ":")):
        heading = heading[:-1]
    return f"{heading}." if heading and not heading.endswith(("?", "!")) else heading


def query_terms(query: str) -> frozenset[int]:
    """Return the query's words as BM25 compares them, without question words."""
    words = (word for word in _WORD.findall(query.lower()) if word not in QUESTION_WORDS)
    return frozenset(bm25.query_vector(" ".join(words))[0])


@lru_cache(maxsize=2_000)
def _terms_of(word: str) -> frozenset[int]:
    """Return a word as BM25 compares it: one term, or none for a stop word."""
    return frozenset(bm25.query_vector(word)[0])


def marked_excerpts(
    texts: Iterable[str], terms: frozenset[int], length: int, encoding: str = "utf-8"
) -> list[list[tuple[str, bool]]]:
    """Return for each text its best stretch, clean and on one line, in pieces: each piece with
    whether it is one of the query's words.

    Args:
        texts: as their sources hold them, Markdown and foreign text included.
        terms: of the query, see `query_terms`.
        length: of a stretch, in characters.
        encoding: what lacks in it is shown as a `?`.

    Example:
        >>> marked_excerpts(["# Bees\\nThey make honey."], query_terms("Who makes honey?"), 100)
        [[('Bees. They ', False), ('make', True), (' ', False), ('honey', True), ('.', False)]]
    """
    rows = printable_lines(map(prose, texts), encoding)
    stretches = [excerpt(row, terms, length) for row in rows]
    return [
        [piece for piece in split_at_terms(stretch, terms) if piece[0]] for stretch in stretches
    ]


def split_at_terms(text: str, terms: frozenset[int]) -> Iterator[tuple[str, bool]]:
    """Yield the text in pieces, each with whether it is one of the query's terms."""
    end = 0
    for word in _WORD.finditer(text):
        if terms & _terms_of(word[0]):
            yield text[end : word.start()], False
            yield word[0], True
            end = word.end()
    yield text[end:], False
