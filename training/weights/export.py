"""Puts the trained parts of rnx-mini together and writes its checkpoint: quantized weights, graphs,
config, tokenizer. It trains nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_index_rnx.errors import StorageError
from llama_index_rnx.rankers.mini import ImageConfig, ScorerConfig
from llama_index_rnx.system import atomic_write
from training.mini import MiniModel, quantize, write_graphs

# Prefixes of what ships as int8; the rest keeps fp16. Int8 rows cost the image vectors nothing
# measurable (LOG).
INT8 = ("text.", "eyes.", "image.more.")

# The largest checkpoint that may ship, in bytes.
LIMIT = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A checkpoint that was written. size: of the weights in bytes; digest: names all weights."""

    path: Path
    size: int
    digest: str

    def __str__(self) -> str:
        return f"{self.path}: {self.size / 2**20:.1f} MiB, digest {self.digest}"


def export_mini(text: Path, image: Path, reader: Path, to: Path) -> Exported:
    """Write the checkpoint of the trained parts to `to`.

    Args:
        text: holds `model.safetensors` and `tokenizer.json`.
        image: holds `image.safetensors` and `image.json`.
        reader: holds `reader.safetensors` and `reader.json`, the listwise scorer.
        to: the folder that `load_ranker` reads.

    Raises:
        StorageError: the weights are larger than what may ship; they are written nevertheless.
    """
    retrieval = json.loads((image / "image.json").read_text())["retrieval"]
    write_mini(model_of(text, image, reader), to, {"retrieval": retrieval})

    path = to / "model.safetensors"
    size = path.stat().st_size
    if size > LIMIT:
        limit = LIMIT >> 20
        raise StorageError(f"{path} has {size / 2**20:.1f} MiB; at most {limit} MiB may ship.")
    digest = json.loads((to / "config.json").read_text())["digest"]
    return Exported(path=path, size=size, digest=digest)


def write_mini(model: MiniModel, folder: Path, about: Mapping[str, Any]) -> None:
    """Write the folder that `load_ranker` reads.

    about: `retrieval` (scale and bias of the index vectors), `training` and more. Where it holds no
    `digest`, one is computed from the weights: it tells the memories and vectors of one checkpoint
    from another's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.text.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_graphs(model, folder)
    with atomic_write(folder / "model.safetensors") as partial:
        save_file(quantize(model.state_dict(), INT8), partial)
        digest = hashlib.sha256(partial.read_bytes()).hexdigest()[:12]
        config = {
            "digest": digest,
            **about,
            "image": asdict(replace(model.image.config, dropout=0.0)),
            "reader": asdict(model.reader.config),
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def model_of(text: Path, image: Path, reader: Path) -> MiniModel:
    """Return the model of the trained parts (see `export_mini`)."""
    image_config = ImageConfig(**_config_fields(ImageConfig, image / "image.json"))
    scorer_config = ScorerConfig(**_config_fields(ScorerConfig, reader / "reader.json"))
    model = MiniModel.untrained(text, image_config, scorer_config)

    model.text.load_state_dict(load_file(text / "model.safetensors"))
    image_weights = load_file(image / "image.safetensors")
    model.eyes.load_state_dict(_below(image_weights, "eyes."))
    model.image.load_state_dict(_below(image_weights, "part."))
    model.reader.load_state_dict(load_file(reader / "reader.safetensors"))
    return model


def _config_fields(config: Any, path: Path) -> dict[str, Any]:
    """Return the fields of a config class that a training run wrote down among others."""
    written = json.loads(path.read_text())
    written = written.get("config", written)
    return {field.name: written[field.name] for field in fields(config) if field.name in written}


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
