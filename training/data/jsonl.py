"""Graded lists as JSONL rows: those that `rnx rerank` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from training.data.graded_list import GradedList


def write_lists(path: Path, lists: Sequence[GradedList]) -> None:
    """JSONL rows as in `rnx rerank`, with grades."""
    with path.open("w", encoding="utf-8") as file:
        for of in lists:
            row = {"qid": of.qid, "query": of.query, "candidates": _rows_of(of)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rows_of(of: GradedList) -> list[dict[str, object]]:
    """A row for each candidate, with its picture and its first score where there are any."""
    found: list[dict[str, object]] = []
    for place, (docid, text, grade) in enumerate(zip(of.docids, of.texts, of.grades, strict=True)):
        picture = of.images[place] if of.images else None
        extra = {} if picture is None else {"image": str(picture)}
        score = {"score": of.first[place]} if of.first else {}
        found.append({"docid": docid, "text": text, **extra, **score, "grade": grade})
    return found
