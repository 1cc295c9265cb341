"""nDCG@10, MRR and R@k of orders by ir-measures, with paired bootstrap intervals. It knows no
model.

    rnx rerank dev.jsonl --run after.trec --model my-ranker
    python -m training.evaluate after.trec dev.jsonl [--results results.jsonl] [--write-first first.trec]
    python -m training.evaluate RUN.trec QRELS [--against FIRST.trec]

Graded lists (.jsonl) say what is relevant and what the first order was: by their scores, or as they
stand where they have none. Judgments in TREC's form say the former only. Results are a row of a
file, to stand beside those of the training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.data import read_own
from training.engine import hashes, record_of
from training.evaluation import (
    Run,
    add_row,
    compare,
    given_run,
    qrels_of,
    read_qrels,
    read_run,
    today,
    write_run,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("judgments", type=Path, help="graded lists (.jsonl) or TREC judgments")
    parser.add_argument(
        "--against", type=Path, help="another run, in place of the first order of the lists"
    )
    parser.add_argument(
        "--write-first", type=Path, help="write the first order of the lists as a TREC run"
    )
    parser.add_argument("--results", type=Path, help="add a row to this results.jsonl")
    found = parser.parse_args(arguments)
    try:
        _compare_files(found)
    except RNXError as error:
        parser.exit(2, f"{error}\n")


def _compare_files(asked: argparse.Namespace) -> None:
    first: Run | None = None
    if asked.judgments.suffix == ".jsonl":
        own = read_own(asked.judgments)
        print(own)
        qrels, first = qrels_of(own.lists), given_run(own.lists)
    else:
        qrels = read_qrels(asked.judgments)
    if asked.write_first and first is not None:
        write_run(asked.write_first, first, "first")
    against = read_run(asked.against) if asked.against else first
    table = compare(qrels, read_run(asked.run), against)
    print("\n".join(f"{name:8} {of}" for name, of in table.items()))
    if asked.results:
        files = hashes([path for path in (asked.run, asked.judgments, asked.against) if path])
        row = {
            "kind": "run",
            "date": today(),
            "queries": len(qrels),
            "measures": {name: asdict(of) for name, of in table.items()},
        }
        add_row(asked.results, {**row, **asdict(record_of({"run": asked.run.name}, 0, files))})


if __name__ == "__main__":
    main()
