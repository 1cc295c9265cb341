"""Writes a checkpoint of rnx-mini: quantized weights, config, tokenizer. It trains nothing.

    python -m training.export_mini --text DIR --image DIR --reader DIR
        --to llama_index_rnx/models/rnx-mini

--text holds `model.safetensors` and `tokenizer.json` (training/convert_weights.py); --image
`image.safetensors` and `image.json` (training/evaluate_images.py); --reader `reader.safetensors`
and `reader.json`, each as training left it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.weights import export_mini


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("text", "image", "reader", "to"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    try:
        print(export_mini(args.text, args.image, args.reader, args.to))
    except RNXError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
