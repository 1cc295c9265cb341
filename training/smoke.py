"""The whole curriculum on generated data, about two minutes on one CPU core: `python -m
training.smoke WORK`. Exits with 1 unless

* the loss falls in every stage, and the planted order is learned, which the given order does not
  have;
* a process killed between two checkpoints resumes to the same weights and losses as one that ran
  through, bit by bit;
* in stage 0, on pairs, the losses of bi-encoder and head fall, and the images are found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from training.stages import run_smoke


def main() -> None:
    """Run the smoke run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="an empty folder, or one that does not exist")
    work = parser.parse_args().work
    if work.exists() and any(work.iterdir()):
        parser.exit(2, f"{work} is not empty; the smoke run begins from nothing.\n")
    torch.set_num_threads(1)
    faults = run_smoke(work)
    if faults:
        parser.exit(1, "smoke run failed: " + "\n".join(faults) + "\n")
    print(
        "smoke run: the loss fell in every stage, the planted order is learned, "
        "killed and resumed gives the same weights"
    )


if __name__ == "__main__":
    main()
