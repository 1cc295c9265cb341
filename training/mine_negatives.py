"""Hard negatives: texts that the current retriever, or the current ranker, takes for right and that
are not. Trains nothing.

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

import torch

from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from training.data import rows, write_lists
from training.teachers import load_retriever, load_score, mine, read_judged_questions, remined


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("queries", "qrels", "corpus", "to"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--retriever", default="rnx-mini")
    parser.add_argument(
        "--ranker", nargs="*", default=[], help="rnx-mini or a folder: keep what it puts first"
    )
    parser.add_argument(
        "--pool", type=int, default=200, help="what the retriever fetches for the ranker"
    )
    parser.add_argument(
        "--guard",
        nargs="*",
        default=[],
        help="teachers that drop what is as good as the right text",
    )
    parser.add_argument("--depth", type=int, default=40, help="negatives a list")
    found = parser.parse_args(arguments)
    store = MemoryStore()
    try:
        questions = read_judged_questions(found.queries, found.qrels)
        corpus = {str(row["docid"]): str(row["text"]) for row in rows(found.corpus)}
        pools = mine(
            "mined",
            questions,
            corpus,
            load_retriever(found.retriever),
            max(found.pool, found.depth),
        )
        ranker = (
            load_score(found.ranker, store) if found.ranker else lambda of: torch.tensor(of.first)
        )
        lists = remined(
            pools, ranker, found.depth, load_score(found.guard, store) if found.guard else None
        )
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    write_lists(found.to, lists)
    print(
        f"{len(lists)} lists, {sum(len(of.texts) for of in lists) / max(1, len(lists)):.1f} candidates each -> {found.to}"
    )


if __name__ == "__main__":
    main()
