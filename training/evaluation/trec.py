"""TREC runs and judgments as files. It knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ir_measures

from llama_index_rnx.batch import docid_of, judgment_row, run_row
from llama_index_rnx.errors import SettingsError
from training.evaluation.metrics import Qrels, Run

RUN_FORMAT = "a run has rows of `qid Q0 docid rank score tag`"
QRELS_FORMAT = "judgments have rows of four columns, `qid 0 docid grade`"


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a TREC run file: `qid Q0 docid rank score tag`, ranks from 1."""
    rows = []
    for qid, scores in run.items():
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        rows += [
            run_row(qid, docid, rank, score, tag) for rank, (docid, score) in enumerate(ranked, 1)
        ]
    path.write_text("".join(rows), encoding="utf-8")


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Write judgments as TREC has them: `qid 0 docid grade`."""
    rows = [
        judgment_row(qid, docid, grade)
        for qid, grades in qrels.items()
        for docid, grade in grades.items()
    ]
    path.write_text("".join(rows), encoding="utf-8")


def read_run(path: Path) -> Run:
    """Read a TREC run file.

    Raises:
        SettingsError: the file is not there, or holds something else.
    """
    run: Run = {}
    for row in _rows(path, ir_measures.read_trec_run, RUN_FORMAT):
        run.setdefault(row.query_id, {})[docid_of(row.doc_id)] = row.score
    return run


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read a TREC file of judgments; a negative grade becomes 0.

    Raises:
        SettingsError: as `read_run`.
    """
    qrels: dict[str, dict[str, int]] = {}
    for row in _rows(path, ir_measures.read_trec_qrels, QRELS_FORMAT):
        qrels.setdefault(row.query_id, {})[docid_of(row.doc_id)] = max(0, row.relevance)
    return qrels


def _rows(path: Path, read: Callable[[str], Iterable[Any]], allowed: str) -> Sequence[Any]:
    if not path.is_file():
        raise SettingsError(
            f"{path} does not exist; give a TREC file, or graded lists (.jsonl) for the judgments."
        )
    try:
        return list(read(str(path)))
    except (ValueError, IndexError, TypeError) as error:
        raise SettingsError(f"{path} is not a TREC file ({error}); {allowed}.") from error
