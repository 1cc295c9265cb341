"""Soft grades for candidates, from the scores of any ranker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from llama_index_rnx.batch import read_lists
from llama_index_rnx.candidates import Candidate, Query, file_source
from llama_index_rnx.console import progress_bar
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker, get_or_compute_memories, rank
from training.data import GradedList, Row

BEST = 3.0  # the grade of a teacher's first: grades are 0 .. 3 everywhere


def standardised(scores: Tensor) -> Tensor:
    """[N] -> [N] with mean 0 and deviation 1, so that teachers with different scales can be added;
    all equal give 0.
    """
    spread = scores.std(correction=0)
    return (scores - scores.mean()) / spread if float(spread) > 0.0 else torch.zeros_like(scores)


def ensemble(scores: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """Scores of T teachers, [T, N] -> the (weighted) mean of their standardised scores, [N]."""
    shares = torch.tensor(weights or [1.0] * len(scores))
    return (shares / shares.sum()) @ torch.stack([standardised(of) for of in scores])


def soft_grades(scores: Tensor) -> Tensor:
    """[N] -> [N]: 3 for the best, falling with its distance to the mean of the list; the mean and
    all below it have 0.
    """
    above = (scores - scores.mean()).clamp_min(0.0)
    return BEST * above / above.max().clamp_min(1e-9)


def blend(judged: Tensor, soft: Tensor, share: float) -> Tensor:
    """Judgments, softened: `share` of the teachers' view. What nobody judged has up to 3 x share
    instead of a flat 0.
    """
    return (1.0 - share) * judged + share * soft


def teacher_scores(teachers: Sequence[Ranker], of: GradedList, store: MemoryStore) -> Tensor:
    """What every teacher says of the candidates of a list, [T, N]."""
    images = of.images or (None,) * len(of.texts)
    candidates = [
        Candidate(id=docid, text=text, image=file_source(image) if image else None)
        for docid, text, image in zip(of.docids, of.texts, images, strict=True)
    ]
    return torch.stack(
        [scored_by(teacher, store, Query(text=of.query), candidates) for teacher in teachers]
    )


def graded(
    of: GradedList, scores: Tensor, share: float = 1.0, weights: Sequence[float] = ()
) -> GradedList:
    """A list with the soft grades that follow from its teachers' scores [T, N]; below a share of 1
    its own stay in them.
    """
    grades = blend(torch.tensor(of.grades), soft_grades(ensemble(scores, weights)), share)
    return replace(of, grades=tuple(grades.tolist()))


def scored_by(
    teacher: Ranker, store: MemoryStore, query: Query, candidates: Sequence[Candidate]
) -> Tensor:
    """A teacher's scores in the order of the candidates, [N]; what does not fit one window is read
    in sliding ones.

    Raises:
        RNXError: a candidate cannot be read; as last with score 0 it would be a grade that nobody
            gave.
    """
    ranking = rank(teacher, store, query, candidates)
    if ranking.faults:
        raise RNXError(
            f"a list has a candidate with no text or image to grade: {next(iter(ranking.faults.values()))}"
        )

    found = torch.zeros(len(candidates))
    found[torch.tensor(ranking.order, dtype=torch.long)] = torch.tensor(ranking.scores)
    return found


def remember_all(
    teachers: Sequence[Ranker], store: MemoryStore, candidates: Iterable[Candidate]
) -> None:
    """Every candidate through every teacher once, texts of like length together: batches of one
    list waste padding.
    """
    ordered = sorted(
        {one.digest: one for one in candidates}.values(), key=lambda one: len(one.text)
    )
    for teacher in teachers:
        with progress_bar(f"reading as {teacher.name}", len(ordered), "candidates") as advance:
            for start in range(0, len(ordered), 512):
                get_or_compute_memories(teacher, ordered[start : start + 512], store)
                advance(len(ordered[start : start + 512]))


def grade_rows(
    path: Path, teachers: Sequence[Ranker], store: MemoryStore, share: float = 1.0
) -> list[Row]:
    """The rows of a file of lists with a grade for every candidate; `share` as in `blend`, 1 for
    the teachers alone.
    """
    lists, rows = read_lists(path), read_rows(path)
    remember_all(teachers, store, [candidate for one in lists for candidate in one.candidates])
    for one, row in zip(lists, rows, strict=True):
        said = torch.stack(
            [scored_by(teacher, store, one.query, one.candidates) for teacher in teachers]
        )  # [T, N]
        judged = torch.tensor([float(grade or 0.0) for grade in grades_of_row(row)])
        grades = blend(judged, soft_grades(ensemble(said)), share)
        for candidate, grade in zip(candidates_of_row(row), grades.tolist(), strict=True):
            candidate["grade"] = round(grade, 4)
    return rows


def read_rows(path: Path) -> list[Row]:
    """The rows as they stand, to be written again with more in them; `read_lists` says what is
    wrong with them.
    """
    return [
        json.loads(line)
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]


def candidates_of_row(row: Row) -> list[Row]:
    """The candidates of a row."""
    found: list[Row] = row["candidates"] if "candidates" in row else row["cands"]
    return found


def grades_of_row(row: Row) -> list[float | None]:
    """The grades that a row holds, None for a candidate without.

    Raises:
        RNXError: a grade is no number.
    """
    found = [candidate.get("grade") for candidate in candidates_of_row(row)]
    for grade in found:
        if isinstance(grade, bool) or not isinstance(grade, int | float | None):
            raise RNXError(
                f'list {row.get("qid")!r} has "grade": {grade!r}; it must be a number, 0 to 3, or be left out.'
            )
    return found
