"""nDCG@10, MRR and R@k by ir-measures. It knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ir_measures
from ir_measures import RR, Measure, R, nDCG

from training.data import GradedList

# qid -> docid -> score
Run = dict[str, dict[str, float]]

# qid -> docid -> grade
Qrels = Mapping[str, Mapping[str, int]]

# qid -> value of a measure
Values = dict[str, float]

NDCG10: Measure = nDCG @ 10

MEASURES: tuple[Measure, ...] = (NDCG10, RR @ 10, R @ 1, R @ 3, R @ 5, R @ 10)


def run_of(lists: Sequence[GradedList], scores: Sequence[Sequence[float]]) -> Run:
    """Return the scores of every list's candidates as a run."""
    return {
        graded_list.qid: dict(zip(graded_list.docids, map(float, list_scores), strict=True))
        for graded_list, list_scores in zip(lists, scores, strict=True)
    }


def first_run(lists: Sequence[GradedList]) -> Run:
    """Return the scores of the first stage as a run; every list must have them."""
    return run_of(lists, [graded_list.first for graded_list in lists])


def first_stage_run(lists: Sequence[GradedList]) -> Run:
    """Return the order of the first stage as a run.

    It is by the scores of the first stage, or as the candidates stand in the lists where one of the
    lists has no such scores.
    """
    if all(graded_list.first for graded_list in lists):
        return first_run(lists)
    scores = [
        [-float(position) for position in range(len(graded_list.docids))] for graded_list in lists
    ]
    return run_of(lists, scores)


def qrels_of(lists: Sequence[GradedList]) -> dict[str, dict[str, int]]:
    """Return all that is judged about the queries of the lists, in whole grades."""
    qrels = {}
    for graded_list in lists:
        grades = graded_list.judged
        if not grades:
            grades = dict(zip(graded_list.docids, graded_list.grades, strict=True))
        qrels[graded_list.qid] = {docid: round(grade) for docid, grade in grades.items()}
    return qrels


def evaluate(qrels: Qrels, run: Run, measure: Measure = NDCG10) -> Values:
    """Return the measure of every judged query; a query that the run does not hold has 0."""
    values = {
        metric.query_id: float(metric.value)
        for metric in ir_measures.iter_calc([measure], qrels, run)
    }
    return {qid: values.get(qid, 0.0) for qid in qrels}


def mean(values: Values) -> float:
    """Return the mean over the queries; 0 for no queries."""
    return sum(values.values()) / max(len(values), 1)
