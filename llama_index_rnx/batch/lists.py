"""JSONL rows of queries and candidate lists, checked one by one: an error names the line and the
field. It knows no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_index_rnx.candidates import (
    Candidate,
    ImageSource,
    Query,
    file_source,
    is_data_uri,
    source_at,
)
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.text import clean_text

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CandidateList:
    """One row: a query and what is to be ordered for it.

    Attributes:
        grades: of each candidate, as it stands in the row; None where there is none.
    """

    qid: str
    query: Query
    candidates: list[Candidate]
    grades: list[Any] = field(default_factory=list)


def read_queries(path: Path) -> list[Row]:
    """Read rows `{"qid","query","image"?}`; image paths are absolute or relative to the file.

    Raises:
        SettingsError: the file is missing or empty, a row is wrong, a qid stands twice.
    """
    rows: list[Row] = []
    for label, row in _read_rows(path):
        query = _parse_query(label, row, path.parent)
        rows.append(
            {
                "qid": _parse_qid(label, row),
                "query": query.text,
                "image": _image_location(row, query.image),
            }
        )
    _refuse_duplicates([row["qid"] for row in rows], str(path))
    return rows


def read_lists(path: Path) -> list[CandidateList]:
    """Read rows `{"qid","query","image"?,"candidates":[{"docid","text"?,"image"?,"score"?,
    "grade"?}]}`.

    A row in Python is turned into a list by `list_of`:

        >>> candidate = {"docid": "a", "text": "Rust is iron oxide.", "grade": 3}
        >>> row = {"qid": "1", "query": "What is rust?", "candidates": [candidate]}
        >>> rows = list_of(row, Path("."), "row 1")
        >>> rows.query.text, rows.candidates[0].id, rows.grades
        ('What is rust?', 'a', [3])

    Raises:
        SettingsError: as `read_queries`; and a candidate without docid, without text and image, or
            a docid twice in a list.
    """
    lists = [list_of(row, path.parent, label) for label, row in _read_rows(path)]
    _refuse_duplicates([candidate_list.qid for candidate_list in lists], str(path))
    return lists


def list_of(row: Row, folder: Path, label: str) -> CandidateList:
    """Return the list of one row.

    Args:
        folder: where relative image paths begin.
        label: the name of the row in an error.

    Raises:
        SettingsError: as `read_lists`, except for a qid that another row has.
    """
    candidate_rows = row.get("candidates", row.get("cands"))
    if not isinstance(candidate_rows, list):
        raise SettingsError(
            f'{label}: "candidates" must be a list of {{"docid","text"?,"image"?}}.'
        )

    candidates = [_parse_candidate(label, each, folder) for each in candidate_rows]
    _refuse_duplicates([candidate.id for candidate in candidates], label)
    return CandidateList(
        qid=_parse_qid(label, row),
        query=_parse_query(label, row, folder),
        candidates=candidates,
        grades=[each.get("grade") for each in candidate_rows],
    )


def _read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the label of each row, its file and line, and the row."""
    if not path.is_file():
        raise SettingsError(f"{path} does not exist; give a JSONL file.")

    is_empty = True
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                is_empty = False
                label = f"{path}, line {number}"
                yield label, _parse_row(label, line)
    if is_empty:
        raise SettingsError(f"{path} holds no rows; give one JSON object a line.")


def _parse_row(label: str, line: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        # Also a number of 5,000 digits, and 100,000 brackets.
        raise SettingsError(f"{label}: is not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise SettingsError(f"{label}: got {type(row).__name__}; a row is a JSON object.")
    return row


def _parse_qid(label: str, row: Row) -> str:
    qid = _parse_text(label, row, "qid")
    if not qid or qid.split() != [qid]:
        raise SettingsError(
            f'{label}: "qid" is {row.get("qid")!r}; it must be there, without white space.'
        )
    return qid


def _parse_query(label: str, row: Row, folder: Path) -> Query:
    text = _parse_text(label, row, "query")
    image = _parse_image(label, row, folder)
    if not text and image is None:
        raise SettingsError(f'{label}: the query is empty; give "query", "image", or both.')
    return Query(text=text, image=image)


def _parse_candidate(label: str, row: Any, folder: Path) -> Candidate:
    docid = row.get("docid", row.get("id")) if isinstance(row, dict) else None
    if docid is None or str(docid) == "":
        raise SettingsError(f'{label}: a candidate has no "docid".')

    text = _parse_text(label, row, "text")
    image = _parse_image(label, row, folder)
    if not text and image is None:
        raise SettingsError(f'{label}: candidate {docid!r} has neither "text" nor "image".')
    return Candidate(id=str(docid), text=text, image=image)


def _parse_text(label: str, row: Row, name: str) -> str:
    """Return a field of text; a number counts as its digits, a missing field as empty."""
    value = row.get(name)
    if value is not None and not isinstance(value, str | int | float):
        raise SettingsError(f'{label}: "{name}" is {value!r}; it must be a text.')
    return "" if value is None else clean_text(str(value))


def _parse_image(label: str, row: Row, folder: Path) -> ImageSource | None:
    value = row.get("image")
    if value is not None and not isinstance(value, str):
        raise SettingsError(
            f'{label}: "image" is {value!r}; it must be the path of an image, or a data: URI.'
        )
    if not value:
        return None
    if is_data_uri(value):
        return source_at(value, label=f"the image of {label}")
    return file_source(folder / value)


def _image_location(row: Row, image: ImageSource | None) -> str | None:
    """Return what a `QueryBundle` needs: the path of the image, or its data: URI."""
    if image is None:
        return None
    return str(row["image"]) if is_data_uri(row["image"]) else image.label


def _refuse_duplicates(names: Sequence[str], label: str) -> None:
    unique: set[str] = set()
    for name in names:
        if name in unique:
            raise SettingsError(f"{label}: {name!r} stands twice; each may stand once.")
        unique.add(name)
