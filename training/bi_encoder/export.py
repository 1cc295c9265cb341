"""Writes the results of stage 0: image weights, their config, and vectors of all images. It trains
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from training.bi_encoder.calibration import retrieval_calibration
from training.bi_encoder.chain import Chain, ImageSplit

# The splits whose vectors the joint stage reads.
CACHED_SPLITS = ("flickr_train", "flickr_dev", "openstax")


def export(
    chain: Chain,
    data: Mapping[str, ImageSplit],
    folder: Path,
    rows: Mapping[str, object],
    losses: Sequence[float] = (),
) -> None:
    """Write `image.safetensors`, `image.json` and `cache/*.npz` into a folder.

    rows: the calibration table. losses: of the training, one a step.
    """
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    for name in CACHED_SPLITS:
        _write_vectors(chain, data[name], folder / "cache" / f"{name}.npz")

    config = {
        "config": asdict(chain.scorer.config),
        "retrieval": retrieval_calibration(chain, data["flickr_dev"]),
        "results": rows,
        "losses": list(losses),
    }
    (folder / "image.json").write_text(json.dumps(config, indent=1))

    # Last, because its presence says that all is there.
    weights = {f"eyes.{name}": x for name, x in chain.eyes().state_dict().items()}
    weights.update({f"part.{name}": x for name, x in chain.scorer.state_dict().items()})
    tensors = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "image.safetensors")


def _write_vectors(chain: Chain, split: ImageSplit, path: Path) -> None:
    images = chain.images(split, split.all_rows)
    # Of OpenStax: the images of the development modules.
    is_dev = np.isin(split.all_rows, split.first.rows, invert=True)
    np.savez(
        path,
        name=np.array([item.name for item in split.first.items]),
        vector=images.vector.half().numpy(),
        regions=images.regions.half().numpy(),
        hub=chain.scorer.hubness(images.vector).numpy(),
        dev=is_dev,
    )
