"""Metrics of small runs, computed by hand."""

from __future__ import annotations

import math

import pytest

from training.data import GradedList
from training.evaluation import (
    NDCG10,
    compare,
    evaluate,
    first_run,
    first_stage_run,
    mean,
    qrels_of,
    run_of,
)
from training.evaluation.bootstrap import bootstrap


def graded_list(
    qid: str,
    grades: tuple[float, ...],
    first: tuple[float, ...] = (),
    judged: dict[str, float] | None = None,
) -> GradedList:
    docids = tuple("abcdef"[: len(grades)])
    return GradedList(
        source="made",
        qid=qid,
        query="q",
        docids=docids,
        texts=docids,
        grades=grades,
        first=first,
        judged=judged or {},
    )


def test_a_run_has_the_scores_of_every_candidate() -> None:
    lists = [graded_list("1", (1.0, 0.0)), graded_list("2", (0.0, 1.0))]
    assert run_of(lists, [[0.5, 1], [2, 3]]) == {"1": {"a": 0.5, "b": 1.0}, "2": {"a": 2, "b": 3}}
    with pytest.raises(ValueError, match="zip"):
        run_of(lists, [[0.5], [2, 3]])


def test_the_first_stage_is_by_its_scores_or_as_the_candidates_stand() -> None:
    scored = graded_list("1", (1.0, 0.0), first=(0.2, 0.7))
    assert first_run([scored]) == first_stage_run([scored]) == {"1": {"a": 0.2, "b": 0.7}}
    plain = graded_list("2", (1.0, 0.0))
    assert first_stage_run([scored, plain]) == {"1": {"a": 0, "b": -1}, "2": {"a": 0, "b": -1}}


def test_judgments_are_all_that_is_judged_in_whole_grades() -> None:
    judged = graded_list("1", (1.0, 0.0), judged={"a": 1.0, "z": 2.6})
    assert qrels_of([judged, graded_list("2", (0.4, 2.0))]) == {
        "1": {"a": 1, "z": 3},
        "2": {"a": 0, "b": 2},
    }


def test_ndcg_is_one_for_the_ideal_order_and_falls_with_the_rank_of_the_right_one() -> None:
    qrels = {"1": {"a": 1, "b": 0}, "2": {"a": 1, "b": 0}, "3": {"a": 1}}
    run = {"1": {"a": 2.0, "b": 1.0}, "2": {"a": 1.0, "b": 2.0}}
    values = evaluate(qrels, run, NDCG10)
    assert values == {"1": 1.0, "2": pytest.approx(1 / math.log2(3)), "3": 0.0}
    assert mean(values) == pytest.approx((1 + 1 / math.log2(3)) / 3)
    assert mean({}) == 0.0


def test_a_difference_has_its_mean_and_an_interval_around_it() -> None:
    ours = {str(n): float(n % 2) for n in range(40)}
    theirs = dict.fromkeys(ours, 0.25)
    difference = bootstrap(ours, theirs, samples=500)
    assert difference.mean == pytest.approx(0.25)
    assert difference.low < 0.25 < difference.high
    assert difference == bootstrap(ours, theirs, samples=500)
    assert difference.mean == pytest.approx(-bootstrap(theirs, ours, samples=500).mean)


def test_equal_runs_differ_by_nothing() -> None:
    same = bootstrap({"1": 0.3, "2": 0.9}, {"1": 0.3, "2": 0.9}, samples=100)
    assert str(same) == "+0.0000 [+0.0000, +0.0000]"


def test_a_comparison_names_every_measure_and_the_gain_where_there_is_another_run() -> None:
    qrels = {"1": {"a": 1, "b": 0}}
    ours = {"1": {"a": 2.0, "b": 1.0}}
    theirs = {"1": {"a": 1.0, "b": 2.0}}
    alone = compare(qrels, ours)
    assert list(alone) == ["nDCG@10", "RR@10", "R@1", "R@3", "R@5", "R@10"]
    assert str(alone["R@1"]) == "1.0000"
    both = compare(qrels, ours, theirs)
    assert str(both["R@1"]) == "1.0000  before 0.0000  +1.0000 [+1.0000, +1.0000]"
    assert both["RR@10"].before == pytest.approx(0.5)
