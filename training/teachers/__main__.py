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
from collections.abc import Sequence
from pathlib import Path

from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from training.data import write_jsonl
from training.teachers import grade_rows, load_teacher


def main(arguments: Sequence[str] | None = None) -> None:
    """Grade a file of lists from the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        teachers = [load_teacher(name) for name in options.teacher]
        rows = grade_rows(options.lists, teachers, MemoryStore(options.memory), options.blend)
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    write_jsonl(options.to, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--lists", type=Path, required=True, help="JSONL rows as in `rnx rerank`")
    add(
        "--teacher",
        nargs="+",
        required=True,
        help="rnx-mini, a folder, a hub id; their mean is taken",
    )
    add("--to", type=Path, required=True, help="the same rows with grades")
    add(
        "--blend",
        type=float,
        default=1.0,
        help="the teachers' share of the grades; the rest is what the rows hold",
    )
    add("--memory", type=Path, help="a folder that keeps the teachers' memories for the next run")
    return parser


if __name__ == "__main__":
    main()
