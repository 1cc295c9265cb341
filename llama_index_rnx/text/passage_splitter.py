"""Splits a text into passages that a model can read whole, in any script and with lines of any
length. It knows neither files nor nodes.

LlamaIndex's `SentenceSplitter` cuts a text that is written in words, 180 words a passage. A text
without blanks (Chinese, Thai, minified JSON, one long line of a log) is a single "word" to it. Such
a text is measured in word pieces instead, and cut at the sentence ends of any script, then at
punctuation, then between two letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import regex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer

# The version of where texts are cut. Raise it when that changes, and indexes are renewed.
CUTTER = 1

# About one chunk of the text encoder (254 word pieces).
CHUNK_WORDS = 180
OVERLAP_WORDS = 20

# The same, for a text that is measured in word pieces.
CHUNK_PIECES = 240
OVERLAP_PIECES = 26

# Letters of a passage in words. English has 900, lists of links up to 3,800.
MAX_LETTERS = 4_000

# Characters without a blank. Links with all their parameters reach 800.
MAX_WORD = 1_000

# Characters that are never separated while a passage is put together.
MAX_UNIT = 60

# Characters in which sentences are looked for at once; see `_sentences`.
WINDOW = 32_768
MARGIN = 2_048

# Scripts that put no blanks between words: a model reads about one word piece for each letter.
_UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
)
_UNSPACED_LETTER = regex.compile(f"[{_UNSPACED}]")
_PIECE = regex.compile(rf"[{_UNSPACED}]|[\w--[{_UNSPACED}]]{{1,6}}|[^\w\s]", regex.V1)

# A run of letters that SentenceSplitter would cut into single letters, if it has more words than a
# passage. A shorter one cannot: looking at long ones only takes a tenth of the time.
_UNIT_ENDS = r" ,.;\u3002\uff1f\uff01"
_LONG_UNIT = re.compile(rf"(?<![^{_UNIT_ENDS}])[^{_UNIT_ENDS}]{{{2 * CHUNK_WORDS + 1},}}")

# No quantifier here gives back what it took: a line of dots would be read again from each of them.
_SENTENCE_END = regex.compile(
    r"""(?: (?<![.!?]) [.!?]++ [\p{Pe}\p{Pf}"']*+ (?=\s)       # 3.14 and a.b.c are no ends
          | [\p{Sentence_Terminal}--[.!?]]++ [\p{Pe}\p{Pf}"']*+  # other scripts need no blank
          | \n
        ) \s*+""",
    regex.V1 | regex.VERBOSE,
)
_PAUSE = regex.compile(r"(?:[\p{Terminal_Punctuation}--[.]]|[.](?!\d)|[\p{Pe}\s])++", regex.V1)

# A letter with all marks that stand on it.
_LETTER = regex.compile(r"\X")
_WORD_START = regex.compile(r"(?<=\s)\w")


def passages(text: str) -> list[str]:
    """Return the passages of a text in order, without the white space around them. Neighbours
    overlap a little.

    Example:
        >>> passages("Bees make honey. They live in hives.")
        ['Bees make honey. They live in hives.']
        >>> [len(passage) for passage in passages("蜜蜂住在蜂巢里。它们酿造蜂蜜。" * 30)]
        [240, 232]
    """
    by_words = _word_passages(text)
    return _piece_splitter().split_text(text) if by_words is None else by_words


def is_cut_by_words(text: str) -> bool:
    """Return whether a text is cut by words, as all were before `CUTTER` was counted."""
    # For most texts this shows without cutting them.
    has_short_words = _longest_word(text) * CHUNK_WORDS <= MAX_LETTERS
    if has_short_words and not _UNSPACED_LETTER.search(text) and _has_words(text):
        return True

    return _word_passages(text) is not None


def _word_passages(text: str) -> list[str] | None:
    """Return the passages by words, or None if a model could not read them whole."""
    if not _has_words(text):
        return None

    chunks = _word_splitter().split_text(text)
    return chunks if all(map(_is_readable, chunks)) else None


def _word_splitter() -> SentenceSplitter:
    return SentenceSplitter(
        chunk_size=CHUNK_WORDS,
        chunk_overlap=OVERLAP_WORDS,
        tokenizer=str.split,
        chunking_tokenizer_fn=_sentences,
    )


def _piece_splitter() -> SentenceSplitter:
    return SentenceSplitter(
        chunk_size=CHUNK_PIECES,
        chunk_overlap=OVERLAP_PIECES,
        tokenizer=_pieces,
        chunking_tokenizer_fn=lambda text: list(_units(text)),
    )


def _has_words(text: str) -> bool:
    """Return whether `SentenceSplitter` can cut between words; else it would cut single letters."""
    if _longest_word(text) > MAX_WORD:
        return False

    return all(len(unit[0].split()) <= CHUNK_WORDS for unit in _LONG_UNIT.finditer(text))


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _is_readable(passage: str) -> bool:
    """Return whether a passage of 180 words is about as long as such a passage should be."""
    if len(passage) <= CHUNK_PIECES:
        return True

    unspaced = sum(1 for _ in _UNSPACED_LETTER.finditer(passage))
    return unspaced <= CHUNK_PIECES and sum(map(len, passage.split())) <= MAX_LETTERS


def _sentences(text: str) -> list[str]:
    """Return the sentences of a text as LlamaIndex finds them, window by window: nltk gives up
    after five seconds.

    Whether a sentence ends depends on the words around its end alone. So each window counts up to a
    word near its end, and the next window begins with that word.
    """
    starts = [0]
    window_start = 0
    while window_start + WINDOW < len(text):
        next_start = _next_window(text, window_start)
        starts += [start for start in _sentence_starts(text, window_start) if start <= next_start]
        window_start = next_start
    starts += _sentence_starts(text, window_start)

    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def _sentence_starts(text: str, window_start: int) -> list[int]:
    """Return where the sentences of a window begin, but for the first, which begins with it."""
    sentences = split_by_sentence_tokenizer()(text[window_start : window_start + WINDOW])
    return list(accumulate(map(len, sentences[:-1]), initial=window_start))[1:]


def _next_window(text: str, window_start: int) -> int:
    """Return the start of the last word before the margin of a window; the margin's own if there is
    no word.
    """
    margin_start = window_start + WINDOW - MARGIN
    words = _WORD_START.finditer(text, margin_start - MARGIN, margin_start)
    return max((word.start() for word in words), default=margin_start)


def _pieces(text: str) -> Any:
    """Return something about as long as the list of a text's word pieces: `SentenceSplitter` looks
    at its length only.
    """
    return range(sum(1 for _ in _PIECE.finditer(text)))


def _units(text: str) -> Iterator[str]:
    """Yield the sentences of a text in any script, a long one in pieces of `MAX_UNIT` at most."""
    start = 0
    for end in (*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)):
        while end - start > MAX_UNIT:
            cut = _find_cut(text, start)
            yield text[start:cut]
            start = cut
        if start < end:
            yield text[start:end]
        start = end


def _find_cut(text: str, start: int) -> int:
    """Return where to cut a long sentence: after punctuation or a blank, or at least not within a
    letter and its marks.
    """
    end = start + MAX_UNIT
    pauses: list[int] = [match.end() for match in _PAUSE.finditer(text, start + MAX_UNIT // 2, end)]
    if pauses:
        return pauses[-1]

    letters: list[int] = [match.start() for match in _LETTER.finditer(text, start, end + 1)]
    return letters[-1] if letters[-1] > start else end
