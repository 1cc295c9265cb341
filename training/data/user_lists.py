"""A user's own lists: the rows of `rnx rerank`, with a "grade" in every candidate. Says what was
read and dropped, and why.

    {"qid": "7", "query": "late frost", "candidates": [{"docid": "a", "text": "...", "image":
    "a.png", "grade": 2}, ...]}

Grades are gains on one scale: 0 is not relevant, 3 is perfect. Image paths are absolute or relative
to the file. A row that is wrong costs itself only; its line stands in the report. It knows no
model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index_rnx.batch import CandidateList, list_of
from llama_index_rnx.candidates import Candidate
from llama_index_rnx.errors import ImageError, RNXError
from training.data.graded_list import GradedList

HIGHEST = 10.0  # gains are 2^grade - 1: beyond this, one candidate would be all that counts
LOOK = 64 * 64  # pixels: enough to see that a picture can be read
NAMED = 8  # lines in the report; what follows is counted

FAULTY = "lists are not as `rnx rerank` reads them"
TWICE = "lists have a qid that stood before"
BY_PICTURE = "lists are asked by a picture; training reads queries as text"
ALONE = "lists have fewer than two candidates left"
NOTHING_RIGHT = "lists have no relevant candidate (all grades are 0)"
NOTHING_WRONG = "lists have the same grade everywhere, so no order"
NO_GRADE = "candidates have no grade"
BAD_GRADE = f"candidates have a grade that is not a number from 0 to {HIGHEST:g}"
UNREADABLE = "pictures cannot be read; their candidates keep their text, or go"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that was dropped: why, and the line where it stands."""

    reason: str
    line: int
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class OwnLists:
    """What a file held: the lists that something can be learned from, and what was left out of
    them.
    """

    path: Path
    rows: int
    lists: Sequence[GradedList]
    faults: Sequence[Fault]

    def __str__(self) -> str:
        candidates = sum(len(of.docids) for of in self.lists)
        relevant = sum(grade > 0 for of in self.lists for grade in of.grades)
        pictures = sum(path is not None for of in self.lists for path in of.images)
        read = f"{self.path}: {len(self.lists)} of {self.rows} lists read; {candidates} candidates, {relevant} relevant"
        lines = [f"{read}, {pictures} with a picture"]
        for reason in dict.fromkeys(fault.reason for fault in self.faults):
            found = [fault for fault in self.faults if fault.reason == reason]
            numbers = ", ".join(map(str, dict.fromkeys(fault.line for fault in found[:NAMED])))
            more = ", ..." if len(found) > NAMED else ""
            example = f"; first: {found[0].detail}" if found[0].detail else ""
            lines.append(f"  dropped: {len(found)} {reason} (line {numbers}{more}{example})")
        return "\n".join(lines)


def read_own(path: Path) -> OwnLists:
    """Every list that something can be learned from.

    Raises:
        RNXError: the file is not there, or nothing is left of it.
    """
    lists, faults, rows, seen = list[GradedList](), list[Fault](), 0, set[str]()
    for line, text in _lines(path):
        rows += 1
        found = _read_row(path, line, text, seen, faults)
        if found is not None:
            lists.append(found)
    made = OwnLists(path=path, rows=rows, lists=lists, faults=faults)
    if not lists:
        raise RNXError(
            f'{made}\n{path}: nothing is left to learn from; give candidates "grade": 0 (not relevant) to 3 (perfect).'
        )
    return made


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise RNXError(f"{path} does not exist; give a JSONL file of lists.")
    with path.open(encoding="utf-8", errors="replace") as stream:
        yield from ((number, line) for number, line in enumerate(stream, start=1) if line.strip())


def _read_row(
    path: Path, line: int, text: str, seen: set[str], faults: list[Fault]
) -> GradedList | None:
    try:
        row = json.loads(text)
        one = list_of(row, path.parent, f"{path}, line {line}")
    except (
        RNXError,
        ValueError,
        AttributeError,
    ) as error:  # a row that is no JSON, or JSON but no object
        faults.append(Fault(reason=FAULTY, line=line, detail=str(error)))
        return None
    raw = row.get("candidates", row.get("cands"))
    places = [place for place, given in enumerate(raw) if _graded(given, line, faults)]
    seeable = {place: _seeable(one.candidates[place], line, faults) for place in places}
    kept = [place for place in places if one.candidates[place].text or seeable[place]]
    made = _list(
        path,
        one,
        raw,
        kept,
        [Path(str(seeable[place])) if seeable[place] else None for place in kept],
    )
    reason = _useless(one, made, seen)
    if reason:
        faults.append(Fault(reason=reason, line=line))
        return None
    seen.add(one.qid)
    return made


def _graded(given: dict[str, Any], line: int, faults: list[Fault]) -> bool:
    grade = given.get("grade")
    if grade is None:
        faults.append(Fault(reason=NO_GRADE, line=line, detail=repr(given.get("docid"))))
    elif isinstance(grade, bool) or not isinstance(grade, int | float) or not 0 <= grade <= HIGHEST:
        faults.append(Fault(reason=BAD_GRADE, line=line, detail=repr(grade)))
    else:
        return True
    return False


def _seeable(candidate: Candidate, line: int, faults: list[Fault]) -> str | None:
    """The path of the candidate's picture if it can be opened."""
    if candidate.image is None:
        return None
    try:
        candidate.image.load(LOOK)
    except ImageError as error:
        faults.append(Fault(reason=UNREADABLE, line=line, detail=str(error)))
        return None
    return candidate.image.label


def _list(
    path: Path,
    one: CandidateList,
    raw: list[dict[str, Any]],
    kept: list[int],
    images: list[Path | None],
) -> GradedList:
    scores = [raw[place].get("score") for place in kept]
    return GradedList(
        source=path.stem,
        qid=one.qid,
        query=one.query.text,
        docids=tuple(one.candidates[place].id for place in kept),
        texts=tuple(one.candidates[place].text for place in kept),
        grades=tuple(float(raw[place]["grade"]) for place in kept),
        first=tuple(float(score) for score in scores if score is not None)
        if all(isinstance(score, int | float) for score in scores)
        else (),
        images=tuple(images) if any(images) else (),
    )


def _useless(one: CandidateList, made: GradedList, seen: set[str]) -> str | None:
    """Why nothing can be learned from a list, None where something can."""
    if one.qid in seen:
        return TWICE
    if one.query.image is not None:
        return BY_PICTURE
    if len(made.docids) < 2:
        return ALONE
    if max(made.grades) <= 0:
        return NOTHING_RIGHT
    return NOTHING_WRONG if len(set(made.grades)) == 1 else None
