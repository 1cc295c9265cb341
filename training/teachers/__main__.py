"""Soft grades for the candidates of a list, from any ranker: ours, a sentence embedder, a
cross-encoder. It trains nothing.

`python -m training.teachers --lists in.jsonl --teacher rnx-mini FOLDER.. --to out.jsonl [--blend
0.25]`

Rows are those of `rnx rerank`; every candidate comes back with "grade", 0 (as good as the list's
mean, or worse) to 3 (its best). A folder with `modules.json` is a sentence-transformers embedder,
one whose config names a sequence classifier a cross-encoder; everything else is what `load_ranker`
knows. With --blend below 1, grades that the rows hold make up the rest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from training.teachers.grading import grade_rows
from training.teachers.models import load_teacher


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lists", type=Path, required=True, help="JSONL rows as in `rnx rerank`")
    parser.add_argument(
        "--teacher",
        nargs="+",
        required=True,
        help="rnx-mini, a folder, a hub id; their mean is taken",
    )
    parser.add_argument("--to", type=Path, required=True, help="the same rows with grades")
    parser.add_argument(
        "--blend",
        type=float,
        default=1.0,
        help="the teachers' share of the grades; the rest is what the rows hold",
    )
    parser.add_argument(
        "--memory", type=Path, help="a folder that keeps what the teachers read, for the next run"
    )
    found = parser.parse_args(arguments)
    try:
        rows = grade_rows(
            found.lists,
            [load_teacher(name) for name in found.teacher],
            MemoryStore(found.memory),
            found.blend,
        )
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    found.to.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
