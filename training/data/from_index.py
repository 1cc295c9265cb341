"""From an index and questions to lists: what the retriever finds for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index_rnx.candidates import ImageSource, PageNode, candidate_of, image_of
from llama_index_rnx.errors import RNXError
from llama_index_rnx.results import Hit

IndexRow = dict[str, Any]


RIGHT = 2  # the grade of an answer that has none of its own


PIXELS = 1_000_000  # of a rendered page, at most


def list_of(question: IndexRow, hits: Sequence[Hit], pictures: Path) -> IndexRow:
    """One row of `rnx rerank`: every document once, by its best passage, with a grade where the
    question names its answers.
    """
    grades = answers_of(question)
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(hit.docid, hit)
    candidates = []
    for docid, hit in best.items():
        found: IndexRow = {"docid": docid, "score": hit.score}
        if text := candidate_of(hit.node).text:  # with its metadata, as the ranker will see it
            found["text"] = text
        if (path := picture_of(hit, pictures)) is not None:
            found["image"] = path
        if grades is not None:
            found["grade"] = grades.get(docid, 0)
        candidates.append(found)
    return {"qid": question["qid"], "query": question["query"], "candidates": candidates}


def answers_of(question: IndexRow) -> Mapping[str, float] | None:
    """The grade of every answer that a question names; None if it names none."""
    answers = question.get("answers")
    if answers is None or isinstance(answers, dict):
        return answers
    if isinstance(answers, list):
        return dict.fromkeys(map(str, answers), RIGHT)
    raise RNXError(
        f'question {question["qid"]!r} has "answers": {answers!r}; give a list of documents, or {{document: grade}}.'
    )


def picture_of(hit: Hit, folder: Path) -> str | None:
    """Where the picture of a hit is, as the lists name it: a file as it is, everything else written
    into the folder.
    """
    source = image_of(hit.node)
    if source is None:
        return None
    if not isinstance(hit.node, PageNode) and Path(source.label).is_file():
        return str(Path(source.label).resolve())
    return f"{folder.name}/{_written(source, folder).name}"


def _written(source: ImageSource, folder: Path) -> Path:
    path = folder / f"{hashlib.sha256(source.digest.encode()).hexdigest()[:16]}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source.load(PIXELS).save(path)
    return path


def read_questions(path: Path) -> list[IndexRow]:
    """The rows.

    Raises:
        RNXError: the file is not there, or a row has no "qid" or no "query".
    """
    if not path.is_file():
        raise RNXError(f"{path} does not exist; give a JSONL file of questions.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            row = _parsed(f"{path}, line {number}", line)
            found.append(row | {"qid": str(row["qid"]), "query": str(row["query"])})
    return found


def _parsed(place: str, line: str) -> IndexRow:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RNXError(f"{place}: is not JSON ({error}).") from error
    if not isinstance(row, dict) or not row.get("qid") or not row.get("query"):
        raise RNXError(f'{place}: a question is {{"qid", "query", "answers"?}}.')
    return row


def summary(rows: Sequence[IndexRow], questions: Sequence[IndexRow]) -> str:
    """How many lists, and how many of the answers are in them."""
    wanted = [(row["qid"], docid) for row in questions for docid in answers_of(row) or {}]
    found = {(row["qid"], candidate["docid"]) for row in rows for candidate in row["candidates"]}
    there = sum(one in found for one in wanted)
    missed = [f"{qid}: {docid}" for qid, docid in wanted if (qid, docid) not in found]
    line = f"{len(rows)} lists; {there} of {len(wanted)} answers were found by the retriever"
    return line + (
        f"; not found: {', '.join(missed[:5])}{', ...' if len(missed) > 5 else ''} (raise -k?)"
        if missed
        else ""
    )
