"""Pure: which candidates are read together, and the order that follows from their scores. It knows
no model.

An algorithm is written once, as a generator: it yields the windows that can be read now, side by
side, and is sent their scores. Whoever drives it (one list, many lists at once) decides how they
are read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

Window = tuple[int, ...]
Scores = list[list[float]]  # one list a window
WindowPlan = Generator[list[Window], Scores, "Ranking"]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The order of a list.

    order: candidate indices, best first; scores: one for each of them, in that order, never rising
    with rank; faults: by candidate index, what of it could not be read, and why.
    """

    order: list[int]
    scores: list[float]
    faults: dict[int, str] = field(default_factory=dict)


def sliding_windows(count: int, window: int, stride: int) -> WindowPlan:
    """Orders `count` candidates, reading at most `window` at once, from the tail of the list to its
    head.

    The window moves up by `stride`, so that the best of the tail can climb to the top (RankGPT, Sun
    et al. 2023, sec. 3.2). A list that fits into one window is read once. Ties keep the given
    order.

    Raises:
        ValueError: window or stride is below 1, or the stride is larger than the window.

    Example:
        >>> worth = [0.1, 0.5, 0.2, 0.9]
        >>> found = drive(sliding(4, window=2, stride=1), lambda window: [worth[candidate] for candidate in window])
        >>> found.order  # one pass: the best climbed from the tail to the head
        [3, 0, 1, 2]
        >>> found.scores  # never rising
        [0.9, 0.1, 0.1, 0.1]
    """
    _check(window, stride)
    scores = [0.0] * count
    order = yield from _slide(list(range(count)), scores, window, stride)
    return _ranking(order, scores)


def parallel_windows(count: int, window: int, stride: int) -> WindowPlan:
    """Orders `count` candidates in few steps: windows side by side, then a final among the best of
    each.

    The list is dealt out in turn, so that all windows are alike good, and each sends the same
    number to the final. 100 candidates in windows of 20 take 6 reads in 2 steps, where sliding by
    10 takes 9 reads in 9; it is never more than sliding by half a window takes. Who drops out
    stands behind all who went on, by the place in its window, then as given. What two windows can
    read (`window + stride`), a short list or a final, slides. Ties keep the given order.

    Raises:
        ValueError: as `sliding_windows`.

    Example:
        >>> steps = parallel(100, window=20, stride=10)
        >>> first = next(steps)  # what can be read now, side by side
        >>> len(first), first[0][:4]
        (5, (0, 5, 10, 15))
        >>> len(steps.send([[0.5] * 20] * 5))  # the final: four of each
        1
    """
    _check(window, stride)
    scores = [0.0] * count
    going, beaten = list(range(count)), list[int]()
    while window > 2 and len(going) > window + stride:
        number = -(-len(going) // window)
        dealt = [tuple(going[start::number]) for start in range(number)]
        found = yield dealt
        through = max(1, window // number)
        ranked = [_scored(read, values, scores) for read, values in zip(dealt, found, strict=True)]
        places = [
            sorted(row[place] for row in ranked if place < len(row))
            for place in range(len(dealt[0]))
        ]
        going = sorted(candidate for place in places[:through] for candidate in place)
        beaten = [candidate for place in places[through:] for candidate in place] + beaten
    order = yield from _slide(going, scores, window, stride)
    return _ranking(order + beaten, scores)


def run_plan(reads: WindowPlan, score: Callable[[Window], list[float]]) -> Ranking:
    """Orders one list, reading the windows that it asks for one after the other."""
    return run_plans([reads], lambda asked: [score(window) for _, window in asked])[0]


def run_plans(
    reads: Sequence[WindowPlan], score: Callable[[list[tuple[int, Window]]], Scores]
) -> list[Ranking]:
    """Orders several lists at once: `score` gets all windows that can be read now, each with the
    index of its list.

    It is called as often as the longest of the lists takes steps.
    """
    done: dict[int, Ranking] = {}
    answers: dict[int, Any] = dict.fromkeys(
        range(len(reads))
    )  # by list, the Scores of what it asked for; None starts it
    while answers:
        asked: list[tuple[int, Window]] = []
        for i, answer in answers.items():
            try:
                asked += [(i, window) for window in reads[i].send(answer)]
            except StopIteration as end:
                done[i] = end.value
        answers = {i: [] for i in answers if i not in done}
        for (i, _), found in zip(asked, score(asked) if asked else [], strict=True):
            answers[i].append(found)
    return [done[i] for i in range(len(reads))]


def with_last(ranking: Ranking, places: Sequence[int], last: Sequence[int]) -> Ranking:
    """The order of a whole list, of which only some candidates could be ranked. The others follow
    as they were given.

    Their score is 0, or that of the lowest where a ranker's scores go below it: scores never rise
    with rank.

    Args:
        ranking: of the candidates that were ranked; its indices count them alone.
        places: the index in the whole list of each of them.
        last: the indices of the others.

    Example:
        >>> whole = with_last(Ranking(order=[1, 0], scores=[0.9, 0.2]), places=[0, 2], last=[1])
        >>> whole.order, whole.scores
        ([2, 0, 1], [0.9, 0.2, 0.0])
    """
    lowest = min([0.0, *ranking.scores])
    order = [places[i] for i in ranking.order] + list(last)
    return Ranking(order=order, scores=ranking.scores + [lowest] * len(last))


def window_starts(count: int, window: int, stride: int) -> list[int]:
    """Where the windows begin, in the order in which they are read.

    Example:
        >>> window_starts(30, window=20, stride=10)
        [10, 0]
    """
    if count == 0:
        return []
    last = max(0, count - window)
    return [*range(last, 0, -stride), 0]


def best_first(candidates: Sequence[int], scores: Sequence[float]) -> list[int]:
    """The candidates by falling score; ties keep their order."""
    places = sorted(range(len(candidates)), key=lambda place: -scores[place])
    return [candidates[place] for place in places]


def enforce_monotone(scores: Sequence[float]) -> list[float]:
    """Each score bounded by the one before: two windows may disagree, a list that is returned may
    not.

    Example:
        >>> falling([0.9, 0.3, 0.5])
        [0.9, 0.3, 0.3]
    """
    bounded: list[float] = []
    for score in scores:
        bounded.append(min(score, bounded[-1]) if bounded else score)
    return bounded


def _slide(
    order: list[int], scores: list[float], window: int, stride: int
) -> Generator[list[Window], Scores, list[int]]:
    """The candidates of `order`, best first, after one pass of the window; `scores`, by candidate,
    keeps the last read.
    """
    for start in window_starts(len(order), window, stride):
        read = tuple(order[start : start + window])
        (found,) = yield [read]
        order[start : start + window] = _scored(read, found, scores)
    return order


def _scored(read: Window, found: Sequence[float], scores: list[float]) -> list[int]:
    """A window, best first; `scores` learns what was found."""
    for candidate, score in zip(read, found, strict=True):
        scores[candidate] = score
    return best_first(read, found)


def _ranking(order: list[int], scores: Sequence[float]) -> Ranking:
    return Ranking(order=order, scores=enforce_monotone([scores[candidate] for candidate in order]))


def _check(window: int, stride: int) -> None:
    if not 1 <= stride <= window:
        raise ValueError(f"got window={window}, stride={stride}; 1 <= stride <= window is allowed.")
