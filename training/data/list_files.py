"""Graded lists as files: rows of `rnx rerank`, and mined lists for a resumed run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from llama_index_rnx.system import atomic_write
from training.data.graded_list import GradedList
from training.data.jsonl import Row, read_jsonl, write_jsonl


def write_lists(path: Path, lists: Sequence[GradedList]) -> None:
    """Write the lists as JSONL rows that `rnx rerank` reads, with a grade in every candidate."""
    rows = [
        {
            "qid": graded_list.qid,
            "query": graded_list.query,
            "candidates": _candidate_rows(graded_list),
        }
        for graded_list in lists
    ]
    write_jsonl(path, rows)


def _candidate_rows(graded_list: GradedList) -> list[Row]:
    """Return a row for each candidate, with its image and its first score where it has them."""
    rows: list[Row] = []
    for position, docid in enumerate(graded_list.docids):
        row: Row = {"docid": docid, "text": graded_list.texts[position]}
        if graded_list.images and graded_list.images[position] is not None:
            row["image"] = str(graded_list.images[position])
        if graded_list.first:
            row["score"] = graded_list.first[position]
        row["grade"] = graded_list.grades[position]
        rows.append(row)
    return rows


def load_or_build_lists(path: Path, build: Callable[[], Sequence[GradedList]]) -> list[GradedList]:
    """Return the lists in the file; where there is no file yet, build the lists and write it.

    So lists that are mined are mined once, and a resumed run reads the same ones.
    """
    if not path.exists():
        lines = [json.dumps(asdict(graded_list), default=str) for graded_list in build()]
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [_list_of(row) for row in read_jsonl(path)]


def _list_of(row: Row) -> GradedList:
    columns: Row = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
    }
    columns["images"] = tuple(None if path is None else Path(path) for path in row["images"])
    return GradedList(**columns)
