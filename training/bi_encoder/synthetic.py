"""Generated inputs for stage 0: captions of coloured shapes, and caches of maps and token states in
which every word leaves its trace. No image is drawn and no encoder is run.

A caption's token states are vectors of its words. An image's maps hold a vector of each of its
attributes in some of the cells, and noise. The image tower has random weights.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training.bi_encoder.pairs import FILES, Pair, read_pairs
from training.bi_encoder.source import VIEWS, EncoderInputs, maps_name
from training.mini import ImageTower
from training.weights import unfold

SIZES = ("small", "large", "huge")
COLOURS = ("red", "green", "blue", "yellow", "black", "purple")
SHAPES = ("circle", "square", "triangle", "cross", "ring", "star")
SIDES = ("left", "right", "above", "below")

TEXT_WIDTH = 384
NOISE = 1.0  # standard deviation, as that of an attribute's vector

# Cells and channels of the maps that are cached.
MAP_SHAPES = {"middle": (16, 16, 120), "grid": (16, 1280)}

MODULES = 20  # of OpenStax; every tenth is held out

Kind = tuple[str, str, str, str]


def write_inputs(folder: Path, seed: int = 0, photos: int = 96, dev: int = 24) -> EncoderInputs:
    """Write a small development folder, a random image tower, and the caches of both.

    Args:
        folder: an empty folder.
        seed: of everything.
        photos: training images of Flickr8k.
        dev: development images of Flickr8k. OpenStax gets ten times as many, a tenth of them held
            out.
    """
    inputs = EncoderInputs(
        data=folder / "data",
        tower=folder / "random-lite2.pth",
        text=folder / "text",
        cache=folder / "cache",
    )
    kinds = list(product(SIZES, COLOURS, SHAPES, SIDES))
    random.Random(seed).shuffle(kinds)
    dev_kinds = kinds[:dev]
    train_kinds = kinds[dev : dev + photos]
    figures = kinds[-10 * dev :]

    _write_rows(inputs.data, "flickr_dev", [_flickr_row(kind) for kind in dev_kinds])
    _write_rows(inputs.data, "flickr_train", [_flickr_row(kind) for kind in train_kinds])
    _write_rows(inputs.data, "openstax", [_openstax_row(*row) for row in enumerate(figures)])

    torch.save(unfold(random_tower(seed)), inputs.tower)
    inputs.cache.mkdir(parents=True, exist_ok=True)
    for name, views, _ in VIEWS:
        items = read_pairs(inputs.data, name)
        _write_states(items, inputs.cache / f"{name}_texts.npz")
        for map_kind in MAP_SHAPES:
            file = inputs.cache / maps_name(name, inputs.tower, map_kind)
            np.save(file, _maps(items, views, map_kind, seed))
    return inputs


def random_tower(seed: int) -> ImageTower:
    """Return an untrained Lite2 whose maps neither vanish nor explode."""
    torch.manual_seed(seed)
    tower = ImageTower("lite2")
    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return tower


def _flickr_row(kind: Kind) -> dict[str, object]:
    size, colour, shape, side = kind
    captions = [
        f"a {size} {colour} {shape} {side}",
        f"{colour} {shape} drawn {size} and {side}",
        f"the {shape} is {colour} and {size} {side}",
    ]
    return {"image": f"{'-'.join(kind)}.png", "captions": captions}


def _openstax_row(index: int, kind: Kind) -> dict[str, object]:
    size, colour, shape, side = kind
    return {
        "image": f"{'-'.join(kind)}.png",
        "module": f"m{index % MODULES:02d}",
        "alt": f"figure of a {shape} {size} {colour} {side}",
        "caption": f"this {colour} {shape} is {side} and {size} (credit: nobody)",
        "title": f"{size} {shape} {colour} {side}",
    }


def _write_rows(data: Path, source: str, rows: Sequence[dict[str, object]]) -> None:
    path = data / FILES[source]
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _word_vector(word: str, width: int) -> np.ndarray:
    """Return a vector [width] that is the same for a word everywhere."""
    rng = np.random.default_rng([zlib.crc32(word.encode()), width])
    return rng.standard_normal(width).astype(np.float32)


def _write_states(items: Sequence[Pair], path: Path) -> None:
    texts = [text.split() for item in items for text in item.texts]
    states = [np.stack([_word_vector(word, TEXT_WIDTH) for word in words]) for words in texts]
    pooled = np.stack([state.mean(0) for state in states])
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    np.savez(
        path,
        states=np.concatenate(states).astype(np.float16),
        ends=np.cumsum([len(words) for words in texts]),
        pooled=pooled.astype(np.float16),
    )


def _maps(items: Sequence[Pair], views: int, map_kind: str, seed: int) -> np.ndarray:
    """Return maps [images, views, ...] fp16: in every cell the vector of one attribute of the
    image, and noise that differs between views.
    """
    shape = MAP_SHAPES[map_kind]
    width = shape[-1]
    cells = int(np.prod(shape[:-1]))
    rng = np.random.default_rng([seed, width])
    maps = np.empty((len(items), views, *shape), np.float16)
    for index, item in enumerate(items):
        vectors = np.stack([_word_vector(word, width) for word in item.name[:-4].split("-")])
        signal = np.tile(vectors, (cells // len(vectors), 1))  # [cells, width]
        noise = NOISE * rng.standard_normal((views, cells, width))
        maps[index] = (signal + noise).reshape(views, *shape)
    return maps
