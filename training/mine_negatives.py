"""Hard negatives: wrong texts that the current retriever, or the current ranker, takes for right
ones. It trains nothing.

`python -m training.mine_negatives --queries q.jsonl --qrels QRELS --corpus texts.jsonl --to
    lists.jsonl \\ [--retriever rnx-mini|FOLDER] [--pool 200 --ranker rnx-mini] [--guard TEACHER..]
    [--depth 40]`

Rows: queries {"qid","query"}, corpus {"docid","text"}, qrels as TREC writes them (`qid 0 docid
grade`). With a ranker, the retriever's `pool` best are read by it and its own `depth` best wrong
ones are kept: mined anew after every round of training, they follow the ranker as it gets better
(ANCE, arXiv 2007.00808). A guard drops what a teacher holds to be as good as the right text,
because in pairs nobody judged the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.data import write_lists
from training.teachers import mine_files


def main(arguments: Sequence[str] | None = None) -> None:
    """Mine negatives from the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        lists = mine_files(options)
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    write_lists(options.to, lists)
    candidates = sum(len(graded_list.texts) for graded_list in lists) / max(1, len(lists))
    print(f"{len(lists)} lists, {candidates:.1f} candidates each -> {options.to}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    for name in ("queries", "qrels", "corpus", "to"):
        add(f"--{name}", type=Path, required=True)
    add("--retriever", default="rnx-mini")
    add("--ranker", nargs="*", default=[], help="rnx-mini or a folder: keep what it puts first")
    add("--pool", type=int, default=200, help="what the retriever fetches for the ranker")
    guard = "teachers that drop what is as good as the right text"
    add("--guard", nargs="*", default=[], help=guard)
    add("--depth", type=int, default=40, help="negatives a list")
    return parser


if __name__ == "__main__":
    main()
