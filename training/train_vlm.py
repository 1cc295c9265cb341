"""Teach a vision-language model to rank lists by its labels: LoRA on graded lists of texts,
pictures, or both.

    python -m training.train_vlm --base FOLDER_OR_HUB_ID --lists my.jsonl --dev dev.jsonl --work DIR --to ADAPTER
    accelerate launch -m training.train_vlm ...          # the same on several devices, each on its share of a step

Rows are those of `rnx rerank` with a "grade" (0 to 3) in every candidate; see `own_lists.py`. A
killed run goes on from `--work` with the same result. `load_ranker(FOLDER_OR_HUB_ID,
adapter=ADAPTER)` reads the adapter. Several `--lists` are drawn from equally often; a curriculum is
one call a stage, each with `--init`, the adapter of the one before.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.engine import LOSSES
from training.stages import run_lora


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the lists, trains, examines, saves."""
    parser = _parser()
    try:
        run_lora(parser.parse_args(arguments))
    except RNXError as error:
        parser.exit(2, f"{error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base",
        required=True,
        help="a Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint: a folder or a hub id",
    )
    parser.add_argument(
        "--lists",
        type=Path,
        nargs="+",
        required=True,
        help="JSONL rows of `rnx rerank`, with grades",
    )
    parser.add_argument(
        "--dev", type=Path, nargs="*", default=[], help="other lists, to choose the best weights by"
    )
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="the checkpoint that a killed run goes on from; memories",
    )
    parser.add_argument("--to", type=Path, required=True, help="the folder of the adapter")
    parser.add_argument(
        "--init", type=Path, help="an adapter to start from, that of the stage before"
    )
    parser.add_argument(
        "--name", default="lists", help="of this stage; the draw of its lists depends on it"
    )
    for name, default, what in _NUMBERS:
        parser.add_argument(
            f"--{name}", type=type(default), default=default, help=f"{what} (default: {default})"
        )
    parser.add_argument("--max-pixels", type=int, help="of a picture (default: 512 visual tokens)")
    parser.add_argument(
        "--loss", choices=LOSSES, default="listmle", help="listmle is Plackett-Luce, with ties"
    )
    parser.add_argument(
        "--prompt",
        type=Path,
        help="a JSON object with the fields of ListPrompt; default: the ranker's own",
    )
    parser.add_argument(
        "--device",
        help="cuda, mps, cpu (default: what is there; `accelerate launch` gives one to each)",
    )
    parser.add_argument(
        "--dtype", help="of the frozen weights (default: bfloat16 on cuda); the adapter is float32"
    )
    parser.add_argument(
        "--autocast", action="store_true", help="compute in bfloat16 where the weights are float32"
    )
    parser.add_argument(
        "--keep-activations",
        action="store_true",
        help="no gradient checkpointing: faster, much memory",
    )
    return parser


_NUMBERS: tuple[tuple[str, int | float, str], ...] = (
    ("steps", 400, "of the optimiser"),
    ("lists-a-step", 8, "whose gradients are added up, over all devices"),
    ("window", 20, "candidates that are read at once, here and later"),
    ("max-text-tokens", 128, "of a candidate or a query"),
    ("rank", 16, "of the adapter; its alpha is twice that"),
    ("dropout", 0.05, "of what goes into the adapter"),
    ("rate", 1e-4, "the peak of the learning rate"),
    ("average", 0.98, "how much of the moving average stays at a step"),
    ("evaluate-every", 50, "steps"),
    ("seed", 0, "of everything that is drawn"),
)


if __name__ == "__main__":
    main()
