"""Core-set selection: the share of the training lists that teaches most. Scores lists; knows
neither how they were made nor how they are used.

`python -m training.coreset --lists in.jsonl --teacher rnx-mini FOLDER.. --share 0.5 --to out.jsonl
[--ranker rnx-mini]`

A list is worth reading where the teachers agree among themselves (its order is no noise) and where
the ranker does not yet agree with them (it is not known); and the kept queries should stand for all
of them (facility location over their vectors).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from llama_index_rnx.batch import read_lists
from llama_index_rnx.candidates import Query
from llama_index_rnx.embed import RNXEmbedding
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers import load_ranker
from training.teachers import core_set, load_teacher, read_rows, worth_of_rows


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lists",
        type=Path,
        required=True,
        help="JSONL rows as in `rnx rerank`, with or without grades",
    )
    parser.add_argument(
        "--teacher",
        nargs="+",
        required=True,
        help="as for training.teachers; two at least say something",
    )
    parser.add_argument("--ranker", default="rnx-mini", help="the ranker that is to learn")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument(
        "--diversity",
        type=float,
        default=0.5,
        help="0: worth alone, 1: variety of the queries alone",
    )
    parser.add_argument(
        "--random",
        type=int,
        metavar="SEED",
        help="instead, as a control: a random share of the same size",
    )
    parser.add_argument("--to", type=Path, required=True, help="the kept rows, in their order")
    found = parser.parse_args(arguments)
    if not 0.0 < found.share <= 1.0:
        parser.exit(2, f"--share is {found.share}; it must be above 0 and at most 1.\n")
    try:
        lists, rows = read_lists(found.lists), read_rows(found.lists)
        worths = worth_of_rows(
            lists, rows, [load_teacher(name) for name in found.teacher], load_ranker(found.ranker)
        )
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    embedding = RNXEmbedding()
    queries = torch.tensor(
        [embedding.query_vector(Query(text=one.query.text or " ")) for one in lists]
    )
    kept = core_set(worths, queries, found.share, found.diversity)
    if found.random is not None:
        kept = sorted(random.Random(found.random).sample(range(len(lists)), len(kept)))
    found.to.write_text(
        "".join(json.dumps(rows[place], ensure_ascii=False) + "\n" for place in kept),
        encoding="utf-8",
    )
    mean = sum(worths) / len(worths)
    print(
        f"kept {len(kept)} of {len(lists)}; worth {sum(worths[p] for p in kept) / len(kept):.3f}, all {mean:.3f} -> {found.to}"
    )


if __name__ == "__main__":
    main()
