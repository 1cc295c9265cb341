"""Tune a ranker on your own graded lists: rnx-mini on any machine, or a vision-language model
(`--base`) by LoRA.

    python -m training.train_ranker --lists my.jsonl --work DIR                      # a fifth of the lists measures the gain
    python -m training.train_ranker --lists my.jsonl --dev dev.jsonl --work DIR --to my-ranker
    python -m training.train_ranker --base Qwen/Qwen2-VL-2B-Instruct --lists my.jsonl --work DIR --to my-adapter

Rows are those of `rnx rerank` with a "grade" in every candidate (`own_lists.py`). What comes out is
a folder for `RNXRerank(model="my-ranker")`. A killed run goes on from `--work` with the same
result. What rnx-mini remembers of a node is not trained, so an index made before serves the tuned
ranker as it is. Further options of a --base: training/train_vlm.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.mini import NAME
from training.engine import LOSSES, Stage
from training.stages import RATE, READINGS, base_folder, tune


def hand_over(asked: argparse.Namespace, more: Sequence[str]) -> None:
    """A vision-language model has a command of its own, with more to choose."""
    from training import train_vlm  # peft and accelerate are extras

    given = {
        "base": asked.base,
        "lists": asked.lists,
        "work": asked.work,
        "to": asked.to or asked.work / "adapter",
    }
    given |= {
        name: value
        for name in ("dev", "steps", "rate", "loss", "seed")
        if (value := getattr(asked, name)) is not None
    }
    train_vlm.main(
        [*(word for name, value in given.items() for word in (f"--{name}", str(value))), *more]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lists", type=Path, required=True, help="JSONL rows of `rnx rerank`, with grades"
    )
    parser.add_argument(
        "--dev", type=Path, help="other lists to measure the gain on; else a fifth of --lists"
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="caches, checkpoint, runs, results.jsonl"
    )
    parser.add_argument(
        "--to", type=Path, help="the folder of the tuned ranker (default: WORK/model)"
    )
    parser.add_argument(
        "--base", default=NAME, help="rnx-mini, a tuned one's folder, or a vision-language model"
    )
    parser.add_argument(
        "--steps", type=int, help=f"of the optimiser (default: every list {READINGS} times)"
    )
    parser.add_argument(
        "--rate", type=float, help=f"the peak of the learning rate (default: {RATE})"
    )
    parser.add_argument("--loss", choices=LOSSES, help=f"default: {Stage.loss}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    asked, more = parser.parse_known_args(arguments)
    torch.set_num_threads(asked.threads)
    folder = base_folder(asked.base)
    if folder is None:
        return hand_over(asked, more)
    if more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    try:
        tune(asked, folder)
    except RNXError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
