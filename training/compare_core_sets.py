"""Does the core set teach more than a random share of the same size? The same short training from
nothing on each.

    RNX_DATA=... python -m training.compare_core_sets --text GTE --cache CACHE/tokens --work DIR
    [--share 0.4] [--seeds 3]

Every source is cut to its share; the scorers differ in nothing else. Teachers that cost nothing are
BM25 over the list and the frozen text encoder, beside the judgments. Each trained scorer adds a row
of its values by query to `results.jsonl`; a killed run goes on there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from llama_index_rnx.errors import RNXError
from training.stages import ARMS, AblationSettings, run_core_set_ablation


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare core sets from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    for name in ("text", "cache", "work"):
        add(f"--{name}", type=Path, required=True)
    add("--share", type=float, default=0.4)
    add("--diversity", type=float, default=0.5)
    add("--steps", type=int, default=150)
    add("--seeds", type=int, default=3)
    add("--teachers", nargs="+", choices=("bm25", "tower"), default=["bm25"])
    add("--arms", nargs="+", choices=ARMS, default=["kept", "random"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        run_core_set_ablation(AblationSettings(**vars(options)))
    except RNXError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
