"""Development lists as files: the rows that `training.train_vlm` and `rnx rerank` read, and their
judgments. Trains nothing.

    RNX_DATA=DIR python -m training.write_lists --to FOLDER rag24 dl21 dl22 mediqa insuranceqa
    rag24-dev dl21-dev dl19

writes FOLDER/rag24.jsonl, FOLDER/rag24.qrels, ... What is trained on and what is held out is said
in `mixes.py`: names that end in -dev choose weights, dl19 is only looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from training.data import GradedList, distilled, mediqa, rag24, take, trec, write_lists
from training.evaluation import qrels_of, write_qrels
from training.stages import dl21_split, insurance_split

INSURANCE, ANSWERS = (
    1_000,
    60,
)  # questions of 4,000, answers of about 200: right ones first, the wrong ones by chance

SOURCES: dict[str, Callable[[], Sequence[GradedList]]] = {
    "rag24": lambda: rag24("train"),
    "dl21": lambda: dl21_split()[0],
    "dl22": lambda: distilled("dl22"),
    "mediqa": lambda: mediqa("train"),
    "insuranceqa": lambda: [_first(of, ANSWERS) for of in insurance_split()[0][:INSURANCE]],
    "rag24-dev": lambda: rag24("dev"),
    "dl21-dev": lambda: dl21_split()[1],
    "dl19": lambda: trec("dl19", ("bm25",)),
    "dl19-top20": lambda: [_first(of, 20) for of in trec("dl19", ("bm25",))],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes each source that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", choices=SOURCES, metavar="SOURCE")
    parser.add_argument("--to", type=Path, required=True)
    found = parser.parse_args(arguments)
    found.to.mkdir(parents=True, exist_ok=True)
    for name in found.sources:
        lists = SOURCES[name]()
        write_lists(found.to / f"{name}.jsonl", lists)
        write_qrels(found.to / f"{name}.qrels", qrels_of(lists))
        print(
            f"{name}: {len(lists)} lists, {sum(len(of.docids) for of in lists)} candidates",
            flush=True,
        )


def _first(of: GradedList, count: int) -> GradedList:
    return take(of, range(min(count, len(of.docids))))


if __name__ == "__main__":
    main()
