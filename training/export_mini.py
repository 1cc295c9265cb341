"""Puts the trained parts together as the checkpoint of rnx-mini that ships with the package.

    python -m training.export_mini --text DIR --image DIR --reader DIR --to llama_index_rnx/models/rnx-mini

--text holds `model.safetensors` and `tokenizer.json` (training/convert_weights.py); --image `image.safetensors` and
`image.json` (training/train_retriever.py); --reader `reader.safetensors` and `reader.json` (training/train_ranker.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from llama_index_rnx.rankers.mini import MiniModel
from llama_index_rnx.rankers.mini.image import ImageConfig
from llama_index_rnx.rankers.mini.reader import ReaderConfig
from llama_index_rnx.rankers.mini.weights import pack

INT8 = ("text.",)  # the convolutions and the small parts keep fp16: int8 saves 10 MB there and was not measured
LIMIT = 64 * 2**20


def main() -> None:
    """Reads the parts, packs and writes them, and says what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("text", "image", "reader", "to"):
        parser.add_argument(f"--{part}", type=Path, required=True)
    args = parser.parse_args()
    image = ImageConfig(**_known(ImageConfig, args.image / "image.json"))
    reader = ReaderConfig(**_known(ReaderConfig, args.reader / "reader.json"))
    args.to.mkdir(parents=True, exist_ok=True)
    shutil.copy(args.text / "tokenizer.json", args.to / "tokenizer.json")
    model = MiniModel.untrained(args.to, image, reader)
    model.text.load_state_dict(load_file(args.text / "model.safetensors"))
    seen = load_file(args.image / "image.safetensors")
    model.tower.load_state_dict(_below(seen, "tower."))
    model.image.load_state_dict(_below(seen, "part."))
    model.reader.load_state_dict(load_file(args.reader / "reader.safetensors"))
    path = args.to / "model.safetensors"
    save_file(pack(model.state_dict(), INT8), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    retrieval = json.loads((args.image / "image.json").read_text())["retrieval"]
    config = {"digest": digest, "retrieval": retrieval, "image": asdict(image), "reader": asdict(reader)}
    (args.to / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    size = path.stat().st_size
    print(f"{path}: {size / 2**20:.1f} MiB, digest {digest}")
    if size > LIMIT:
        raise SystemExit(f"{path} has {size / 2**20:.1f} MiB; at most {LIMIT >> 20} MiB may ship.")


def _known(config: Any, path: Path) -> dict[str, Any]:
    """The fields of the config that a training run wrote down (it writes more than that)."""
    found = json.loads(path.read_text())
    found = found.get("config", found)
    return {field.name: found[field.name] for field in fields(config) if field.name in found}


def _below(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


if __name__ == "__main__":
    main()
