"""Pure: which candidates are read together, and the order that follows from their scores. It knows no model.

The algorithm is written once, as a generator: it yields the windows that can be read now, side by side, and is sent
their scores. Whoever drives it (a plain call, an async one, many queries at once) decides how they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

Window = tuple[int, ...]
Scores = list[list[float]]  # one list a window
Reads = Generator[list[Window], Scores, "Ranking"]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """order: candidate indices, best first; scores: one for each of them, never rising with rank."""

    order: list[int]
    scores: list[float]


def sliding(count: int, window: int, stride: int) -> Reads:
    """Orders `count` candidates, reading at most `window` at once, from the tail of the list to its head.

    The window moves up by `stride`, so that the best of the tail can climb to the top (RankGPT, Sun et al. 2023, sec. 3.2).
    A list that fits into one window is read once. Ties keep the given order.

    Raises:
        ValueError: window or stride is below 1, or the stride is larger than the window.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"got window={window}, stride={stride}; 1 <= stride <= window is allowed.")
    order, scores = list(range(count)), [0.0] * count  # scores: by candidate, from the last window that read it
    for start in window_starts(count, window, stride):
        read = order[start : start + window]
        (found,) = yield [tuple(read)]
        for candidate, score in zip(read, found, strict=True):
            scores[candidate] = score
        order[start : start + window] = best_first(read, found)
    return Ranking(order=order, scores=falling([scores[candidate] for candidate in order]))


def drive(reads: Reads, score: Callable[[Window], list[float]]) -> Ranking:
    """Reads the windows that the generator asks for, one after the other, until it has an order."""
    try:
        windows = next(reads)
        while True:
            windows = reads.send([score(window) for window in windows])
    except StopIteration as done:
        ranking: Ranking = done.value
        return ranking


def window_starts(count: int, window: int, stride: int) -> list[int]:
    """Where the windows begin, in the order in which they are read: 30 candidates, 20/10 -> [10, 0]."""
    if count == 0:
        return []
    last = max(0, count - window)
    return [*range(last, 0, -stride), 0]


def best_first(candidates: Sequence[int], scores: Sequence[float]) -> list[int]:
    """The candidates by falling score; ties keep their order."""
    places = sorted(range(len(candidates)), key=lambda place: -scores[place])
    return [candidates[place] for place in places]


def falling(scores: Sequence[float]) -> list[float]:
    """Each score bounded by the one before: two windows may disagree, a list that is returned may not."""
    bounded: list[float] = []
    for score in scores:
        bounded.append(min(score, bounded[-1]) if bounded else score)
    return bounded
