"""`results.jsonl`: one row for each stage or evaluation, written when it ends. No model here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llama_index_rnx.errors import SettingsError

Row = dict[str, Any]

# The file beside a ranker's weights that says how they were trained.
HISTORY = "training.json"


def today() -> str:
    """Return the date and time of a row."""
    return datetime.now().isoformat(timespec="seconds")


def add_row(path: Path, row: Row) -> None:
    """Append one row to a file of results; make the file where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def rows_of(path: Path) -> list[Row]:
    """Return all rows of a file of results; none where there is no file yet.

    A line that a kill cut short is left out.
    """
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def read_history(folder: Path) -> list[Row]:
    """Return the rows that a ranker's folder holds of its training, first stage first.

    They are none where nobody wrote them down.
    """
    path = folder / HISTORY
    if not path.exists():
        return []
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Write the results that led to a ranker's weights beside them."""
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    (folder / HISTORY).write_text(text + "\n", encoding="utf-8")


def longest_chain(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the curriculum that went furthest, first stage first.

    Raises:
        SettingsError: no stage has ended yet.
    """
    stages = [row for row in rows if row.get("kind") == "stage"]
    if not stages:
        raise SettingsError(
            "there is no row of a stage in the results; run training.curriculum first."
        )
    return chain_of(stages, max(stages, key=lambda row: len(row["chain"])))


def chain_of(rows: Sequence[Row], last: Row) -> list[Row]:
    """Return the rows of the stages that led to `last`, first stage first, and `last` itself."""
    stages = [row for row in rows if row.get("kind") == "stage" and row["seed"] == last["seed"]]
    chain = [row for row in stages if row["chain"] == last["chain"][: len(row["chain"])]]
    return sorted(chain, key=lambda row: len(row["chain"]))
