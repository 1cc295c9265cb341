"""From an index and questions to lists: what the retriever finds for each, texts and pictures. It
knows no ranker.

    rnx index ./manuals --to ./idx
    python -m training.make_lists --from ./idx --queries questions.jsonl --to lists.jsonl

Rows of questions: {"qid", "query", "answers"?: ["pumps.pdf#3", ...] or {"pumps.pdf#3": 3, ...}};
documents are named as in `rnx search --run`: the path below the indexed folder, `#page` behind it
in a PDF. A list of answers gives grade 2 to each and 0 to all others; without "answers" the
candidates come without grades, for `training.teachers` or for you. Pictures and rendered pages go
into a folder beside the lists.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from llama_index_rnx.collection import NodeCollection, holds_index
from llama_index_rnx.console import progress_bar
from llama_index_rnx.errors import RNXError
from llama_index_rnx.results import search
from llama_index_rnx.retrieve import RNXRetriever
from training.data import IndexRow, list_of, read_questions, summary


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--from",
        dest="index",
        required=True,
        help="the index: a folder, or the URL of a Qdrant server",
    )
    parser.add_argument("--collection", default="rnx", help="name of the Qdrant collection")
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True, help="the lists, JSONL")
    parser.add_argument("-k", type=int, default=30, help="candidates a list, at most")
    asked = parser.parse_args(arguments)
    try:
        questions = read_questions(asked.queries)
        if not asked.index.startswith(("http://", "https://")) and not holds_index(
            Path(asked.index)
        ):
            raise RNXError(
                f"there is no index in {asked.index}; make one with: rnx index PATH --to {asked.index}"
            )
        rows = _made(asked, questions)
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    asked.to.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    print(f"{summary(rows, questions)} -> {asked.to}")


def _made(asked: argparse.Namespace, questions: Sequence[IndexRow]) -> list[IndexRow]:
    collection = NodeCollection(asked.index, name=asked.collection)
    retriever, rows = RNXRetriever(collection, top_k=asked.k), []
    try:
        with progress_bar("retrieving", len(questions), "questions") as advance:
            for question in questions:
                hits = search(retriever, None, question["query"], asked.k)
                rows.append(list_of(question, hits, asked.to.with_suffix(".pictures")))
                advance(1)
    finally:
        collection.close()
    return rows


if __name__ == "__main__":
    main()
