"""Pure: the text layer of a PDF as people read it; words that a line broke are whole again.

PDFium marks a hyphen at the end of a line by U+0002. Whether the hyphen is part of the word
("long-term") or of the line only ("cali-brated") is not in the file: first the rest of the
document is asked, then the words of the shipped tokenizer, then what hyphens are used for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import Stemmer

VOCABULARY = Path(__file__).parents[1] / "models" / "rnx-mini" / "tokenizer.json"
INFLECTED = 5  # letters of a word from which its stem is looked up
EVIDENCE = 2**22  # characters of a document that are looked at for how it writes its words
TOKEN = 80  # characters before a break that are looked at, for the address that it may stand in

# Where a line broke a word: PDFium's marks, or a hyphen that it took for a dash. A soft hyphen
# within a line is drawn like any other.
_BREAK = re.compile(
    r"[\x02\ufffe\xad](?:[ \t]*\n[ \t]*)?"
    r"|(?<=\w)[-\u2010](?:\n[ \t]*)(?=\w)"
    r"|(?<=\d)\u2013\n(?=\d)"
)
_LAST_WORD = re.compile(r"[^\W_]+\Z")
_FIRST_WORD = re.compile(r"[^\W_]+")
_WORD = re.compile(r"[^\W_]+(?:[-\u2010\u2011][^\W_]+)*")
_HYPHENATED = re.compile(r"[-\u2010\u2011\x02\ufffe]\s*\w")
_HYPHEN = re.compile(r"[-\u2010\u2011]")
_ADDRESS = re.compile(r"://|www\.|[@\\_=]|\w\.[a-z]")

# "pre- and post-judgment": the second word is none that a hyphen begins.
_CONJUNCTIONS = frozenset("and or to nor und oder bis".split())  # noqa: SIM905
# Bound forms: alone they are no words, though a vocabulary of word pieces knows them.
_PREFIXES = frozenset(
    """anti auto bi bio com con contra counter de dis down dys electro em en extra fore geo hydro
    hyper hypo im in infra inter intra ir iso macro mal mega meta micro mini mis mono neo neuro
    omni out over para per photo poly pro proto pseudo psycho radio re retro sub super sur tele
    thermo trans tri ultra un under uni up""".split()  # noqa: SIM905
)
_SUFFIXES = frozenset(
    """able ably age ally ance ant ary ate ation bility bly dom ed ence ency ent ents er ers ery es
    est ful fully graphy hood ible ibly ical ing ings ion ions ish ism ist ists ity ive ized
    izing ization lar less lessly ling lings logy lous ly man ment ments men meter mental ness
    ous ously ple ry ship ships sion sions sive some ted tend ter ters tic tics ties tim ting
    tion tional tions tive tively tor tors ture ty ual uous ward wards ways wise""".split()  # noqa: SIM905
)
_PARTICLES = frozenset("up in on off out by".split())  # noqa: SIM905  # "follow-up", "built-in"
_LINKS = frozenset("to by of the and".split())  # noqa: SIM905  # "day-to-day"
# Words that others are tied to by a hyphen: "rule-based", "self-attention".
_TIED_AFTER = frozenset(
    """based free specific wide oriented driven like related level term""".split()  # noqa: SIM905
)
_TIED_BEFORE = frozenset("self quasi".split())  # noqa: SIM905

_DROPPED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"  # control characters without the line ends
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # zero width, bidirectional
    "\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]"  # no characters at all
)
_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# Joiners shape Arabic, Indic scripts and emoji; elsewhere they only part equal words.
_JOINERS = re.compile(
    r"[\u200c\u200d](?![\u0600-\U0010ffff])|(?<![\u0600-\U0010ffff])[\u200c\u200d]"
)


def clean_pages(texts: Sequence[str]) -> list[str]:
    """The text layers of one document, whole words and no invisible characters.

    Example:
        >>> clean_pages(["It must be cali\\x02brated.\\r\\nSee the long\\x02term plan."])
        ['It must be calibrated.\\nSee the long-term plan.']
        >>> clean_pages(["pre\\x02and post-war, COVID\\x0219, 1990-\\r\\n1995"])
        ['pre- and post-war, COVID-19, 1990-1995']
    """
    lined = [_LINE_END.sub("\n", text) for text in texts]
    if not any(_BREAK.search(text) for text in lined):
        return [_without_rubbish(text) for text in lined]

    words = DocumentWords(lined)
    return [_without_rubbish(join_breaks(text, words)) for text in lined]


def join_breaks(text: str, words: DocumentWords) -> str:
    """The text with its broken words joined, as the document writes them elsewhere."""
    parts: list[str] = []
    place, before = 0, ""
    for mark in _BREAK.finditer(text):
        parts.append(text[place : mark.start()])
        before = (before + parts[-1])[-TOKEN:]
        parts.append(_joint(before, mark[0], text[mark.end() : mark.end() + TOKEN], words))
        before += parts[-1]
        place = mark.end()
    return "".join([*parts, text[place:]])


def _joint(before: str, mark: str, after: str, words: DocumentWords) -> str:
    """What stands where the mark is: nothing, a hyphen, or a hyphen and a blank."""
    left, right = _LAST_WORD.search(before), _FIRST_WORD.match(after)
    if left is None:
        return ""
    if right is None:  # the end of a page, or "mixed- and multi-family"
        return "-"
    if mark[0] == "\u2013":
        return "\u2013"
    if _ADDRESS.search(before.split()[-1]):
        return "-"

    behind_hyphen = before[: left.start()].endswith(("-", "\u2010"))
    halves = Halves(left[0], right[0], is_compound=behind_hyphen or mark == "\xad")
    is_linked = right[0].casefold() in _LINKS and bool(_HYPHENATED.match(after, right.end()))
    if not is_linked and words.are_one(halves):  # "state-of-the-art"
        return ""
    is_suspended = right[0] in _CONJUNCTIONS and after[right.end() : right.end() + 1].isspace()
    return "- " if is_suspended else "-"


class Halves(NamedTuple):
    """The two parts of a broken word; `is_compound` where a hyphen is there to be seen."""

    left: str
    right: str
    is_compound: bool


class DocumentWords:
    """How a document writes its words where no line breaks them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._words: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        room = EVIDENCE
        for text in texts:
            self._count(_BREAK.sub("\x02", text[:room]))
            room = max(0, room - len(text))

    @cached_property
    def _stems(self) -> frozenset[str]:
        return stems_of(self._words)

    def are_one(self, halves: Halves) -> bool:
        """Whether the halves are one word without a hyphen."""
        left, right = halves.left, halves.right
        first, second = left.casefold(), right.casefold()
        if left[-1].isdigit() or right[0].isdigit() or len(first) == 1:  # \ufb01 is two letters
            return False
        if halves.is_compound and first in _LINKS:
            return False

        apart, joined = self._pairs[first, second], self._words[first + second]
        if apart != joined:
            return joined > apart
        if self._is_known(first + second):
            return True
        if right[0].isupper() and not left.isupper():
            return False
        return not self._are_words(first, second, halves.is_compound)

    def _is_known(self, word: str) -> bool:
        words, stems = english()
        stem = _stemmer().stemWord(word)
        return word in words or stem in stems or stem in self._stems

    def _are_words(self, left: str, right: str, is_compound: bool) -> bool:
        """Whether both halves stand for themselves, in this document or in English."""
        if left in _TIED_BEFORE or right in _TIED_AFTER or right in _CONJUNCTIONS:
            return True
        if not is_compound and (left in _PREFIXES or right in _SUFFIXES):
            return False
        if len(right) < 3 and right not in _PARTICLES:
            return False
        return self._stands_alone(left) and self._stands_alone(right)

    def _stands_alone(self, half: str) -> bool:
        words, stems = english()
        is_inflected = len(half) >= INFLECTED and _stemmer().stemWord(half) in stems
        return half in words or is_inflected or self._words[half] > 1

    def _count(self, text: str) -> None:
        for word in _WORD.finditer(text):
            around = (
                text[max(0, word.start() - 1) : word.start()] + text[word.end() : word.end() + 1]
            )
            if "\x02" in around:  # half a word
                continue
            halves = [half.casefold() for half in _HYPHEN.split(word[0])]
            self._words.update(halves)
            self._pairs.update(pairwise(halves))


@lru_cache(maxsize=1)
def english() -> tuple[frozenset[str], frozenset[str]]:
    """The words that the shipped tokenizer knows whole, and their stems."""
    pieces = json.loads(VOCABULARY.read_text(encoding="utf-8"))["model"]["vocab"]
    words = frozenset(piece for piece in pieces if piece.isalpha() and len(piece) > 1)
    return words, stems_of(words)


def stems_of(words: Collection[str]) -> frozenset[str]:
    return frozenset(_stemmer().stemWords(list(words)))


@lru_cache(maxsize=1)
def _stemmer() -> Stemmer.Stemmer:
    return Stemmer.Stemmer("english")


def _without_rubbish(text: str) -> str:
    return _JOINERS.sub("", _DROPPED.sub("", text)).strip()
