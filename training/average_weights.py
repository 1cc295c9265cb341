"""The mean of several checkpoints of one run and its continuations.

    python -m training.average_weights A B.. --to OUT

Each is a file of weights, or a `checkpoint.safetensors` (its moving average). Three of them gave
.709 where the best alone had .704 (mean nDCG@10 of the selection sets, 2026-11-22).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training.weights import average_weights


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    average_weights(args.paths, args.to)
    print(f"{args.to}: the mean of {len(args.paths)} files")


if __name__ == "__main__":
    main()
