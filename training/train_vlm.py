"""Teach a vision-language model to rank lists by its labels: LoRA on graded lists of texts,
images, or both.

    python -m training.train_vlm --base FOLDER_OR_HUB_ID --lists my.jsonl --work DIR --to ADAPTER
    accelerate launch -m training.train_vlm ...

The second form shares the lists of a step among several devices.

Rows are those of `rnx rerank` with a "grade" (0 to 3) in every candidate; `data/user_lists.py` says
more. A killed run goes on from `--work` with the same result. `load_ranker(FOLDER_OR_HUB_ID,
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
    """Train and save an adapter from the command line."""
    parser = _parser()
    try:
        run_lora(parser.parse_args(arguments))
    except RNXError as error:
        parser.exit(2, f"{error}\n")


# Options that are numbers: name, default, meaning.
_NUMBERS: tuple[tuple[str, int | float, str], ...] = (
    ("steps", 400, "of the optimizer"),
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--base", required=True, help="a Qwen2-VL, Qwen2.5-VL or Qwen3-VL folder or hub id")
    add("--lists", type=Path, nargs="+", required=True, help="JSONL rows of `rnx rerank`")
    add("--dev", type=Path, nargs="*", default=[], help="other lists, to select weights by")
    add("--work", type=Path, required=True, help="the checkpoint to resume from; memories")
    add("--to", type=Path, required=True, help="the folder of the adapter")
    add("--init", type=Path, help="an adapter to start from, that of the stage before")
    add("--name", default="lists", help="of this stage; the draw of its lists depends on it")
    for name, default, meaning in _NUMBERS:
        text = f"{meaning} (default: {default})"
        add(f"--{name}", type=type(default), default=default, help=text)
    add("--max-pixels", type=int, help="of an image (default: 512 visual tokens)")
    add("--loss", choices=LOSSES, default="listmle", help="listmle is Plackett-Luce, with ties")
    add("--prompt", type=Path, help="a JSON object with the fields of ListPrompt")
    add("--device", help="cuda, mps, cpu (`accelerate launch` gives one to each process)")
    add("--dtype", help="of the frozen weights (default: bfloat16 on cuda); the adapter is float32")
    add("--autocast", action="store_true", help="compute in bfloat16 where weights are float32")
    add("--keep-activations", action="store_true", help="faster, but takes much memory")
    return parser


if __name__ == "__main__":
    main()
