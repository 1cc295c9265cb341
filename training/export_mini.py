"""Writes a checkpoint of rnx-mini: packed weights, config, tokenizer. It trains nothing.

    python -m training.export_mini --text DIR --image DIR --reader DIR --to llama_index_rnx/models/rnx-mini

--text holds `model.safetensors` and `tokenizer.json` (training/convert_weights.py); --image `image.safetensors` and
`image.json` (training/evaluate_images.py); --reader `reader.safetensors` and `reader.json`, each as
training left it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from training.weights import LIMIT, model_of, write_mini
from training.weights.export import _retrieval


def main() -> None:
    """Reads the parts, packs and writes them, and says what it wrote."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for part in ("text", "image", "reader", "to"):
        parser.add_argument(f"--{part}", type=Path, required=True)
    args = parser.parse_args()
    write_mini(
        model_of(args.text, args.image, args.reader), args.to, {"retrieval": _retrieval(args.image)}
    )
    path = args.to / "model.safetensors"
    size = path.stat().st_size
    print(
        f"{path}: {size / 2**20:.1f} MiB, digest {json.loads((args.to / 'config.json').read_text())['digest']}"
    )
    if size > LIMIT:
        raise SystemExit(f"{path} has {size / 2**20:.1f} MiB; at most {LIMIT >> 20} MiB may ship.")


if __name__ == "__main__":
    main()
