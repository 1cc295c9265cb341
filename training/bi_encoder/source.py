"""What the bi-encoder is trained on: cached feature maps and token states of images and their
captions.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.bi_encoder.pairs import Pair, pairs
from training.features import Part, cache_maps, cache_texts
from training.weights import fold


class Source:
    """Pictures with cached middle maps and texts with cached token states."""

    def __init__(self, items: list[Pair], maps: np.ndarray, texts: Path, rows: list[int]) -> None:
        """`rows`: the pictures of this split."""
        self.items, self.maps, self.rows = items, maps, rows
        loaded = np.load(texts)
        self.states, self.pooled, ends = loaded["states"], loaded["pooled"], loaded["ends"]
        self.starts = np.concatenate([[0], ends])
        counts = np.cumsum([0, *(len(item.texts) for item in items)])
        self.texts = [list(range(a, b)) for a, b in pairwise(counts)]

    def pictures(self, rows: list[int], view: np.ndarray) -> Tensor:
        """[B, 16, 16, 120] or [B, 16, 1280], whichever is cached; `view`: [B]."""
        return torch.from_numpy(
            np.stack([self.maps[r, v] for r, v in zip(rows, view, strict=True)])
        )

    def captions(self, texts: list[int], longest: int = 64) -> tuple[Tensor, Tensor, Tensor]:
        """States [Q, T, 384] (T at most `longest`), mask [Q, T], pooled [Q, 384]."""
        lengths = [min(longest, int(self.starts[t + 1] - self.starts[t])) for t in texts]
        states = torch.zeros(len(texts), max(lengths), self.states.shape[1])
        for i, (t, n) in enumerate(zip(texts, lengths, strict=True)):
            states[i, :n] = torch.from_numpy(self.states[self.starts[t] : self.starts[t] + n])
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return states, mask, torch.from_numpy(self.pooled[texts]).float()


VIEWS = (
    ("flickr_dev", 1, False),
    ("flickr_train", 6, True),
    ("openstax", 2, False),
)  # how many, and whether mirrored


def sources(
    data: Path, cache: Path, tower: Path, text: Path, kind: str = "middle"
) -> dict[str, Source]:
    """Flickr8k train and dev, OpenStax train and dev (every tenth module); makes the caches of a
    `Part` that are not there.
    """
    folded = Part(fold(torch.load(tower, map_location="cpu", weights_only=True)), kind)
    made: dict[str, Source] = {}
    for name, views, flip in VIEWS:
        items = pairs(data, name)
        file = cache / (f"{name}.npy" if kind == "middle" else f"{name}_{tower.stem}_{kind}.npy")
        maps = cache_maps(folded, [item.path for item in items], file, views, flip)
        cache_texts(text, [t for item in items for t in item.texts], cache / f"{name}_texts.npz")
        groups = sorted({item.group for item in items})
        held = set(groups[::10]) if name == "openstax" else set()
        made[name] = Source(
            items, maps, cache / f"{name}_texts.npz", _rows(items, held, inside=False)
        )
        if held:
            made[name + "_dev"] = copy.copy(made[name])
            made[name + "_dev"].rows = _rows(items, held, inside=True)
    return made


def _rows(items: list[Pair], groups: set[str], inside: bool) -> list[int]:
    return [i for i, item in enumerate(items) if (item.group in groups) == inside]
