"""JSONL rows of queries and candidate lists: read with a clear word about every wrong one, ranked
by any ranker.
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
from llama_index_rnx.console import progress_bar
from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import (
    LISTS_AT_ONCE,
    Ranker,
    Ranking,
    Windows,
    rank_many,
    with_dynamic_batching,
)
from llama_index_rnx.text import clean_text


@dataclass(frozen=True, kw_only=True)
class CandidateList:
    """One row: a query and what is to be ordered for it. grades: of each candidate, as given; None
    where there is none.
    """

    qid: str
    query: Query
    candidates: list[Candidate]
    grades: list[Any] = field(default_factory=list)


def read_queries(path: Path) -> list[dict[str, Any]]:
    """Rows `{"qid","query","image"?}`; image paths are absolute or relative to the file.

    Raises:
        RNXError: the file is missing or empty, a row is wrong, a qid stands twice.
    """
    rows: list[dict[str, Any]] = []
    for place, row in _rows(path):
        query = _query(place, row, path.parent)
        rows.append(
            {"qid": _qid(place, row), "query": query.text, "image": _location(row, query.image)}
        )
    _refuse_twice([row["qid"] for row in rows], path)
    return rows


def read_lists(path: Path) -> list[CandidateList]:
    """Rows `{"qid","query","image"?,"candidates":[{"docid","text"?,"image"?,"score"?,"grade"?}]}`.

    A row in Python is `list_of`:

        >>> candidate = {"docid": "a", "text": "Rust is iron oxide.", "grade": 3}
        >>> row = {"qid": "1", "query": "What is rust?", "candidates": [candidate]}
        >>> found = list_of(row, Path("."), "row 1")
        >>> found.query.text, found.candidates[0].id, found.grades
        ('What is rust?', 'a', [3])

    Raises:
        RNXError: as `read_queries`; and a candidate without docid, without text and image, or a
            docid twice in a list.
    """
    lists = [list_of(row, path.parent, place) for place, row in _rows(path)]
    _refuse_twice([one.qid for one in lists], path)
    return lists


def list_of(row: dict[str, Any], folder: Path, place: str) -> CandidateList:
    """One row. folder: where relative image paths begin; place: what an error calls the row.

    Raises:
        RNXError: as `read_lists`, but that nobody knows of the other rows.
    """
    found = row.get("candidates", row.get("cands"))
    if not isinstance(found, list):
        raise RNXError(f'{place}: "candidates" must be a list of {{"docid","text"?,"image"?}}.')
    candidates = [_candidate(place, one, folder) for one in found]
    _refuse_twice([one.id for one in candidates], place)
    grades = [one.get("grade") for one in found]
    return CandidateList(
        qid=_qid(place, row), query=_query(place, row, folder), candidates=candidates, grades=grades
    )


def rank_lists(
    lists: Sequence[CandidateList],
    ranker: Ranker,
    memory_path: str | None = None,
    faults: list[str] | None = None,
    windows: Windows = "sliding",
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Yields (qid, [(docid, score), best first]) for every list, with a progress bar.

    A few lists are driven at once, so that their windows share forwards. A candidate whose image
    cannot be read is ordered by its text, or comes last with score 0; what was wrong is added to
    `faults`. A query whose image cannot be read keeps the given order.
    """
    ranker, store = with_dynamic_batching(ranker), MemoryStore(memory_path)
    faults = faults if faults is not None else []
    with progress_bar("reranking", len(lists), "lists") as advance:
        for start in range(0, len(lists), LISTS_AT_ONCE):
            part = lists[start : start + LISTS_AT_ONCE]
            yield from zip(
                (one.qid for one in part),
                _ranked(ranker, store, part, windows, faults),
                strict=True,
            )
            advance(len(part))


def _ranked(
    ranker: Ranker,
    store: MemoryStore,
    lists: Sequence[CandidateList],
    windows: Windows,
    faults: list[str],
) -> list[list[tuple[str, float]]]:
    try:
        rankings = rank_many(
            ranker, store, [(one.query, one.candidates) for one in lists], windows=windows
        )
    except ImageError as error:  # of a query; those of candidates are in the rankings
        if len(lists) > 1:
            return [row for one in lists for row in _ranked(ranker, store, [one], windows, faults)]
        faults.append(f"query {lists[0].qid}: {error}")
        return [
            [(candidate.id, -float(place)) for place, candidate in enumerate(lists[0].candidates)]
        ]
    for one, ranking in zip(lists, rankings, strict=True):
        faults += [
            f"candidate {one.candidates[i].id}: {fault}" for i, fault in ranking.faults.items()
        ]
    return [
        _in_order(one.candidates, ranking) for one, ranking in zip(lists, rankings, strict=True)
    ]


def _in_order(candidates: Sequence[Candidate], ranking: Ranking) -> list[tuple[str, float]]:
    return [
        (candidates[i].id, score) for i, score in zip(ranking.order, ranking.scores, strict=True)
    ]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise RNXError(f"{path} does not exist; give a JSONL file.")
    empty = True
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                empty = False
                yield f"{path}, line {number}", _row(f"{path}, line {number}", line)
    if empty:
        raise RNXError(f"{path} holds no rows; give one JSON object a line.")


def _row(place: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (
        ValueError,
        RecursionError,
    ) as error:  # also a number of 5,000 digits, and 100,000 brackets
        raise RNXError(f"{place}: is not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise RNXError(f"{place}: got {type(row).__name__}; a row is a JSON object.")
    return row


def _qid(place: str, row: dict[str, Any]) -> str:
    qid = _text(place, row, "qid")
    if not qid or qid.split() != [qid]:
        raise RNXError(
            f'{place}: "qid" is {row.get("qid")!r}; it must be there, without white space.'
        )
    return qid


def _query(place: str, row: dict[str, Any], folder: Path) -> Query:
    text, image = _text(place, row, "query"), _image(place, row, folder)
    if not text and image is None:
        raise RNXError(f'{place}: the query is empty; give "query", "image", or both.')
    return Query(text=text, image=image)


def _text(place: str, row: dict[str, Any], name: str) -> str:
    """A field of text; a number counts as its digits."""
    value = row.get(name)
    if value is not None and not isinstance(value, str | int | float):
        raise RNXError(f'{place}: "{name}" is {value!r}; it must be a text.')
    return "" if value is None else clean_text(str(value))


def _image(place: str, row: dict[str, Any], folder: Path) -> ImageSource | None:
    value = row.get("image")
    if value is not None and not isinstance(value, str):
        raise RNXError(
            f'{place}: "image" is {value!r}; it must be the path of a picture, or a data: URI.'
        )
    if not value:
        return None
    return (
        source_at(value, label=f"the picture of {place}")
        if is_data_uri(value)
        else file_source(folder / value)
    )


def _location(row: dict[str, Any], image: ImageSource | None) -> str | None:
    """What a `QueryBundle` is told: where the picture is, or the picture itself."""
    if image is None:
        return None
    return str(row["image"]) if is_data_uri(row["image"]) else image.label


def _candidate(place: str, row: Any, folder: Path) -> Candidate:
    docid = row.get("docid", row.get("id")) if isinstance(row, dict) else None
    if docid is None or str(docid) == "":
        raise RNXError(f'{place}: a candidate has no "docid".')
    text, image = _text(place, row, "text"), _image(place, row, folder)
    if not text and image is None:
        raise RNXError(f'{place}: candidate {docid!r} has neither "text" nor "image".')
    return Candidate(id=str(docid), text=text, image=image)


def _refuse_twice(names: Sequence[str], place: Any) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise RNXError(f"{place}: {name!r} stands twice; each may stand once.")
        seen.add(name)
