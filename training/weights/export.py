"""Writes a checkpoint of rnx-mini: quantized weights, config, tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from llama_index_rnx.rankers.mini import ImageConfig, MiniModel, ScorerConfig, quantize

INT8 = (
    "text.",
    "eyes.",
    "image.more.",
)  # the rest keeps fp16; int8 rows cost the image vectors nothing measurable (LOG)


LIMIT = 64 * 2**20


def write_mini(model: MiniModel, folder: Path, about: Mapping[str, Any]) -> None:
    """The folder that `load_ranker` reads. about: `retrieval` (scale and bias of the index
    vectors), `training` and more.

    The digest names all weights, since every memory and vector that they make must be told from
    another's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.text.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    path, part = folder / "model.safetensors", folder / "model.part"
    save_file(quantize(model.state_dict(), INT8), part)
    digest = hashlib.sha256(part.read_bytes()).hexdigest()[:12]
    shapes = {
        "image": asdict(replace(model.image.config, dropout=0.0)),
        "reader": asdict(model.reader.config),
    }
    (folder / "config.json").write_text(
        json.dumps({"digest": digest, **about, **shapes}, indent=1) + "\n"
    )
    part.replace(path)


def model_of(text: Path, image: Path, reader: Path) -> MiniModel:
    """The trained parts, put together."""
    shapes = (
        ImageConfig(**_known(ImageConfig, image / "image.json")),
        ScorerConfig(**_known(ScorerConfig, reader / "reader.json")),
    )
    model = MiniModel.untrained(text, *shapes)
    model.text.load_state_dict(load_file(text / "model.safetensors"))
    seen = load_file(image / "image.safetensors")
    model.eyes.load_state_dict(_below(seen, "eyes."))
    model.image.load_state_dict(_below(seen, "part."))
    model.reader.load_state_dict(load_file(reader / "reader.safetensors"))
    return model


def _retrieval(image: Path) -> Any:
    return json.loads((image / "image.json").read_text())["retrieval"]


def _known(config: Any, path: Path) -> dict[str, Any]:
    """The fields of the config that a training run wrote down (it writes more than that)."""
    found = json.loads(path.read_text())
    found = found.get("config", found)
    return {field.name: found[field.name] for field in fields(config) if field.name in found}


def _below(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
