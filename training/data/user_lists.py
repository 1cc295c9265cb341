"""A user's own lists: rows of `rnx rerank` with a "grade" in every candidate. It knows no model.

    {"qid": "7", "query": "late frost", "candidates": [{"docid": "a", "text": "...", "image":
    "a.png", "grade": 2}, ...]}

Grades are gains on one scale: 0 is not relevant, 3 is perfect. Image paths are absolute or relative
to the file. A faulty row is dropped alone, and the report says why, with its line number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index_rnx.batch import CandidateList, list_of
from llama_index_rnx.candidates import Candidate
from llama_index_rnx.errors import ImageError, RNXError, SettingsError
from training.data.graded_list import GradedList

# Gains are 2^grade - 1: beyond this grade, one candidate would be all that counts.
MAX_GRADE = 10.0

# Pixels to which an image is decoded here: enough to see that it can be read.
PROBE_PIXELS = 64 * 64

# The report names this many lines of a reason; all others are only counted.
MAX_LINES_NAMED = 8

FAULTY = "lists are not as `rnx rerank` reads them"
TWICE = "lists have a qid that stood before"
IMAGE_QUERY = "lists are asked by an image; training reads queries as text"
TOO_SHORT = "lists have fewer than two candidates left"
NO_RELEVANT = "lists have no relevant candidate (all grades are 0)"
EQUAL_GRADES = "lists have the same grade everywhere, so no order"
NO_GRADE = "candidates have no grade"
BAD_GRADE = f"candidates have a grade that is not a number from 0 to {MAX_GRADE:g}"
UNREADABLE = "images cannot be read; their candidates keep their text, or go"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that was dropped: why, and the line where it stands."""

    reason: str
    line: int
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class UserLists:
    """The lists of a file that a ranker can learn from, and how many were dropped.

    rows: the number of rows in the file. `str()` of it is a report for its user.
    """

    path: Path
    rows: int
    lists: Sequence[GradedList]
    faults: Sequence[Fault]

    def __str__(self) -> str:
        candidates = sum(len(graded_list.docids) for graded_list in self.lists)
        relevant = sum(grade > 0 for graded_list in self.lists for grade in graded_list.grades)
        images = sum(path is not None for graded_list in self.lists for path in graded_list.images)
        summary = (
            f"{self.path}: {len(self.lists)} of {self.rows} lists read; {candidates} candidates, "
            f"{relevant} relevant, {images} with an image"
        )
        reasons = dict.fromkeys(fault.reason for fault in self.faults)
        return "\n".join([summary, *map(self._describe_faults, reasons)])

    def _describe_faults(self, reason: str) -> str:
        faults = [fault for fault in self.faults if fault.reason == reason]
        numbers = dict.fromkeys(fault.line for fault in faults[:MAX_LINES_NAMED])
        lines = ", ".join(map(str, numbers))
        more = ", ..." if len(faults) > MAX_LINES_NAMED else ""
        example = f"; first: {faults[0].detail}" if faults[0].detail else ""
        return f"  dropped: {len(faults)} {reason} (line {lines}{more}{example})"


def read_user_lists(path: Path) -> UserLists:
    """Read every list that a ranker can learn from.

    Raises:
        SettingsError: the file is not there, or no list is left of it.
    """
    lists: list[GradedList] = []
    faults: list[Fault] = []
    qids: set[str] = set()
    rows = 0
    for line, text in _numbered_lines(path):
        rows += 1
        graded_list = _read_row(path, line, text, qids, faults)
        if graded_list is not None:
            lists.append(graded_list)

    user_lists = UserLists(path=path, rows=rows, lists=lists, faults=faults)
    if not lists:
        raise SettingsError(
            f"{user_lists}\n{path}: nothing is left to learn from; "
            'give candidates "grade": 0 (not relevant) to 3 (perfect).'
        )
    return user_lists


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise SettingsError(f"{path} does not exist; give a JSONL file of lists.")
    with path.open(encoding="utf-8", errors="replace") as stream:
        yield from ((number, line) for number, line in enumerate(stream, start=1) if line.strip())


def _read_row(
    path: Path, line: int, text: str, qids: set[str], faults: list[Fault]
) -> GradedList | None:
    """Return the list of one row, or None with a fault added."""
    try:
        row = json.loads(text)
        candidate_list = list_of(row, path.parent, f"{path}, line {line}")
    # An AttributeError: the row is JSON but no object.
    except (RNXError, ValueError, AttributeError) as error:
        faults.append(Fault(reason=FAULTY, line=line, detail=str(error)))
        return None

    raw = row.get("candidates", row.get("cands"))
    graded = [
        position for position, candidate in enumerate(raw) if _has_grade(candidate, line, faults)
    ]
    candidates = candidate_list.candidates
    images = {position: _readable_image(candidates[position], line, faults) for position in graded}
    usable = [position for position in graded if candidates[position].text or images[position]]
    graded_list = _build_list(path.stem, candidate_list, raw, usable, images)

    reason = _reason_to_drop(candidate_list, graded_list, qids)
    if reason:
        faults.append(Fault(reason=reason, line=line))
        return None
    qids.add(candidate_list.qid)
    return graded_list


def _has_grade(candidate: dict[str, Any], line: int, faults: list[Fault]) -> bool:
    grade = candidate.get("grade")
    if grade is None:
        faults.append(Fault(reason=NO_GRADE, line=line, detail=repr(candidate.get("docid"))))
        return False
    is_number = isinstance(grade, int | float) and not isinstance(grade, bool)
    if not is_number or not 0 <= grade <= MAX_GRADE:
        faults.append(Fault(reason=BAD_GRADE, line=line, detail=repr(grade)))
        return False
    return True


def _readable_image(candidate: Candidate, line: int, faults: list[Fault]) -> Path | None:
    """Return the path of the candidate's image if it can be opened."""
    if candidate.image is None:
        return None
    try:
        candidate.image.load(PROBE_PIXELS)
    except ImageError as error:
        faults.append(Fault(reason=UNREADABLE, line=line, detail=str(error)))
        return None
    return Path(candidate.image.label)


def _build_list(
    source: str,
    candidate_list: CandidateList,
    raw: list[dict[str, Any]],
    positions: list[int],
    images: dict[int, Path | None],
) -> GradedList:
    """Return the candidates at these positions as a graded list."""
    candidates = [candidate_list.candidates[position] for position in positions]
    paths = [images[position] for position in positions]
    scores = [raw[position].get("score") for position in positions]
    all_scored = all(isinstance(score, int | float) for score in scores)
    return GradedList(
        source=source,
        qid=candidate_list.qid,
        query=candidate_list.query.text,
        docids=tuple(candidate.id for candidate in candidates),
        texts=tuple(candidate.text for candidate in candidates),
        grades=tuple(float(raw[position]["grade"]) for position in positions),
        first=tuple(float(score) for score in scores if score is not None) if all_scored else (),
        images=tuple(paths) if any(paths) else (),
    )


def _reason_to_drop(
    candidate_list: CandidateList, graded_list: GradedList, qids: set[str]
) -> str | None:
    """Return why a ranker can learn nothing from a list, None where it can."""
    if candidate_list.qid in qids:
        return TWICE
    if candidate_list.query.image is not None:
        return IMAGE_QUERY
    if len(graded_list.docids) < 2:
        return TOO_SHORT
    if max(graded_list.grades) <= 0:
        return NO_RELEVANT
    return EQUAL_GRADES if len(set(graded_list.grades)) == 1 else None
