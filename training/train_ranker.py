"""Tune a ranker on your own graded lists: rnx-mini on any machine, or a vision-language model
(`--base`) by LoRA.

    python -m training.train_ranker --lists my.jsonl --work DIR
    python -m training.train_ranker --lists my.jsonl --dev dev.jsonl --work DIR --to my-ranker
    python -m training.train_ranker --base Qwen/Qwen2-VL-2B-Instruct --lists my.jsonl --work DIR

Rows are those of `rnx rerank` with a "grade" in every candidate (`data/user_lists.py`); without
--dev, a fifth of the lists measures the gain. What comes out is a folder for
`RNXRerank(model="my-ranker")`. A killed run goes on from `--work` with the same result. What
rnx-mini remembers of a node is not trained, so an index made before serves the tuned ranker as it
is. Further options of a --base: training/train_vlm.py.
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune a ranker from the command line."""
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    torch.set_num_threads(options.threads)
    folder = base_folder(options.base)
    if folder is None:
        train_vlm(options, more)
        return
    if more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    try:
        tune(options, folder)
    except RNXError as error:
        parser.exit(2, f"{error}\n")


def train_vlm(options: argparse.Namespace, more: Sequence[str]) -> None:
    """Hand a vision-language model over to its own command, which has more options."""
    # The packages `peft` and `accelerate` are extras.
    from training import train_vlm as command

    values = {
        "base": options.base,
        "lists": options.lists,
        "work": options.work,
        "to": options.to or options.work / "adapter",
    }
    for name in ("dev", "steps", "rate", "loss", "seed"):
        values[name] = getattr(options, name)
    arguments = []
    for name, value in values.items():
        if value is not None:
            arguments += [f"--{name}", str(value)]
    command.main([*arguments, *more])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--lists", type=Path, required=True, help="JSONL rows of `rnx rerank`, with grades")
    add("--dev", type=Path, help="other lists to measure the gain on; else a fifth of --lists")
    add("--work", type=Path, required=True, help="caches, checkpoint, runs, results.jsonl")
    add("--to", type=Path, help="the folder of the tuned ranker (default: WORK/model)")
    add("--base", default=NAME, help="rnx-mini, a tuned one's folder, or a vision-language model")
    add("--steps", type=int, help=f"of the optimizer (default: every list {READINGS} times)")
    add("--rate", type=float, help=f"the peak of the learning rate (default: {RATE})")
    add("--loss", choices=LOSSES, help=f"default: {Stage.loss}")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
