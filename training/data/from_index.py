"""From the hits of questions to the rows of lists, one row a question. It knows no ranker."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index_rnx.batch import read_queries
from llama_index_rnx.candidates import ImageSource, PageNode, candidate_of, image_of
from llama_index_rnx.collection import NodeCollection, holds_index
from llama_index_rnx.console import progress_bar
from llama_index_rnx.errors import SettingsError, StorageError
from llama_index_rnx.results import Hit, search
from llama_index_rnx.retrieve import RNXRetriever
from training.data.jsonl import read_jsonl

IndexRow = dict[str, Any]

# The grade of an answer that has none of its own.
ANSWER_GRADE = 2

# A rendered page has no more pixels than this.
MAX_PAGE_PIXELS = 1_000_000


def retrieve_lists(
    index: str, name: str, questions: Sequence[IndexRow], k: int, image_folder: Path
) -> list[IndexRow]:
    """Return one row of `rnx rerank` for each question: what the retriever finds for it.

    index: a folder, or the URL of a Qdrant server. name: of the Qdrant collection. k: hits a
    question, at most. image_folder: where images that are no files are written.

    Raises:
        StorageError: the folder holds no index.
        RNXError: the index cannot be opened or searched.
    """
    is_url = index.startswith(("http://", "https://"))
    if not is_url and not holds_index(Path(index)):
        raise StorageError(
            f"there is no index in {index}; make one with: rnx index PATH --to {index}"
        )
    collection = NodeCollection(index, name=name)
    retriever = RNXRetriever(collection, top_k=k)
    rows = []
    try:
        with progress_bar("retrieving", len(questions), "questions") as advance:
            for question in questions:
                hits = search(retriever, None, question["query"], k)
                rows.append(build_list_row(question, hits, image_folder))
                advance(1)
    finally:
        collection.close()
    return rows


def build_list_row(question: IndexRow, hits: Sequence[Hit], image_folder: Path) -> IndexRow:
    """Return one row of `rnx rerank`: every document once, by its best passage.

    Candidates have a grade where the question names its answers.
    """
    grades = answer_grades(question)
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(hit.docid, hit)

    candidates = []
    for docid, hit in best.items():
        candidate: IndexRow = {"docid": docid, "score": hit.score}
        # The text holds its metadata, as the ranker will see it.
        text = candidate_of(hit.node).text
        if text:
            candidate["text"] = text
        image = save_image(hit, image_folder)
        if image is not None:
            candidate["image"] = image
        if grades is not None:
            candidate["grade"] = grades.get(docid, 0)
        candidates.append(candidate)
    return {"qid": question["qid"], "query": question["query"], "candidates": candidates}


def answer_grades(question: IndexRow) -> Mapping[str, float] | None:
    """Return the grade of every answer that a question names; None if it names none.

    Raises:
        SettingsError: "answers" is neither a list nor an object.
    """
    answers = question.get("answers")
    if answers is None or isinstance(answers, dict):
        return answers
    if isinstance(answers, list):
        return dict.fromkeys(map(str, answers), ANSWER_GRADE)
    raise SettingsError(
        f'question {question["qid"]!r} has "answers": {answers!r}; '
        "give a list of documents, or {document: grade}."
    )


def save_image(hit: Hit, folder: Path) -> str | None:
    """Return the path of a hit's image as the lists name it; None for a hit without one.

    An image file is named where it lies; every other image is written into the folder.
    """
    source = image_of(hit.node)
    if source is None:
        return None
    if not isinstance(hit.node, PageNode) and Path(source.label).is_file():
        return str(Path(source.label).resolve())
    return f"{folder.name}/{_write_image(source, folder).name}"


def _write_image(source: ImageSource, folder: Path) -> Path:
    path = folder / f"{hashlib.sha256(source.digest.encode()).hexdigest()[:16]}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source.load(MAX_PAGE_PIXELS).save(path)
    return path


def read_questions(path: Path) -> list[IndexRow]:
    """Read rows `{"qid", "query", "answers"?}`.

    Raises:
        SettingsError: a question has no text.
        RNXError: as `read_queries` of the package.
    """
    queries = read_queries(path)
    questions = []
    for query, row in zip(queries, read_jsonl(path), strict=True):
        if not query["query"]:
            raise SettingsError(
                f"{path}: question {query['qid']!r} has no text; "
                'a question is {"qid", "query", "answers"?}.'
            )
        questions.append(row | {"qid": query["qid"], "query": query["query"]})
    return questions


def summarize(rows: Sequence[IndexRow], questions: Sequence[IndexRow]) -> str:
    """Say how many lists there are, and how many of the answers are in them."""
    answers = [
        (question["qid"], docid)
        for question in questions
        for docid in answer_grades(question) or {}
    ]
    retrieved = {
        (row["qid"], candidate["docid"]) for row in rows for candidate in row["candidates"]
    }
    missed = [answer for answer in answers if answer not in retrieved]

    line = (
        f"{len(rows)} lists; {len(answers) - len(missed)} of {len(answers)} answers "
        "were found by the retriever"
    )
    if not missed:
        return line
    names = ", ".join(f"{qid}: {docid}" for qid, docid in missed[:5])
    ellipsis = ", ..." if len(missed) > 5 else ""
    return f"{line}; not found: {names}{ellipsis} (raise -k?)"
