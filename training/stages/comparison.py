"""Two runs compared on judgments, from their files to a row of results. It knows no model."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from training.data import read_user_lists
from training.engine import hashes, record_of
from training.evaluation import (
    Run,
    add_row,
    compare,
    first_stage_run,
    qrels_of,
    read_qrels,
    read_run,
    today,
    write_run,
)


def compare_files(options: Namespace) -> list[str]:
    """Return the lines that `python -m training.evaluate` prints, and write what it asks for.

    Raises:
        RNXError: a file is missing or holds something else.
    """
    qrels, first, report = _read_judgments(options.judgments)
    if options.write_first and first is not None:
        write_run(options.write_first, first, "first")

    against = read_run(options.against) if options.against else first
    measures = compare(qrels, read_run(options.run), against)
    if options.results:
        paths = [options.run, options.judgments, options.against]
        files = hashes([path for path in paths if path])
        row = {
            "kind": "run",
            "date": today(),
            "queries": len(qrels),
            "measures": {name: asdict(comparison) for name, comparison in measures.items()},
        }
        record = record_of({"run": options.run.name}, 0, files)
        add_row(options.results, {**row, **asdict(record)})
    return [*report, *(f"{name:8} {comparison}" for name, comparison in measures.items())]


def _read_judgments(
    path: Path,
) -> tuple[dict[str, dict[str, int]], Run | None, list[str]]:
    """Return the judgments, the first order of graded lists, and what was read and dropped."""
    if path.suffix != ".jsonl":
        return read_qrels(path), None, []
    user_lists = read_user_lists(path)
    return qrels_of(user_lists.lists), first_stage_run(user_lists.lists), [str(user_lists)]
