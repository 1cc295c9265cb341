"""Soft grades for candidates, from the scores of any ranker. It trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from llama_index_rnx.batch import read_lists
from llama_index_rnx.candidates import Candidate, Query, file_source
from llama_index_rnx.console import progress_bar
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker, get_or_compute_memories, rank
from training.data import GradedList, Row, read_jsonl

# The grade of a teacher's first candidate: grades are 0 to 3 everywhere.
TOP_GRADE = 3.0

# Candidates whose memories are computed in one call.
CHUNK = 512


def standardize(scores: Tensor) -> Tensor:
    """Return scores with mean 0 and deviation 1, [N] -> [N]; equal scores give 0.

    So scores of teachers with different scales can be added.
    """
    spread = scores.std(correction=0)
    return (scores - scores.mean()) / spread if float(spread) > 0.0 else torch.zeros_like(scores)


def ensemble(scores: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """Return the (weighted) mean of the teachers' standardized scores, [T, N] -> [N]."""
    shares = torch.tensor(weights or [1.0] * len(scores))
    standardized = torch.stack([standardize(by_teacher) for by_teacher in scores])
    return (shares / shares.sum()) @ standardized


def soft_grades(scores: Tensor) -> Tensor:
    """Return 3 for the best, falling to 0 at the mean of the list and below it, [N] -> [N]."""
    above = (scores - scores.mean()).clamp_min(0.0)
    return TOP_GRADE * above / above.max().clamp_min(1e-9)


def blend(judged: Tensor, soft: Tensor, share: float) -> Tensor:
    """Return judgments softened by `share` of the teachers' view, [N].

    An unjudged candidate gets up to 3 x share instead of a flat 0.
    """
    return (1.0 - share) * judged + share * soft


def teacher_scores(
    teachers: Sequence[Ranker], graded_list: GradedList, store: MemoryStore
) -> Tensor:
    """Return every teacher's scores of the candidates of a list, [T, N]."""
    images = graded_list.images or (None,) * len(graded_list.texts)
    candidates = [
        Candidate(id=docid, text=text, image=file_source(image) if image else None)
        for docid, text, image in zip(graded_list.docids, graded_list.texts, images, strict=True)
    ]
    query = Query(text=graded_list.query)
    return torch.stack(
        [score_candidates(teacher, store, query, candidates) for teacher in teachers]
    )


def grade_list(
    graded_list: GradedList, scores: Tensor, share: float = 1.0, weights: Sequence[float] = ()
) -> GradedList:
    """Return the list with the soft grades that follow from its teachers' scores [T, N].

    Below a share of 1, the list's own grades make up the rest.
    """
    soft = soft_grades(ensemble(scores, weights))
    grades = blend(torch.tensor(graded_list.grades), soft, share)
    return replace(graded_list, grades=tuple(grades.tolist()))


def score_candidates(
    teacher: Ranker, store: MemoryStore, query: Query, candidates: Sequence[Candidate]
) -> Tensor:
    """Return a teacher's scores in the order of the candidates, [N].

    Lists that do not fit one window are read in sliding ones.

    Raises:
        SettingsError: a candidate cannot be read. As the last one with score 0 it would get a grade
            that nobody gave.
    """
    ranking = rank(teacher, store, query, candidates)
    if ranking.faults:
        fault = next(iter(ranking.faults.values()))
        raise SettingsError(f"a list has a candidate with no text or image to grade: {fault}")

    scores = torch.zeros(len(candidates))
    scores[torch.tensor(ranking.order, dtype=torch.long)] = torch.tensor(ranking.scores)
    return scores


def cache_memories(
    teachers: Sequence[Ranker], store: MemoryStore, candidates: Iterable[Candidate]
) -> None:
    """Compute every candidate's memory by every teacher once, into the store.

    Texts of like length go together: batches of one list would waste padding.
    """
    distinct = {candidate.digest: candidate for candidate in candidates}
    ordered = sorted(distinct.values(), key=lambda candidate: len(candidate.text))
    for teacher in teachers:
        with progress_bar(f"reading as {teacher.name}", len(ordered), "candidates") as advance:
            for start in range(0, len(ordered), CHUNK):
                chunk = ordered[start : start + CHUNK]
                get_or_compute_memories(teacher, chunk, store)
                advance(len(chunk))


def grade_rows(
    path: Path, teachers: Sequence[Ranker], store: MemoryStore, share: float = 1.0
) -> list[Row]:
    """Return the rows of a file of lists with a grade in every candidate.

    share: as in `blend`; 1 is the teachers alone.
    """
    lists = read_lists(path)
    rows = list(read_jsonl(path))
    candidates = [candidate for candidate_list in lists for candidate in candidate_list.candidates]
    cache_memories(teachers, store, candidates)

    for candidate_list, row in zip(lists, rows, strict=True):
        scores = torch.stack(
            [
                score_candidates(teacher, store, candidate_list.query, candidate_list.candidates)
                for teacher in teachers
            ]
        )  # [T, N]
        judged = torch.tensor([float(grade or 0.0) for grade in grades_of_row(row)])
        grades = blend(judged, soft_grades(ensemble(scores)), share)
        for candidate, grade in zip(candidates_of_row(row), grades.tolist(), strict=True):
            candidate["grade"] = round(grade, 4)
    return rows


def candidates_of_row(row: Row) -> list[Row]:
    """Return the candidates of a row."""
    candidates: list[Row] = row["candidates"] if "candidates" in row else row["cands"]
    return candidates


def grades_of_row(row: Row) -> list[float | None]:
    """Return the grades that a row holds, None for a candidate without one.

    Raises:
        SettingsError: a grade is no number.
    """
    grades = [candidate.get("grade") for candidate in candidates_of_row(row)]
    for grade in grades:
        if isinstance(grade, bool) or not isinstance(grade, int | float | None):
            raise SettingsError(
                f'list {row.get("qid")!r} has "grade": {grade!r}; '
                "it must be a number, 0 to 3, or be left out."
            )
    return grades
