"""From an index and questions to lists: what the retriever finds for each, texts and images. It
knows no ranker.

    rnx index ./manuals --to ./idx
    python -m training.make_lists --from ./idx --queries questions.jsonl --to lists.jsonl

Rows of questions: {"qid", "query", "answers"?: ["pumps.pdf#3", ...] or {"pumps.pdf#3": 3, ...}};
documents are named as in `rnx search --run`: the path below the indexed folder, `#page` behind it
in a PDF. A list of answers gives grade 2 to each and 0 to all others; without "answers" the
candidates come without grades, for `training.teachers` or for you. Images and rendered pages go
into a folder beside the lists.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.data import read_questions, retrieve_lists, summarize, write_jsonl


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the lists of an index from the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        questions = read_questions(options.queries)
        # The name of the folder is part of the rows of lists that are there already.
        images = options.to.with_suffix(".pictures")
        rows = retrieve_lists(options.index, options.collection, questions, options.k, images)
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    write_jsonl(options.to, rows)
    print(f"{summarize(rows, questions)} -> {options.to}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    location = "the index: a folder, or the URL of a Qdrant server"
    add("--from", dest="index", required=True, help=location)
    add("--collection", default="rnx", help="name of the Qdrant collection")
    add("--queries", type=Path, required=True)
    add("--to", type=Path, required=True, help="the lists, JSONL")
    add("-k", type=int, default=30, help="candidates a list, at most")
    return parser


if __name__ == "__main__":
    main()
