"""The modules of rnx-mini, and how they are read from a checkpoint. It scores nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from llama_index_rnx.errors import StorageError
from llama_index_rnx.rankers.mini import NAME, ImageConfig, ScorerConfig
from training.mini.image_encoder import ImageEncoder
from training.mini.image_heads import ImageScorer
from training.mini.listwise_scorer import ListwiseScorer
from training.mini.quantization import WithoutInitialWeights, dequantize
from training.mini.text_encoder import TextEncoder


class MiniModel(nn.Module):
    """All weights of rnx-mini.

    Attributes:
        text: the text encoder.
        eyes: the image encoder. The names of these four are keys of the checkpoint.
        image: the heads on feature maps and captions.
        reader: the listwise scorer.
    """

    def __init__(
        self, text: TextEncoder, eyes: ImageEncoder, image: ImageScorer, reader: ListwiseScorer
    ) -> None:
        super().__init__()
        self.text = text
        self.eyes = eyes
        self.image = image
        self.reader = reader

    @classmethod
    def untrained(cls, folder: Path, image: ImageConfig, reader: ScorerConfig) -> MiniModel:
        """Return a model of these shapes; `folder` holds the tokenizer."""
        return cls(
            TextEncoder(TextEncoder.tokenizer_from(folder)),
            ImageEncoder(image.others),
            ImageScorer(image),
            ListwiseScorer(reader),
        )


def read_mini(folder: Path) -> tuple[MiniModel, dict[str, Any]]:
    """Read the weights in a folder as fp32, and its config.

    Raises:
        StorageError: they are missing or damaged, or of another version.
    """
    config, packed = _read_files(folder)
    try:
        image_config = ImageConfig(**config["image"])
        scorer_config = ScorerConfig(**config["reader"])

        # To make up random weights takes longer than to read the true ones.
        with WithoutInitialWeights():
            model = MiniModel.untrained(folder, image_config, scorer_config)
        model.load_state_dict(dequantize(packed), assign=True)
    except (KeyError, TypeError, RuntimeError) as error:
        raise StorageError(
            f"the weights of {NAME} in {folder} do not fit this version ({error}); install the "
            "package again."
        ) from error
    model.eyes.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, config


def _read_files(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / "config.json").read_text())
        return config, load_file(folder / "model.safetensors")
    except Exception as error:
        raise StorageError(
            f"the weights of {NAME} in {folder} cannot be read ({error}); install the package "
            "again."
        ) from error
