"""nDCG@10, MRR and R@k by ir-measures. It knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ir_measures
from ir_measures import RR, Measure, R, nDCG

from training.data import GradedList

Run = dict[str, dict[str, float]]  # qid -> docid -> score


Values = dict[str, float]  # qid -> value


NDCG10: Measure = nDCG @ 10


MEASURES: tuple[Measure, ...] = (NDCG10, RR @ 10, R @ 1, R @ 3, R @ 5, R @ 10)


def run_of(lists: Sequence[GradedList], scores: Sequence[Sequence[float]]) -> Run:
    """Scores of every list's candidates as a run."""
    return {
        of.qid: dict(zip(of.docids, map(float, found), strict=True))
        for of, found in zip(lists, scores, strict=True)
    }


def first_run(lists: Sequence[GradedList]) -> Run:
    """The order of the first stage as a run."""
    return run_of(lists, [of.first for of in lists])


def qrels_of(lists: Sequence[GradedList]) -> dict[str, dict[str, int]]:
    """All that is judged about the queries of the lists."""
    return {
        of.qid: _whole(of.judged or dict(zip(of.docids, of.grades, strict=True))) for of in lists
    }


def evaluate(qrels: Mapping[str, Mapping[str, int]], run: Run, measure: Measure = NDCG10) -> Values:
    """The measure of every judged query; a query without a run has 0."""
    found = {
        metric.query_id: float(metric.value)
        for metric in ir_measures.iter_calc([measure], qrels, run)
    }
    return {qid: found.get(qid, 0.0) for qid in qrels}


def mean(values: Values) -> float:
    """Over the queries."""
    return sum(values.values()) / max(len(values), 1)


def given_run(lists: Sequence[GradedList]) -> Run:
    """The first order: by the scores of the lists, or as they stand where one of them has none."""
    if all(of.first for of in lists):
        return first_run(lists)
    return run_of(lists, [[-float(place) for place in range(len(of.docids))] for of in lists])


def _whole(grades: Mapping[str, float]) -> dict[str, int]:
    return {docid: round(grade) for docid, grade in grades.items()}
