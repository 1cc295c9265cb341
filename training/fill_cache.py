"""Encode every text of the training and development lists with the frozen text encoder:
`idf.safetensors` and blocks.

    python -m training.fill_cache --tower DIR --cache DIR

Resumes; about 20 minutes on one core with bf16 instructions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from llama_index_rnx.errors import RNXError
from training.stages import fill_text_cache

TOWER_HELP = "model.safetensors and tokenizer.json of gte-small"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tower", type=Path, required=True, help=TOWER_HELP)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        print(f"{args.cache}: {fill_text_cache(args.tower, args.cache)} texts")
    except RNXError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
