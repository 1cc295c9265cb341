"""The window order, driven by hypothesis: what comes out, how much is read, who reaches the top."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llama_index_rnx.ordering import Ranking, Window, best_first, drive, falling, sliding, window_starts

sizes = st.tuples(st.integers(0, 120), st.integers(1, 40), st.integers(1, 40)).filter(lambda s: s[2] <= s[1])


def run(count: int, window: int, stride: int, scores: list[float]) -> tuple[Ranking, list[Window]]:
    """The ranking for scores that do not depend on the window, and the windows that were read."""
    reads: list[Window] = []

    def score(places: Window) -> list[float]:
        reads.append(places)
        return [scores[place] for place in places]

    return drive(sliding(count, window, stride), score), reads


@given(sizes, st.data())
def test_a_permutation_with_falling_scores_whatever_the_windows_say(size: tuple[int, int, int], data: st.DataObject) -> None:
    count, window, stride = size

    def moody(places: Window) -> list[float]:  # another opinion in every window
        one = st.floats(-10, 10)
        return data.draw(st.lists(one, min_size=len(places), max_size=len(places)))

    ranking = drive(sliding(count, window, stride), moody)
    assert sorted(ranking.order) == list(range(count))
    assert len(ranking.scores) == count
    assert all(a >= b for a, b in pairwise(ranking.scores))


@given(sizes)
def test_windows_are_whole_and_their_number_is_that_of_the_textbook(size: tuple[int, int, int]) -> None:
    count, window, stride = size
    _, reads = run(count, window, stride, [0.0] * count)
    assert all(len(read) == min(window, count) for read in reads)
    assert all(len(set(read)) == len(read) for read in reads)
    expected = 0 if count == 0 else 1 if count <= window else math.ceil((count - window) / stride) + 1
    assert len(reads) == expected
    assert {place for read in reads for place in read} == set(range(count))


@given(sizes, st.randoms(use_true_random=False))
def test_the_best_reach_the_top_in_order(size: tuple[int, int, int], random: object) -> None:
    """With consistent scores one pass brings the best window - stride candidates to the top; a last window of one all."""
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


@given(st.lists(st.floats(allow_nan=False)))
def test_falling_never_rises_and_changes_only_what_would(scores: list[float]) -> None:
    bounded = falling(scores)
    assert all(a >= b for a, b in pairwise(bounded))
    assert bounded == [min(scores[: i + 1]) for i in range(len(scores))]


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (5, 0), (5, 6), (-1, -1)])
def test_impossible_windows_are_refused(window: int, stride: int) -> None:
    with pytest.raises(ValueError, match="stride"):
        drive(sliding(10, window, stride), lambda places: [0.0] * len(places))


def test_a_wrong_number_of_scores_is_refused() -> None:
    with pytest.raises(ValueError):
        drive(sliding(10, 5, 2), lambda places: [0.0])
