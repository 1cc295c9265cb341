"""Finds the sentences of a text, even if lines, headings and tables have no full stops. It knows no
nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

# Start and end of a stretch of a text, in characters.
Span = tuple[int, int]

# A longer sentence is cut into pieces: a table or a list may have no full stops.
MAX_WORDS = 60

# A line that is shorter than this share of the longest one, without a sign at its end, may be a
# heading.
HEADING_SHARE = 0.6

_END = re.compile(
    r"[.!?][\"'\u201d\u2019)\]]*(?=\s)(?!\s+[a-z(])|\n\s*\n|\n(?=\s*(?:[-*\u2022\u2013]|\d+[.)])\s)"
)
_WORD = re.compile(r"\S+")


def sentences(text: str) -> list[Span]:
    """Return the sentences of a text, in order and without the white space around them.

    Example:
        >>> text = "Starting up\\nIt starts at 3.5 bar, as\\nevery pump. Is that much?\\n\\n- No"
        >>> [text[slice(*span)] for span in sentences(text)]
        ['Starting up', 'It starts at 3.5 bar, as\\nevery pump.', 'Is that much?', '- No']
    """
    ends = {match.end() for match in _END.finditer(text)}
    ends |= {*_heading_ends(text), len(text)}

    spans: list[Span] = []
    for start, end in pairwise([0, *sorted(ends)]):
        spans += _split_long(text, start, end)
    return spans


def grouped(spans: Sequence[Span], limit: int) -> list[Span]:
    """Join neighbouring spans until there are `limit` at most, about as many in each."""
    if not spans:
        return []

    size = -(-len(spans) // limit)
    groups = [spans[start : start + size] for start in range(0, len(spans), size)]
    return [(group[0][0], group[-1][1]) for group in groups]


def _heading_ends(text: str) -> Iterator[int]:
    """Yield the end of each line that is a heading by its length only: it is short, and the next
    line begins anew.
    """
    lines = text.split("\n")
    max_length = HEADING_SHARE * max(map(len, lines))
    end = 0
    for line, next_line in pairwise(lines):
        end += len(line) + 1
        if _is_heading(line.strip(), next_line.lstrip()[:1], max_length):
            yield end


def _is_heading(line: str, next_letter: str, max_length: float) -> bool:
    if not line or len(line) >= max_length or line[-1] in ".,;:!?-\u2013(&":
        return False

    return next_letter.isupper() or next_letter.isdigit()


def _split_long(text: str, start: int, end: int) -> list[Span]:
    """Split a stretch of a text into spans of about `MAX_WORDS` words at most; white space around
    the stretch belongs to none.
    """
    words = [word.span() for word in _WORD.finditer(text, start, end)]
    return grouped(words, -(-len(words) // MAX_WORDS))
