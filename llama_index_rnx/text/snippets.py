"""Pure: the stretch of a text that says most about a query, and the query's words in it. It knows
no nodes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from llama_index_rnx.text import bm25
from llama_index_rnx.text.sanitize import printable_lines

MAX_TEXT = 8_000  # characters searched for the best excerpt


MAX_RAW = 8 * MAX_TEXT  # characters looked at before white space is shrunk


# Words that only ask and say nothing about an answer; bm25 drops the articles and the like itself.
QUESTION_WORDS = frozenset(
    """can could did do does each from has have how i many me much my often our should so
    what when where which who why you your""".split()  # noqa: SIM905
)


_WORD = re.compile(r"\w+")


def excerpt(text: str, terms: frozenset[int], length: int) -> str:
    """An early stretch of a text that holds many of the query's words; its beginning where none
    does.
    """
    if len(text) <= length:
        return text
    text = text[:MAX_TEXT]
    hits = [
        (word.start(), term) for word in _WORD.finditer(text) for term in _terms_of(word[0]) & terms
    ]
    richness = _richness(hits, length * 3 // 4)

    # Take the earliest of the good stretches.
    most = max(richness, default=0)
    best = next(
        (hits[i][0] for i, terms_there in enumerate(richness) if terms_there >= 0.7 * most), 0
    )
    start = 0 if best < length // 3 else text.rfind(" ", 0, max(1, best - length // 8)) + 1
    end = text.rfind(" ", start, start + length) if start + length < len(text) else len(text)
    end = end if end > start else start + length  # one word without end
    return f"{'… ' if start else ''}{text[start:end].strip()}{' …' if end < len(text) else ''}"


def _richness(hits: Sequence[tuple[int, int]], width: int) -> list[int]:
    """For each hit (its position and its term), how many terms stand in the `width` characters from
    there on.
    """
    counts: Counter[int] = Counter()
    richness, end = list[int](), 0
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
    """Headings of Markdown as sentences, so that they do not run into the text when it becomes one
    line.
    """
    return "\n".join(map(_sentence, text[:MAX_RAW].split("\n")))


def _sentence(line: str) -> str:
    """A line as it is; a heading without its marks, and with a full stop where it has no sign at
    its end.
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
    """The query's words as BM25 compares them, without those that only ask."""
    words = (word for word in _WORD.findall(query.lower()) if word not in QUESTION_WORDS)
    return frozenset(bm25.query_vector(" ".join(words))[0])


@lru_cache(maxsize=2_000)
def _terms_of(word: str) -> frozenset[int]:
    """A word as BM25 compares it: one term, or none for one that is too frequent to count."""
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
    """The text in pieces, each with whether it is one of the query's words."""
    done = 0
    for word in _WORD.finditer(text):
        if terms & _terms_of(word[0]):
            yield text[done : word.start()], False
            yield word[0], True
            done = word.end()
    yield text[done:], False
