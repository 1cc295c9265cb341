"""The progressive cross-modal curriculum: its stages, carried out one after the other.

    python -m training.curriculum --data generated --work DIR     # every stage, on generated data
    python -m training.curriculum --data "$RNX_DATA" --work DIR --text GTE --tower LITE2.pth --to X
    python -m training.curriculum ... --without image-lists       # an ablation; `each`: all of them

A stage lies in the folder of the one before it (`retriever/text-lists/...`) and starts from what is
there, so an ablation shares what it can. A killed run goes on where it was, with the same result.
Each ended stage adds a row to `results.jsonl`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from llama_index_rnx.errors import RNXError
from training.stages import PICTURES, run_curriculum


def main() -> None:
    """Run the curriculum from the command line."""
    parser = _parser()
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        run_curriculum(options)
    except RNXError as error:
        parser.exit(2, f"{error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, help="`generated`, or the folder of the development data")
    add("--work", type=Path, required=True, help="stages, caches and results.jsonl")
    add("--text", type=Path, help="gte-small: model.safetensors and tokenizer.json")
    add("--tower", type=Path, help="EfficientNet-Lite2 as its package has it, a .pth")
    add("--cache", type=Path, help="token states and feature maps (default: WORK/cache)")
    add("--retriever", type=Path, help="an image part trained before, in place of stage 0")
    add("--teacher", type=Path, help="a sentence-transformers embedder that compares captions")
    add("--to", type=Path, help="write the checkpoint of the last sequence that was run here")
    add("--stages", nargs="+", help="only these, in the curriculum's order")
    add("--without", help="leave this stage out; `each`: all, then all without each in turn")
    add("--scale", type=float, default=1.0, help="of all steps: 0.02 rehearses everything")
    add(
        "--pictures",
        type=int,
        default=PICTURES,
        help="of Flickr8k and of OpenStax each that lists are drawn from",
    )
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
