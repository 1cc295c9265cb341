"""A rehearsal of training a vision-language model: a tiny random one learns a planted order on a
CPU, in a few seconds.

    python -m training.rehearsal --to DIR

It writes model, lists and prompt, trains, and fails unless the order is learned. Every text holds
one of four words, which alone decide its grade, and a letter that means nothing. The weights are
random and stay so: what is learned lies in the adapter. It says that the plumbing works, nothing
about a 2B model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from training.stages import rehearsal_arguments, rehearsal_report, write_rehearsal
from training.train_vlm import main as train_vlm


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the files, train, and check that the order was learned."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument(
        "--write-only", action="store_true", help="leave the training to another command"
    )
    options = parser.parse_args(arguments)
    write_rehearsal(options.to)
    if options.write_only:
        return
    # More threads would wait for each other over matrices this small.
    torch.set_num_threads(1)
    train_vlm(rehearsal_arguments(options.to))
    line, is_learned = rehearsal_report(options.to)
    print(line, flush=True)
    if not is_learned:
        raise SystemExit("the planted order was not learned")


if __name__ == "__main__":
    main()
