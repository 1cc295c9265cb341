"""Cleans the text layer of a PDF, and joins the words that its lines broke. It opens no PDF.

PDFium marks a hyphen at the end of a line by U+0002. The file does not say whether the hyphen is
part of the word ("long-term") or of the line only ("cali-brated"). The rest of the document
decides, then the words of the shipped tokenizer, then what hyphens are used for.
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

# The stem of a word is looked up from this length on.
MIN_INFLECTED = 5

# Characters of a document that show how it writes its words.
EVIDENCE = 2**22

# Characters before a break that are looked at: the break may be within an address.
CONTEXT = 80

# The places where a line broke a word: PDFium's marks, or a hyphen that it took for a dash. A soft
# hyphen within a line is drawn like any other.
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
# Joiners shape Arabic, Indic scripts and emoji; elsewhere they only make equal words differ.
_JOINERS = re.compile(
    r"[\u200c\u200d](?![\u0600-\U0010ffff])|(?<![\u0600-\U0010ffff])[\u200c\u200d]"
)


def clean_pages(texts: Sequence[str]) -> list[str]:
    """Return the text layers of one document, with whole words and no invisible characters.

    Example:
        >>> clean_pages(["It must be cali\\x02brated.\\r\\nSee the long\\x02term plan."])
        ['It must be calibrated.\\nSee the long-term plan.']
        >>> clean_pages(["pre\\x02and post-war, COVID\\x0219, 1990-\\r\\n1995"])
        ['pre- and post-war, COVID-19, 1990-1995']
    """
    lined = [_LINE_END.sub("\n", text) for text in texts]
    if not any(_BREAK.search(text) for text in lined):
        return [_without_invisible(text) for text in lined]

    words = DocumentWords(lined)
    return [_without_invisible(join_breaks(text, words)) for text in lined]


def join_breaks(text: str, words: DocumentWords) -> str:
    """Return the text with its broken words joined, as the document writes them elsewhere."""
    pieces: list[str] = []
    position = 0
    before = ""
    for mark in _BREAK.finditer(text):
        pieces.append(text[position : mark.start()])
        before = (before + pieces[-1])[-CONTEXT:]

        after = text[mark.end() : mark.end() + CONTEXT]
        pieces.append(_joint(before, mark[0], after, words))
        before += pieces[-1]
        position = mark.end()

    return "".join([*pieces, text[position:]])


def _joint(before: str, mark: str, after: str, words: DocumentWords) -> str:
    """Return what replaces a mark: nothing, a hyphen, or a hyphen and a blank."""
    first = _LAST_WORD.search(before)
    second = _FIRST_WORD.match(after)
    if first is None:
        return ""

    # The end of a page, or "mixed- and multi-family".
    if second is None:
        return "-"
    if mark[0] == "\u2013":
        return "\u2013"
    if _ADDRESS.search(before.split()[-1]):
        return "-"

    follows_hyphen = before[: first.start()].endswith(("-", "\u2010"))
    halves = Halves(first[0], second[0], is_compound=follows_hyphen or mark == "\xad")

    # As in "state-of-the-art".
    is_linked = second[0].casefold() in _LINKS and bool(_HYPHENATED.match(after, second.end()))
    if not is_linked and words.are_one(halves):
        return ""

    is_suspended = second[0] in _CONJUNCTIONS and after[second.end() : second.end() + 1].isspace()
    return "- " if is_suspended else "-"


class Halves(NamedTuple):
    """The two halves of a broken word; `is_compound` if a hyphen is visible."""

    first: str
    second: str
    is_compound: bool


class DocumentWords:
    """The words of a document, as it writes them where no line breaks them."""

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
        """Return whether the halves are one word without a hyphen."""
        first = halves.first.casefold()
        second = halves.second.casefold()

        # The casefold of a ligature, as \ufb01, is two letters.
        if halves.first[-1].isdigit() or halves.second[0].isdigit() or len(first) == 1:
            return False
        if halves.is_compound and first in _LINKS:
            return False

        apart = self._pairs[first, second]
        joined = self._words[first + second]
        if apart != joined:
            return joined > apart
        if self._is_known(first + second):
            return True
        if halves.second[0].isupper() and not halves.first.isupper():
            return False
        return not self._are_words(first, second, halves.is_compound)

    def _is_known(self, word: str) -> bool:
        words, stems = english()
        stem = _stemmer().stemWord(word)
        return word in words or stem in stems or stem in self._stems

    def _are_words(self, first: str, second: str, is_compound: bool) -> bool:
        """Return whether both halves are words of their own, in this document or in English."""
        if first in _TIED_BEFORE or second in _TIED_AFTER or second in _CONJUNCTIONS:
            return True
        if not is_compound and (first in _PREFIXES or second in _SUFFIXES):
            return False
        if len(second) < 3 and second not in _PARTICLES:
            return False
        return self._stands_alone(first) and self._stands_alone(second)

    def _stands_alone(self, half: str) -> bool:
        words, stems = english()
        is_inflected = len(half) >= MIN_INFLECTED and _stemmer().stemWord(half) in stems
        return half in words or is_inflected or self._words[half] > 1

    def _count(self, text: str) -> None:
        for word in _WORD.finditer(text):
            before = text[max(0, word.start() - 1) : word.start()]
            after = text[word.end() : word.end() + 1]

            # Half a word.
            if "\x02" in before + after:
                continue
            halves = [half.casefold() for half in _HYPHEN.split(word[0])]
            self._words.update(halves)
            self._pairs.update(pairwise(halves))


@lru_cache(maxsize=1)
def english() -> tuple[frozenset[str], frozenset[str]]:
    """Return the words that the shipped tokenizer knows whole, and their stems."""
    pieces = json.loads(VOCABULARY.read_text(encoding="utf-8"))["model"]["vocab"]
    words = frozenset(piece for piece in pieces if piece.isalpha() and len(piece) > 1)
    return words, stems_of(words)


def stems_of(words: Collection[str]) -> frozenset[str]:
    """Return the stems of English words."""
    return frozenset(_stemmer().stemWords(list(words)))


@lru_cache(maxsize=1)
def _stemmer() -> Stemmer.Stemmer:
    return Stemmer.Stemmer("english")


def _without_invisible(text: str) -> str:
    return _JOINERS.sub("", _DROPPED.sub("", text)).strip()
