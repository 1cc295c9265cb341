"""Development lists as files: the rows that `training.train_vlm` and `rnx rerank` read, and their
judgments. It trains nothing.

    RNX_DATA=DIR python -m training.write_lists --to FOLDER rag24 dl21 dl22 mediqa insuranceqa
    rag24-dev dl21-dev dl19

writes FOLDER/rag24.jsonl, FOLDER/rag24.qrels, ... `stages/mixtures.py` says what is trained on and
what is held out: names that end in -dev choose weights, dl19 is only looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.data import DataFolder, write_lists
from training.evaluation import qrels_of, write_qrels
from training.stages import WRITTEN_LISTS


def main(arguments: Sequence[str] | None = None) -> None:
    """Write each source that is named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", choices=WRITTEN_LISTS, metavar="SOURCE")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        folder = DataFolder.from_environment()
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    options.to.mkdir(parents=True, exist_ok=True)
    for name in options.sources:
        lists = WRITTEN_LISTS[name](folder)
        write_lists(options.to / f"{name}.jsonl", lists)
        write_qrels(options.to / f"{name}.qrels", qrels_of(lists))
        candidates = sum(len(graded_list.docids) for graded_list in lists)
        print(f"{name}: {len(lists)} lists, {candidates} candidates", flush=True)


if __name__ == "__main__":
    main()
