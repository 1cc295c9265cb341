"""Texts as sparse BM25 vectors; Qdrant's IDF modifier adds the inverse document frequency. It knows
no index.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from functools import lru_cache

import Stemmer

# Lucene's and Qdrant's defaults.
K1 = 1.2
B = 0.75

# Words of an average node. A collection grows, so its true mean is never known.
AVERAGE_WORDS = 128

# Lucene's English stop words.
STOP_WORDS = frozenset(
    """a an and are as at be but by for if in into is it no not of on or such that the their then
    there these they this to was will with""".split()  # noqa: SIM905
)

_WORD = re.compile(r"\w+")

# ASCII's characters, with a blank for each that is in no word.
_ASCII_WORDS = "".join(letter if _WORD.match(letter) else " " for letter in map(chr, range(128)))


def document_vector(text: str) -> tuple[list[int], list[float]]:
    """Return indices and weights of a text: the saturated count of each stem (Robertson & Zaragoza
    2009, eq. 3.15).

    Example:
        >>> indices, weights = document_vector("Bees and a bee")
        >>> # One stem, which occurs twice in two words.
        >>> len(indices), round(weights[0], 2)
        (1, 1.9)
        >>> indices == query_vector("bees")[0]
        True
    """
    counts = _stem_counts(text)
    norm = K1 * (1 - B + B * sum(counts.values()) / AVERAGE_WORDS)
    # Few counts differ: most stems occur once or twice.
    weights = {count: count * (K1 + 1) / (count + norm) for count in set(counts.values())}
    return list(counts), [weights[count] for count in counts.values()]


def query_vector(text: str) -> tuple[list[int], list[float]]:
    """Return indices and weights of a query: 1.0 for each of its stems."""
    indices = sorted(_stem_counts(text))
    return indices, [1.0] * len(indices)


def _stem_counts(text: str) -> dict[int, int]:
    """Return how often each stem occurs in a text, by its index, in the order of the text."""
    counts = Counter(map(_index, _words(text.lower())))
    return {index: count for index, count in counts.items() if index is not None}


def _words(text: str) -> list[str]:
    """Return the words of a text in order."""
    # The same words in half of the time.
    if text.isascii():
        return text.translate(_ASCII_WORDS).split()
    return _WORD.findall(text)


# A text repeats its words, and a corpus its texts' words: stemming each took a third longer.
@lru_cache(maxsize=32_768)
def _index(word: str) -> int | None:
    """Return the index of a word's stem: 32 bits, as Qdrant's sparse indices have; equal on every
    machine. A stop word has none.
    """
    if word in STOP_WORDS:
        return None
    return zlib.crc32(_stemmer().stemWord(word).encode())


@lru_cache(maxsize=1)
def _stemmer() -> Stemmer.Stemmer:
    return Stemmer.Stemmer("english")
