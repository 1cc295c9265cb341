"""Pure: where the sentences of a text are, also of a page whose lines, headings and tables know no
full stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

Span = tuple[int, int]  # from, to: characters of a text

MOST_WORDS = 60  # of a sentence; a table or a list without full stops is cut into pieces
# A line of less than this share of the longest one, without a sign at its end, is a heading of its
# own.
SHORT_LINE = 0.6

_END = re.compile(
    r"[.!?][\"'\u201d\u2019)\]]*(?=\s)(?!\s+[a-z(])|\n\s*\n|\n(?=\s*(?:[-*\u2022\u2013]|\d+[.)])\s)"
)
_WORD = re.compile(r"\S+")


def sentences(text: str) -> list[Span]:
    """The sentences of a text, in order and without the white space around them.

    Example:
        >>> text = "Starting up\\nIt starts at 3.5 bar, as\\nevery pump. Is that much?\\n\\n- No"
        >>> [text[slice(*span)] for span in sentences(text)]
        ['Starting up', 'It starts at 3.5 bar, as\\nevery pump.', 'Is that much?', '- No']
    """
    ends = sorted(
        {match.end() for match in _END.finditer(text)} | set(_headings(text)) | {len(text)}
    )
    starts = [0, *ends[:-1]]
    trimmed = (_trimmed(text, start, end) for start, end in zip(starts, ends, strict=True))
    return [piece for span in trimmed if span[0] < span[1] for piece in _short(text, span)]


def grouped(spans: Sequence[Span], limit: int) -> list[Span]:
    """Neighbours joined, until there are `limit` at most, alike many in each."""
    size = -(-len(spans) // limit)
    parts = [spans[start : start + size] for start in range(0, len(spans), size)] if spans else []
    return [(part[0][0], part[-1][1]) for part in parts]


def _headings(text: str) -> Iterator[int]:
    """Where a heading ends that is one by its length only: a short line before one that begins
    anew.
    """
    lines = text.split("\n")
    longest, place = max(map(len, lines)), 0
    for line, following in pairwise(lines):
        place += len(line) + 1
        own, follower = line.strip(), following.lstrip()[:1]
        anew = follower.isupper() or follower.isdigit()
        if own and anew and len(own) < SHORT_LINE * longest and own[-1] not in ".,;:!?-\u2013(&":
            yield place


def _trimmed(text: str, start: int, end: int) -> Span:
    own = text[start:end]
    return start + len(own) - len(own.lstrip()), start + len(own.rstrip())


def _short(text: str, span: Span) -> Iterator[Span]:
    words = [
        (span[0] + word.start(), span[0] + word.end())
        for word in _WORD.finditer(text[slice(*span)])
    ]
    yield from grouped(words, -(-len(words) // MOST_WORDS))
