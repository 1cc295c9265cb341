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
    stems = _stems(text)
    norm = K1 * (1 - B + B * len(stems) / AVERAGE_WORDS)
    counts = Counter(_index(stem) for stem in stems)
    return list(counts), [count * (K1 + 1) / (count + norm) for count in counts.values()]


def query_vector(text: str) -> tuple[list[int], list[float]]:
    """Return indices and weights of a query: 1.0 for each of its stems."""
    indices = sorted({_index(stem) for stem in _stems(text)})
    return indices, [1.0] * len(indices)


def _stems(text: str) -> list[str]:
    words = [word for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]
    return list(_stemmer().stemWords(words))


def _index(stem: str) -> int:
    # 32 bits, as Qdrant's sparse indices; equal on every machine.
    return zlib.crc32(stem.encode())


@lru_cache(maxsize=1)
def _stemmer() -> Stemmer.Stemmer:
    return Stemmer.Stemmer("english")
