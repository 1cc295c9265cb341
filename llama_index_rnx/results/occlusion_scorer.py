"""How much a candidate's score drops when its content changes: any ranker, one list, many variants.
It knows no words, no regions and no HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.memory import Array, Memory
from llama_index_rnx.ranking import Ranker, score_batch

VARIANTS_AT_ONCE = 32  # remembered together
EDGE = 1e-6  # scores nearer to 0 or 1 count as this far from it

# The change in a memory that another batch size may cause, as a share of its greatest number:
# int8 rows may differ by 2 of 127.
ROUNDING = 0.02


class OcclusionScorer:
    """Scores a list again and again, one of its two first candidates changed each time.

    Attributes:
        candidates: the list; the first two are compared.
        scores: one for each candidate, as the ranker gave them for the list as it is.
        reads: how many lists have been scored so far.
    """

    def __init__(self, ranker: Ranker, query: Query, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self._ranker = ranker
        self._query = query
        self._memories: list[Memory] = ranker.remember(candidates)
        self._halves: dict[int, tuple[dict[str, Array], dict[str, Array]] | None] = {}
        self.reads = 1
        self.scores: list[float] = score_batch(ranker, [(query, self._memories)])[0]

    @property
    def lead(self) -> float:
        """How far the first candidate leads the second, in logits."""
        return _lead(self.scores)

    def score_drops(self, index: int, variants: Sequence[Candidate]) -> list[float]:
        """Return for each variant by how many logits the candidate at `index` loses against the
        other one when the variant takes its place.

        Args:
            index: 0 or 1.
            variants: what is left of the candidate when a piece of it is taken away.
        """
        leads: list[float] = []
        for start in range(0, len(variants), VARIANTS_AT_ONCE):
            leads += self._leads_with(index, variants[start : start + VARIANTS_AT_ONCE])

        sign = 1 if index == 0 else -1
        return [sign * (self.lead - lead) for lead in leads]

    def _leads_with(self, index: int, variants: Sequence[Candidate]) -> list[float]:
        """Return the lead of the first candidate in each list with a variant at `index`."""
        before = self._memories[:index]
        after = self._memories[index + 1 :]
        lists = [[*before, memory, *after] for memory in self._remember(index, variants)]

        self.reads += len(lists)
        rows = score_batch(self._ranker, [(self._query, memories) for memories in lists])
        return [_lead(scores) for scores in rows]

    def _remember(self, index: int, variants: Sequence[Candidate]) -> list[Memory]:
        """Return the memories of variants of one candidate.

        Where a ranker remembers text and image apart, the half that did not change is not
        remembered again.
        """
        whole = self.candidates[index]
        halves = self._halves_of(index) if whole.text and whole.image else None
        if halves is None:
            return self._ranker.remember(variants)

        text_half, image_half = halves
        if all(variant.image is whole.image for variant in variants):
            texts = self._dicts([replace(variant, image=None) for variant in variants])
            return [memory | image_half for memory in texts]
        images = self._dicts([replace(variant, text="") for variant in variants])
        return [memory | text_half for memory in images]

    def _halves_of(self, index: int) -> tuple[dict[str, Array], dict[str, Array]] | None:
        """Return the memories of the text alone and of the image alone, if they make up that of
        both, as most rankers' do; None otherwise.
        """
        if index not in self._halves:
            whole = self.candidates[index]
            text, image = self._dicts([replace(whole, image=None), replace(whole, text="")])
            is_disjoint = not text.keys() & image.keys()
            are_halves = is_disjoint and _is_same(self._memories[index], text | image)
            self._halves[index] = (text, image) if are_halves else None
        return self._halves[index]

    def _dicts(self, variants: Sequence[Candidate]) -> list[dict[str, Array]]:
        return [dict(memory) for memory in self._ranker.remember(variants)]


def _lead(scores: Sequence[float]) -> float:
    """Return how far the first score leads the second, in logits."""
    return _logit(scores[0]) - _logit(scores[1])


def _logit(score: float) -> float:
    """Return the logit of a probability; any other score is taken as it is."""
    if not 0 <= score <= 1:
        return score
    probability = min(max(score, EDGE), 1 - EDGE)
    return math.log(probability / (1 - probability))


def _is_same(memory: Memory, expected: Memory) -> bool:
    """Whether two memories are equal but for what the size of a batch does to the last digits."""
    if memory.keys() != expected.keys():
        return False
    return all(_is_close(memory[name], expected[name]) for name in memory)


def _is_close(array: Array, expected: Array) -> bool:
    if array.shape != expected.shape or array.dtype != expected.dtype:
        return False
    numbers, expected_numbers = _as_floats(array), _as_floats(expected)
    tolerance = ROUNDING * np.abs(expected_numbers).max(initial=0.0)
    return np.allclose(numbers, expected_numbers, rtol=0.0, atol=tolerance)


def _as_floats(array: Array) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return an array of numpy, or a tensor of torch of any dtype, as float32 of numpy."""
    floats = array if isinstance(array, np.ndarray) else array.float().numpy()
    return np.asarray(floats, dtype=np.float32)
