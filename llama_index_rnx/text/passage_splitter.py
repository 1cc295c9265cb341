"""A text -> passages that a model can read whole, whatever its script and however long its lines.

It knows neither files nor nodes. A text that is written in words is cut by LlamaIndex's
`SentenceSplitter`, 180 words a passage. A text without blanks (Chinese, Thai, minified JSON, one
long line of a log) is a single "word" to it, so such a text is measured in word pieces instead, and
cut at the sentence ends of any script, then at punctuation, then between two letters.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import regex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer

CUTTER = 1  # the version of where texts are cut; raise it with them, and indexes are renewed
CHUNK_WORDS, OVERLAP_WORDS = 180, 20  # about one chunk of the text tower (254 word pieces)
CHUNK_PIECES, OVERLAP_PIECES = 240, 26  # the same, for a text that is measured in word pieces
MOST_LETTERS = 4_000  # of a passage in words; English has 900, lists of links up to 3,800
LONGEST_WORD = 1_000  # characters without a blank; links with all their parameters reach 800
LONGEST_STEP = 60  # characters that are never parted while a passage is put together
WINDOW, MARGIN = (
    32_768,
    2_048,
)  # characters whose sentences are looked for at once; see `_sentences`

# Scripts that put no blanks between words: a model reads about one word piece for each letter.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_UNSPACED_LETTER = regex.compile(f"[{_UNSPACED}]")
_PIECE = regex.compile(rf"[{_UNSPACED}]|[\w--[{_UNSPACED}]]{{1,6}}|[^\w\s]", regex.V1)
_WORD_UNIT = regex.compile(
    r"[^ ,.;\u3002\uff1f\uff01]+"
)  # what SentenceSplitter would cut into single letters
# No quantifier here gives back what it took: a line of dots would be read again from each of them.
_SENTENCE_END = regex.compile(
    r"""(?: (?<![.!?]) [.!?]++ [\p{Pe}\p{Pf}"']*+ (?=\s)       # 3.14 and a.b.c are no ends
          | [\p{Sentence_Terminal}--[.!?]]++ [\p{Pe}\p{Pf}"']*+  # other scripts need no blank
          | \n
        ) \s*+""",
    regex.V1 | regex.VERBOSE,
)
_PAUSE = regex.compile(r"(?:[\p{Terminal_Punctuation}--[.]]|[.](?!\d)|[\p{Pe}\s])++", regex.V1)
_LETTER = regex.compile(r"\X")  # with all marks that stand on it
_WORD_START = regex.compile(r"(?<=\s)\w")


def passages(text: str) -> list[str]:
    """The passages of a text in order, without the white space around them; neighbours overlap a
    little.

    Example:
        >>> passages("Bees make honey. They live in hives.")
        ['Bees make honey. They live in hives.']
        >>> [len(passage) for passage in passages("蜜蜂住在蜂巢里。它们酿造蜂蜜。" * 30)]
        [240, 232]
    """
    found = _word_passages(text)
    return _by_pieces().split_text(text) if found is None else found


def is_cut_by_words(text: str) -> bool:
    """Whether words decide where a text is cut; before `CUTTER` was counted they always did."""
    is_plain = (
        not _UNSPACED_LETTER.search(text) and _longest_word(text) * CHUNK_WORDS <= MOST_LETTERS
    )
    if is_plain and _has_words(text):  # most texts: known without cutting them
        return True

    return _word_passages(text) is not None


def _word_passages(text: str) -> list[str] | None:
    """The passages by words, or None where a model could not read them whole."""
    if not _has_words(text):
        return None

    found = _by_words().split_text(text)
    return found if all(_is_readable(passage) for passage in found) else None


def _by_words() -> SentenceSplitter:
    return SentenceSplitter(
        chunk_size=CHUNK_WORDS,
        chunk_overlap=OVERLAP_WORDS,
        tokenizer=str.split,
        chunking_tokenizer_fn=_sentences,
    )


def _by_pieces() -> SentenceSplitter:
    return SentenceSplitter(
        chunk_size=CHUNK_PIECES,
        chunk_overlap=OVERLAP_PIECES,
        tokenizer=_pieces,
        chunking_tokenizer_fn=lambda text: list(_steps(text)),
    )


def _has_words(text: str) -> bool:
    """Whether `SentenceSplitter` finds places enough to cut at; it would go on to single letters."""
    if _longest_word(text) > LONGEST_WORD:
        return False

    return all(len(unit[0].split()) <= CHUNK_WORDS for unit in _WORD_UNIT.finditer(text))


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _is_readable(passage: str) -> bool:
    """Whether a passage of 180 words is about as long as such a passage should be."""
    if len(passage) <= CHUNK_PIECES:
        return True

    unspaced = sum(1 for _ in _UNSPACED_LETTER.finditer(passage))
    return unspaced <= CHUNK_PIECES and sum(map(len, passage.split())) <= MOST_LETTERS


def _sentences(text: str) -> list[str]:
    """The sentences of a text as LlamaIndex finds them, in windows: nltk gives up after five
    seconds.

    What is a sentence's end depends on the words around it alone. So each window counts up to a
    word near its end, and the next window begins with that word.
    """
    starts, begin = [0], 0
    while begin + WINDOW < len(text):
        until = _next_window(text, begin)
        starts += [start for start in _starts(text, begin) if start <= until]
        begin = until
    starts += _starts(text, begin)

    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def _starts(text: str, begin: int) -> list[int]:
    """Where the sentences of a window begin, but for the first, whose beginning is the window's."""
    parts = split_by_sentence_tokenizer()(text[begin : begin + WINDOW])
    return list(accumulate(map(len, parts[:-1]), initial=begin))[1:]


def _next_window(text: str, begin: int) -> int:
    words = _WORD_START.finditer(text, begin + WINDOW - 2 * MARGIN, begin + WINDOW - MARGIN)
    last = max((word.start() for word in words), default=None)
    return begin + WINDOW - MARGIN if last is None else last


def _pieces(text: str) -> Any:
    """About as long as the list of a text's word pieces; `SentenceSplitter` asks for its length
    only.
    """
    return range(sum(1 for _ in _PIECE.finditer(text)))


def _steps(text: str) -> Iterator[str]:
    """The sentences of a text in any script, those that are too long in parts."""
    start = 0
    for end in (*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)):
        while end - start > LONGEST_STEP:
            cut = _cut(text, start)
            yield text[start:cut]
            start = cut
        if start < end:
            yield text[start:end]
        start = end


def _cut(text: str, start: int) -> int:
    """Where to part a long sentence: after punctuation or a blank, or at least not within a letter."""
    end = start + LONGEST_STEP
    pauses: list[int] = [
        match.end() for match in _PAUSE.finditer(text, start + LONGEST_STEP // 2, end)
    ]
    if pauses:
        return pauses[-1]

    letters: list[int] = [match.start() for match in _LETTER.finditer(text, start, end + 1)]
    return letters[-1] if letters[-1] > start else end
