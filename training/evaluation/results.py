"""`results.jsonl`: one row for each stage or evaluation, written when it ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llama_index_rnx.errors import RNXError

Row = dict[str, Any]


HISTORY = "training.json"


def today() -> str:
    """The date and time of a row."""
    return datetime.now().isoformat(timespec="seconds")


def add_row(path: Path, row: Row) -> None:
    """One line more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def rows_of(path: Path) -> list[Row]:
    """All rows; none where there is no file yet. A line that a kill cut short is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def history_of(folder: Path) -> list[Row]:
    """What a ranker's folder says of its training, first things first; nothing where nobody wrote
    it down.
    """
    path = folder / HISTORY
    found: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Beside the weights: the rows of the results that led to them."""
    (folder / HISTORY).write_text(
        json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def longest_chain(rows: Sequence[Row]) -> list[Row]:
    """The rows of the curriculum that went furthest, first stage first.

    Raises:
        RNXError: no stage has ended yet.
    """
    stages = [row for row in rows if row.get("kind") == "stage"]
    if not stages:
        raise RNXError("there is no row of a stage in the results; run training.curriculum first.")
    return chain_of(stages, max(stages, key=lambda row: len(row["chain"])))


def chain_of(rows: Sequence[Row], last: Row) -> list[Row]:
    """The rows of the stages that led to this one, and itself."""
    led = [row for row in rows if row.get("kind") == "stage" and row["seed"] == last["seed"]]
    return sorted(
        (row for row in led if row["chain"] == last["chain"][: len(row["chain"])]),
        key=lambda row: len(row["chain"]),
    )
