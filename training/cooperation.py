"""Bi-encoder and cross-encoder together, apart (SEP) or with shared weights (JOINT): the second
paper's main table, small.

    RNX_DATA=... python -m training.cooperation --tower LITE2.pth --text GTE_FOLDER --cache CACHE
    [--loss hard_triplet]

One small reader takes the cells of a picture and the words of a caption from frozen, cached towers:
each alone it turns into a vector (bi-encoder), both together into a score (cross-encoder). There is
no pretrained encoder for both to start from, so the cross-encoder of SEP starts from the
bi-encoder's weights. Source: Retrieve Fast, Rerank Smart, arXiv 2103.11920.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch

from training.bi_encoder import (
    CooperationRun,
    CooperationSettings,
    new_reader,
    result_rows,
    sources,
)


def main() -> None:
    """Trains the three models and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("tower", "text", "cache"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=("SEP", "JOINT"), default=["SEP", "JOINT"])
    for name, value in asdict(CooperationSettings()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help="%(default)s"
        )
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = CooperationSettings(
        **{name: getattr(args, name) for name in asdict(CooperationSettings())}
    )
    data = sources(Path(os.environ["RNX_DATA"]), args.cache, args.tower, args.text, kind="grid")
    train, held_out = data["flickr_train"], data["flickr_dev"]
    began = time.process_time()
    print(f"Flickr8k dev, text to image, {settings}\n| | R@1 / 5 / 10 |\n|---|---|", flush=True)
    if "SEP" in args.models:
        retriever = CooperationRun(new_reader(settings), train, settings).train(("bi",))
        reranker = CooperationRun(copy.deepcopy(retriever), train, settings).train(
            ("cross",), miner=retriever
        )
        print("\n".join(result_rows("SEP", retriever, reranker, held_out, settings)), flush=True)
    if "JOINT" in args.models:
        shared = CooperationRun(new_reader(settings), train, settings).train(("bi", "cross"))
        print("\n".join(result_rows("JOINT", shared, shared, held_out, settings)), flush=True)
    print(f"{time.process_time() - began:.0f} s of one core")


if __name__ == "__main__":
    main()
