"""Pure: which candidates are scored together, and the order that follows from their scores. It
knows no model.

An algorithm is written once, as a generator: it yields the windows that can be scored now, side by
side, and is sent their scores. The function that drives it (for one list, or for many lists at
once) decides how they are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

# The indices of the candidates that are scored together.
Window = tuple[int, ...]

# One list of scores for each window.
Scores = list[list[float]]

WindowPlan = Generator[list[Window], Scores, "Ranking"]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The order of a list.

    Attributes:
        order: candidate indices, best first.
        scores: one for each of them, in that order, never rising with rank.
        faults: by candidate index, what of it could not be read, and why.
    """

    order: list[int]
    scores: list[float]
    faults: dict[int, str] = field(default_factory=dict)


def sliding_windows(count: int, window: int, stride: int) -> WindowPlan:
    """Order `count` candidates, scoring at most `window` at once, from the tail of the list to its
    head.

    The window moves up by `stride`, so that the best of the tail can climb to the top (RankGPT, Sun
    et al. 2023, sec. 3.2). A list that fits into one window is scored once. Ties keep the given
    order.

    Raises:
        ValueError: window or stride is below 1, or the stride is larger than the window.

    Example:
        >>> relevance = [0.1, 0.5, 0.2, 0.9]
        >>> plan = sliding_windows(4, window=2, stride=1)
        >>> ranking = run_plan(plan, lambda window: [relevance[index] for index in window])
        >>> ranking.order  # one pass: the best climbed from the tail to the head
        [3, 0, 1, 2]
        >>> ranking.scores  # never rising
        [0.9, 0.1, 0.1, 0.1]
    """
    _check(window, stride)
    scores = [0.0] * count
    order = yield from _slide(list(range(count)), scores, window, stride)
    return _ranking(order, scores)


def parallel_windows(count: int, window: int, stride: int) -> WindowPlan:
    """Order `count` candidates in few steps: windows side by side, then a final among the best of
    each.

    The list is dealt out in turn, so that all windows are equally good, and each sends the same
    number of candidates to the final. 100 candidates in windows of 20 take 6 windows in 2 steps,
    where sliding by 10 takes 9 windows in 9 steps; there are never more windows than sliding by
    half a window takes. A candidate that drops out stands behind all that went on, by its rank in
    its window, then as given. What two windows can hold (`window + stride`), a short list or a
    final, slides. Ties keep the given order.

    Raises:
        ValueError: as `sliding_windows`.

    Example:
        >>> plan = parallel_windows(100, window=20, stride=10)
        >>> first_step = next(plan)  # what can be scored now, side by side
        >>> len(first_step), first_step[0][:4]
        (5, (0, 5, 10, 15))
        >>> len(plan.send([[0.5] * 20] * 5))  # the final: four of each
        1
    """
    _check(window, stride)
    scores = [0.0] * count
    remaining = list(range(count))
    eliminated: list[int] = []
    while window > 2 and len(remaining) > window + stride:
        number = -(-len(remaining) // window)
        windows = [tuple(remaining[start::number]) for start in range(number)]
        results = yield windows

        orders = [
            _record(indices, values, scores)
            for indices, values in zip(windows, results, strict=True)
        ]
        by_rank = [_at_rank(orders, rank) for rank in range(len(windows[0]))]

        promoted = max(1, window // number)
        remaining = sorted(index for indices in by_rank[:promoted] for index in indices)
        eliminated = [index for indices in by_rank[promoted:] for index in indices] + eliminated

    order = yield from _slide(remaining, scores, window, stride)
    return _ranking(order + eliminated, scores)


def run_plan(plan: WindowPlan, score: Callable[[Window], list[float]]) -> Ranking:
    """Order one list, scoring the windows of its plan one after the other."""
    return run_plans([plan], lambda requests: [score(window) for _, window in requests])[0]


def run_plans(
    plans: Sequence[WindowPlan], score: Callable[[list[tuple[int, Window]]], Scores]
) -> list[Ranking]:
    """Order several lists at once.

    Args:
        score: gets all windows that can be scored now, each with the index of its list, and returns
            the scores of each. It is called as often as the longest of the lists takes steps.
    """
    rankings: dict[int, Ranking] = {}

    # By list, the scores of the windows that its plan yielded last; None starts a plan.
    results: dict[int, Any] = dict.fromkeys(range(len(plans)))
    while results:
        requests: list[tuple[int, Window]] = []
        for index, window_scores in results.items():
            try:
                windows = plans[index].send(window_scores)
            except StopIteration as end:
                rankings[index] = end.value
            else:
                requests += [(index, window) for window in windows]

        results = {index: [] for index in results if index not in rankings}
        scores = score(requests) if requests else []
        for (index, _), values in zip(requests, scores, strict=True):
            results[index].append(values)

    return [rankings[index] for index in range(len(plans))]


def with_last(ranking: Ranking, positions: Sequence[int], last: Sequence[int]) -> Ranking:
    """Return the order of a whole list, of which only some candidates could be ranked. The others
    follow as they were given.

    Their score is 0, or that of the lowest where a ranker's scores go below it: scores never rise
    with rank.

    Args:
        ranking: of the candidates that were ranked; its indices count them alone.
        positions: the index in the whole list of each of them.
        last: the indices of the others.

    Example:
        >>> partial = Ranking(order=[1, 0], scores=[0.9, 0.2])
        >>> whole = with_last(partial, positions=[0, 2], last=[1])
        >>> whole.order, whole.scores
        ([2, 0, 1], [0.9, 0.2, 0.0])
    """
    lowest = min([0.0, *ranking.scores])
    order = [positions[index] for index in ranking.order] + list(last)
    return Ranking(order=order, scores=ranking.scores + [lowest] * len(last))


def window_starts(count: int, window: int, stride: int) -> list[int]:
    """Return where the windows begin, in the order in which they are scored.

    Example:
        >>> window_starts(30, window=20, stride=10)
        [10, 0]
    """
    if count == 0:
        return []
    last = max(0, count - window)
    return [*range(last, 0, -stride), 0]


def best_first(candidates: Sequence[int], scores: Sequence[float]) -> list[int]:
    """Return the candidates by falling score; ties keep their order."""
    positions = sorted(range(len(candidates)), key=lambda position: -scores[position])
    return [candidates[position] for position in positions]


def enforce_monotone(scores: Sequence[float]) -> list[float]:
    """Bound each score by the one before: two windows may disagree, a list that is returned may
    not.

    Example:
        >>> enforce_monotone([0.9, 0.3, 0.5])
        [0.9, 0.3, 0.3]
    """
    bounded: list[float] = []
    for score in scores:
        bounded.append(min(score, bounded[-1]) if bounded else score)
    return bounded


def _slide(
    order: list[int], scores: list[float], window: int, stride: int
) -> Generator[list[Window], Scores, list[int]]:
    """Reorder `order`, best first, by one pass of the window; `scores`, by candidate, keeps the
    last score of each.
    """
    for start in window_starts(len(order), window, stride):
        indices = tuple(order[start : start + window])
        (values,) = yield [indices]
        order[start : start + window] = _record(indices, values, scores)
    return order


def _record(indices: Window, values: Sequence[float], scores: list[float]) -> list[int]:
    """Write the values of a window into `scores`, and return its candidates, best first."""
    for index, value in zip(indices, values, strict=True):
        scores[index] = value
    return best_first(indices, values)


def _at_rank(orders: Sequence[Sequence[int]], rank: int) -> list[int]:
    """Return the candidates at one rank of several windows, in the given order of the list."""
    return sorted(order[rank] for order in orders if rank < len(order))


def _ranking(order: list[int], scores: Sequence[float]) -> Ranking:
    return Ranking(order=order, scores=enforce_monotone([scores[index] for index in order]))


def _check(window: int, stride: int) -> None:
    if not 1 <= stride <= window:
        raise ValueError(f"got window={window}, stride={stride}; 1 <= stride <= window is allowed.")
