"""Pixels in, feature maps out: the image encoder of rnx-mini. It knows no text, no query and no
head.

Axes, named once: B images, C channels, H and W cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.mini.graph_builder import GraphBuilder

# Kernel, stride, expansion, channels, repeats.
EncoderStage = tuple[int, int, int, int, int]

# EfficientNet-Lite scales width and depth of all but the stem, the first stage and the head: Lite1
# (1.0, 1.1), Lite2 (1.1, 1.2).
ENCODER_STAGES: dict[str, tuple[EncoderStage, ...]] = {
    name: (
        (3, 1, 1, 16, 1),
        (3, 2, 6, 24, 3),
        (5, 2, 6, second, 3),
        (3, 2, 6, third, 4),
        (5, 1, 6, fourth, 4),
        (5, 2, 6, fifth, 5),
        (3, 1, 6, last, 1),
    )
    for name, (second, third, fourth, fifth, last) in {
        "lite1": (40, 80, 112, 192, 320),
        "lite2": (48, 88, 120, 208, 352),
    }.items()
}

# Channels of the last map, whatever the tower.
CHANNELS = 1280

# Blocks before the last stride: the map after them has 16 x 16 cells.
_MIDDLE = 15


class _Conv(nn.Module):
    """A convolution with its BatchNorm folded in and TensorFlow's SAME padding (more on the right,
    for stride 2).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        # The padding for sides that the stride divides.
        extra = kernel - stride
        self.pad = (extra // 2, extra - extra // 2) * 2 if stride > 1 else None
        padding = 0 if stride > 1 else kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x if self.pad is None else F.pad(x, self.pad))
        return out

    def add_to(self, graph: GraphBuilder, name: str, x: str) -> str:
        """The same in a graph; `name` is that of this module in the checkpoint."""
        before, after = self.conv.padding[0], self.conv.padding[0]
        if self.pad is not None:
            before, after = self.pad[:2]
        weight, bias = graph.weight(f"{name}.conv.weight"), graph.weight(f"{name}.conv.bias")
        return graph.add(
            "Conv",
            x,
            weight,
            bias,
            strides=list(self.conv.stride),
            pads=[before, before, after, after],
            group=self.conv.groups,
        )


class _Block(nn.Module):
    """MBConv without squeeze and excitation: expand, filter each channel, project; added to its
    input where it fits.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = _Conv(inputs, width, 1) if expansion > 1 else None
        self.depthwise = _Conv(width, width, kernel, stride, groups=width)
        self.project = _Conv(width, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else F.relu6(self.expand(x))
        out: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return x + out if self.residual else out

    def add_to(self, graph: GraphBuilder, name: str, x: str) -> str:
        """The same in a graph; `name` is that of this module in the checkpoint."""
        wide = x
        if self.expand is not None:
            wide = graph.relu6(self.expand.add_to(graph, f"{name}.expand", x))
        filtered = graph.relu6(self.depthwise.add_to(graph, f"{name}.depthwise", wide))
        out = self.project.add_to(graph, f"{name}.project", filtered)
        return graph.add("Add", x, out) if self.residual else out


def _blocks(stages: tuple[EncoderStage, ...]) -> list[_Block]:
    blocks: list[_Block] = []
    inputs = 32
    for kernel, stride, expansion, outputs, repeats in stages:
        for i in range(repeats):
            blocks.append(_Block(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
            inputs = outputs
    return blocks


class TowerEnd(nn.Module):
    """The blocks of a tower from its last stride on, and its head: [B, C, 16, 16] -> [B, 1280, 8,
    8].
    """

    def __init__(self, name: str = "lite2") -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_blocks(ENCODER_STAGES[name])[_MIDDLE:])
        self.head = _Conv(ENCODER_STAGES[name][-1][3], CHANNELS, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 16, 16] -> [B, 1280, 8, 8]."""
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x))

    def add_to(self, graph: GraphBuilder, name: str, x: str) -> str:
        """The same in a graph; `name` is that of this module in the checkpoint."""
        for index, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            x = block.add_to(graph, f"{name}.blocks.{index}", x)
        return graph.relu6(self.head.add_to(graph, f"{name}.head", x))


class ImageTower(nn.Module):
    """EfficientNet-Lite (Tan and Le, arXiv 1905.11946) up to its last feature map, BatchNorm
    folded.

    `forward` is `end(middle(x))`: [B, 3, 256, 256] -> [B, C, 16, 16] -> [B, 1280, 8, 8]; sides
    divide by 32. C is 120 of Lite2. The cut is where training starts: middle maps are cached, an
    end is tuned.
    """

    def __init__(self, name: str = "lite2") -> None:
        super().__init__()
        self.stem = _Conv(3, 32, 3, 2)
        self.blocks = nn.ModuleList(_blocks(ENCODER_STAGES[name])[:_MIDDLE])
        self.end = TowerEnd(name)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def middle(self, x: Tensor) -> Tensor:
        """[B, 3, 256, 256] -> [B, C, 16, 16]."""
        x = F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)))
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 256, 256] -> [B, 1280, 8, 8]."""
        last: Tensor = self.end(self.middle(x))
        return last

    def add_middle_to(self, graph: GraphBuilder, name: str, x: str) -> str:
        """`middle` in a graph; `name` is that of this module in the checkpoint."""
        x = graph.relu6(self.stem.add_to(graph, f"{name}.stem", x))
        for index, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            x = block.add_to(graph, f"{name}.blocks.{index}", x)
        return x

    def add_to(self, graph: GraphBuilder, name: str, x: str) -> str:
        """The same in a graph; `name` is that of this module in the checkpoint."""
        middle = self.add_middle_to(graph, name, x)
        return self.end.add_to(graph, f"{name}.end", middle)


class ImageEncoder(nn.Module):
    """Every map that the heads read: Lite2's, whose end is tuned to captions, then one for each of
    the `others`.

    Another "lite2" is the same trunk (run once) with an end of its own, as ImageNet left it;
    "lite1" is a tower apart.
    """

    def __init__(self, others: Sequence[str] = ()) -> None:
        super().__init__()
        self.tower = ImageTower()
        self.others = nn.ModuleList(
            TowerEnd() if name == "lite2" else ImageTower(name) for name in others
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 256, 256] -> [B, M, 1280, 8, 8], M maps."""
        middle = self.tower.middle(x)
        others = [tower(middle if isinstance(tower, TowerEnd) else x) for tower in self.others]
        return torch.stack([self.tower.end(middle), *others], 1)

    def add_maps(self, graph: GraphBuilder, name: str, x: str) -> list[str]:
        """The same in a graph, map by map; `name` is that of this module in the checkpoint."""
        middle = self.tower.add_middle_to(graph, f"{name}.tower", x)
        maps = [self.tower.end.add_to(graph, f"{name}.tower.end", middle)]
        for index, tower in enumerate(self.others):
            assert isinstance(tower, TowerEnd | ImageTower)
            entry = middle if isinstance(tower, TowerEnd) else x
            maps.append(tower.add_to(graph, f"{name}.others.{index}", entry))
        return maps
