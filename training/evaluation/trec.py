"""TREC runs and judgments as files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ir_measures

from llama_index_rnx.batch import docid_of, judgment_row, run_row
from llama_index_rnx.errors import RNXError
from training.evaluation.metrics import Run


def write_run(path: Path, run: Run, tag: str) -> None:
    """A TREC run file: `qid Q0 docid rank score tag`, ranks from 1."""
    rows = []
    for qid, scores in run.items():
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        rows += [
            run_row(qid, docid, rank, score, tag) for rank, (docid, score) in enumerate(ranked, 1)
        ]
    path.write_text("".join(rows), encoding="utf-8")


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Judgments as TREC has them: `qid 0 docid grade`."""
    rows = [
        judgment_row(qid, docid, grade) for qid, of in qrels.items() for docid, grade in of.items()
    ]
    path.write_text("".join(rows), encoding="utf-8")


def read_run(path: Path) -> Run:
    """A TREC run file.

    Raises:
        RNXError: it is not there, or holds something else.
    """
    run: Run = {}
    for row in _rows(path, ir_measures.read_trec_run):
        run.setdefault(row.query_id, {})[docid_of(row.doc_id)] = row.score
    return run


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """A TREC file of judgments; errors as `read_run`."""
    qrels: dict[str, dict[str, int]] = {}
    for row in _rows(path, ir_measures.read_trec_qrels):
        qrels.setdefault(row.query_id, {})[docid_of(row.doc_id)] = max(0, row.relevance)
    return qrels


def _rows(path: Path, read: Callable[[str], Iterable[Any]]) -> list[Any]:
    if not path.is_file():
        raise RNXError(
            f"{path} does not exist; give a TREC file, or graded lists (.jsonl) for the judgments."
        )
    try:
        return list(read(str(path)))
    except (ValueError, IndexError, TypeError) as error:
        raise RNXError(
            f"{path} is not a TREC file ({error}); a run has `qid Q0 docid rank score tag` in a row."
        ) from error
