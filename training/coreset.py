"""Core-set selection: the share of the training lists that teaches most. Scores lists; knows
neither how they were made nor how they are used.

`python -m training.coreset --lists in.jsonl --teacher rnx-mini FOLDER.. --share 0.5 --to out.jsonl
[--ranker rnx-mini]`

A list has utility where the teachers agree among themselves (its order is no noise) and where the
ranker does not yet agree with them (its order is not known); and the kept queries should stand for
all of them (facility location over their vectors).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.data import write_jsonl
from training.teachers import select_rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Select a core set from the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        selection = select_rows(options)
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    write_jsonl(options.to, selection.rows)
    print(f"{selection} -> {options.to}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    lists = "JSONL rows as in `rnx rerank`, with or without grades"
    add("--lists", type=Path, required=True, help=lists)
    teacher = "as for training.teachers; two at least say something"
    add("--teacher", nargs="+", required=True, help=teacher)
    add("--ranker", default="rnx-mini", help="the ranker that is to learn")
    add("--share", type=float, default=0.5)
    diversity = "0: utility alone, 1: variety of the queries alone"
    add("--diversity", type=float, default=0.5, help=diversity)
    control = "instead, as a control: a random share of the same size"
    add("--random", type=int, metavar="SEED", help=control)
    add("--to", type=Path, required=True, help="the kept rows, in their order")
    return parser


if __name__ == "__main__":
    main()
