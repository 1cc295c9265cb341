"""The mean of several checkpoints of one run and its continuations: `python -m
training.average_weights A B.. --to OUT`.

Each is a file of weights, or a `checkpoint.safetensors` (its moving average). Three of them gave
.709 where the best alone had .704 (mean nDCG@10 of the selection sets, 2026-11-22).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from training.weights import weights_of


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, required=True)
    found = parser.parse_args()
    parts = [weights_of(path) for path in found.paths]
    save_file(
        {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}, found.to
    )


if __name__ == "__main__":
    main()
