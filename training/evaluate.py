"""nDCG@10, MRR and R@k of orders by ir-measures, with paired bootstrap intervals. It knows no
model.

    rnx rerank dev.jsonl --run after.trec --model my-ranker
    python -m training.evaluate after.trec dev.jsonl [--results results.jsonl]
    python -m training.evaluate after.trec dev.jsonl --write-first first.trec
    python -m training.evaluate RUN.trec QRELS [--against FIRST.trec]

Graded lists (.jsonl) say what is relevant and what the first order was: by their scores, or as they
stand where they have none. Judgments in TREC's form say the former only. Results are a row of a
file, to stand beside those of the training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.stages import compare_files


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare two runs from the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        lines = compare_files(options)
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    print("\n".join(lines))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path)
    add("judgments", type=Path, help="graded lists (.jsonl) or TREC judgments")
    against = "another run, in place of the first order of the lists"
    add("--against", type=Path, help=against)
    write_first = "write the first order of the lists as a TREC run"
    add("--write-first", type=Path, help=write_first)
    add("--results", type=Path, help="add a row to this results.jsonl")
    return parser


if __name__ == "__main__":
    main()
