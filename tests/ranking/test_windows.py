"""The window order, driven by hypothesis: what comes out, how much is read, who reaches the top."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llama_index_rnx.ranking import (
    Ranking,
    Window,
    WindowPlan,
    parallel_windows,
    run_plan,
    sliding_windows,
)
from llama_index_rnx.ranking.windows import best_first, enforce_monotone, run_plans, window_starts

sizes = st.tuples(st.integers(0, 120), st.integers(1, 40), st.integers(1, 40)).filter(
    lambda s: s[2] <= s[1]
)


def run(count: int, window: int, stride: int, scores: list[float]) -> tuple[Ranking, list[Window]]:
    """The ranking for scores that do not depend on the window, and the windows that were read."""
    reads: list[Window] = []

    def score(places: Window) -> list[float]:
        reads.append(places)
        return [scores[place] for place in places]

    return run_plan(sliding_windows(count, window, stride), score), reads


def run_parallel(
    count: int, window: int, scores: list[float]
) -> tuple[Ranking, list[list[Window]]]:
    """As `run`, with half a window as stride; the windows that were read, step by step."""
    steps: list[list[Window]] = []

    def score(asked: list[tuple[int, Window]]) -> list[list[float]]:
        steps.append([places for _, places in asked])
        return [[scores[place] for place in places] for places in steps[-1]]

    (ranking,) = run_plans([parallel_windows(count, window, max(1, window // 2))], score)
    return ranking, steps


@pytest.mark.parametrize("plan", [sliding_windows, parallel_windows])
@settings(max_examples=40)
@given(sizes, st.data())
def test_a_permutation_with_falling_scores_whatever_the_windows_say(
    plan: Callable[[int, int, int], WindowPlan], size: tuple[int, int, int], data: st.DataObject
) -> None:
    count, window, stride = size

    def moody(places: Window) -> list[float]:  # another opinion in every window
        one = st.floats(-10, 10)
        return data.draw(st.lists(one, min_size=len(places), max_size=len(places)))

    ranking = run_plan(plan(count, window, stride), moody)
    assert sorted(ranking.order) == list(range(count))
    assert len(ranking.scores) == count
    assert all(a >= b for a, b in pairwise(ranking.scores))


@given(sizes)
def test_windows_are_whole_and_their_number_is_that_of_the_textbook(
    size: tuple[int, int, int],
) -> None:
    count, window, stride = size
    _, reads = run(count, window, stride, [0.0] * count)
    assert all(len(read) == min(window, count) for read in reads)
    assert all(len(set(read)) == len(read) for read in reads)
    expected = min(count, 1) + max(0, math.ceil((count - window) / stride))
    assert len(reads) == expected
    assert {place for read in reads for place in read} == set(range(count))


@given(sizes, st.randoms(use_true_random=False))
def test_the_best_reach_the_top_in_order(size: tuple[int, int, int], random: object) -> None:
    """With consistent scores one pass brings the best window - stride candidates to the top; a last
    window of one all.
    """
    count, window, stride = size
    assume(count > 0)
    scores = [float(i) for i in range(count)]
    random.shuffle(scores)  # type: ignore[attr-defined]
    ranking, _ = run(count, window, stride, scores)
    truth = best_first(range(count), scores)
    sure = count if count <= window else window - stride
    assert ranking.order[:sure] == truth[:sure]


@given(sizes)
def test_the_worst_place_can_climb_to_the_first(size: tuple[int, int, int]) -> None:
    count, window, stride = size
    assume(count > 0)
    assume(count <= window or stride < window)
    ranking, _ = run(count, window, stride, [0.0] * (count - 1) + [1.0])
    assert ranking.order[0] == count - 1
    assert ranking.order[1:] == list(range(count - 1))  # ties keep their order


@given(sizes)
def test_ties_keep_the_given_order(size: tuple[int, int, int]) -> None:
    ranking, _ = run(*size, [0.5] * size[0])
    assert ranking.order == list(range(size[0]))


def test_windows_by_hand() -> None:
    assert window_starts(30, 20, 10) == [10, 0]
    assert window_starts(100, 20, 10) == [80, 70, 60, 50, 40, 30, 20, 10, 0]
    assert window_starts(25, 20, 10) == [5, 0]
    assert window_starts(20, 20, 10) == [0]
    assert window_starts(3, 20, 10) == [0]
    assert window_starts(0, 20, 10) == []


def test_one_window_by_hand() -> None:
    ranking, reads = run(4, 10, 5, [0.1, 0.9, 0.9, 0.3])
    assert ranking == Ranking(order=[1, 2, 3, 0], scores=[0.9, 0.9, 0.3, 0.1])
    assert reads == [(0, 1, 2, 3)]


def test_two_windows_by_hand() -> None:
    ranking, reads = run(4, 3, 1, [1.0, 2.0, 3.0, 4.0])
    assert reads == [(1, 2, 3), (0, 3, 2)]
    assert ranking.order == [3, 2, 0, 1]  # the best two are right; the rest is what one pass gives
    assert ranking.scores == [4.0, 3.0, 1.0, 1.0]


# --- parallel windows and a final


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8, 20])
def test_parallel_windows_read_everyone_and_no_more_than_the_textbook(window: int) -> None:
    for count in range(150):
        ranking, steps = run_parallel(count, window, [0.0] * count)
        reads = [places for step in steps for places in step]
        assert ranking.order == list(range(count))  # ties keep the given order
        assert {place for places in reads for place in places} == set(range(count))
        assert all(len(set(places)) == len(places) <= window for places in reads)
        assert len(reads) <= len(window_starts(count, window, max(1, window // 2)))


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(2, 30), st.randoms(use_true_random=False))
def test_the_best_of_all_windows_reach_the_top_in_order(
    count: int, window: int, random: object
) -> None:
    """With consistent scores the final is right about as many as each window sends, and as two
    sliding windows are.
    """
    scores = [float(i) for i in range(count)]
    random.shuffle(scores)  # type: ignore[attr-defined]
    ranking, steps = run_parallel(count, window, scores)
    sent = [max(1, window // len(step)) for step in steps if len(step) > 1]
    sure = min([count if count <= window else window - window // 2, *sent])
    assert ranking.order[:sure] == best_first(range(count), scores)[:sure]


@pytest.mark.parametrize(
    ("count", "steps"),
    [
        (100, [5, 1]),
        (98, [5, 1]),
        (50, [3, 1]),
        (31, [2, 1]),
        (30, [1, 1]),
        (20, [1]),
        (0, []),
        (500, [25, 1, 1]),
    ],
)
def test_steps_of_parallel_windows_of_twenty(count: int, steps: list[int]) -> None:
    assert [len(step) for step in run_parallel(count, 20, [0.0] * count)[1]] == steps


def test_parallel_windows_by_hand() -> None:
    ranking, steps = run_parallel(8, 4, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    assert steps == [[(0, 2, 4, 6), (1, 3, 5, 7)], [(4, 5, 6, 7)]]
    # Candidates that dropped out stand by their rank in the window, then as given.
    assert ranking.order == [
        7,
        6,
        5,
        4,
        2,
        3,
        0,
        1,
    ]
    assert ranking.scores == [8.0, 7.0, 6.0, 5.0, 3.0, 3.0, 1.0, 1.0]


# --- many lists


@given(st.lists(st.tuples(st.sampled_from([sliding_windows, parallel_windows]), sizes), max_size=6))
def test_lists_that_are_driven_together_come_out_as_alone(
    lists: list[tuple[Callable[[int, int, int], WindowPlan], tuple]],
) -> None:
    def worth(i: int, places: Window) -> list[float]:
        return [float((7 * i + 31 * place) % 17) for place in places]

    together = run_plans(
        [plan(*size) for plan, size in lists],
        lambda asked: [worth(i, places) for i, places in asked],
    )
    alone = [
        run_plan(plan(*size), lambda places, i=i: worth(i, places))
        for i, (plan, size) in enumerate(lists)
    ]
    assert together == alone


def test_lists_take_their_steps_side_by_side() -> None:
    steps: list[list[int]] = []

    def score(asked: list[tuple[int, Window]]) -> list[list[float]]:
        steps.append([i for i, _ in asked])
        return [[0.0] * len(places) for _, places in asked]

    run_plans(
        [
            sliding_windows(40, 20, 10),
            parallel_windows(40, 20, 10),
            sliding_windows(0, 20, 10),
            sliding_windows(5, 20, 10),
        ],
        score,
    )
    assert steps == [[0, 1, 1, 3], [0, 1], [0]]
    assert run_plans([], score) == []


@given(st.lists(st.floats(allow_nan=False)))
def test_falling_never_rises_and_changes_only_what_would(scores: list[float]) -> None:
    bounded = enforce_monotone(scores)
    assert all(a >= b for a, b in pairwise(bounded))
    assert bounded == [min(scores[: i + 1]) for i in range(len(scores))]


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (5, 0), (5, 6), (-1, -1)])
@pytest.mark.parametrize("plan", [sliding_windows, parallel_windows])
def test_impossible_windows_are_refused(
    plan: Callable[[int, int, int], WindowPlan], window: int, stride: int
) -> None:
    with pytest.raises(ValueError, match="stride"):
        run_plan(plan(10, window, stride), lambda places: [0.0] * len(places))


def test_a_wrong_number_of_scores_is_refused() -> None:
    with pytest.raises(ValueError):
        run_plan(sliding_windows(10, 5, 2), lambda places: [0.0])
    with pytest.raises(ValueError):
        run_plans([sliding_windows(10, 5, 2), sliding_windows(10, 5, 2)], lambda asked: [[0.0] * 5])
