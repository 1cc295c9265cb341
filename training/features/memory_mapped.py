"""Pictures for training: the folded tower, decoding, views, and feature maps cached once. Knows no
loss.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llama_index_rnx.rankers.mini import ImageTower, grid
from training.features.views import views


class TowerOutput(torch.nn.Module):
    """What is cached of a tower: its `middle` maps, where an end is to be tuned, or the `grid` of
    its last, for more heads.
    """

    def __init__(self, tower: ImageTower, kind: str) -> None:
        super().__init__()
        self.tower, self.kind = tower, kind

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 256, 256] -> [B, 16, 16, 120] or [B, 16, 1280]."""
        return (
            self.tower.middle(x).permute(0, 2, 3, 1)
            if self.kind == "middle"
            else grid(self.tower(x))
        )


def compiled(part: TowerOutput, batch: int, threads: int) -> Any:
    """A function [batch, 3, 256, 256] -> an array of `part`: OpenVINO in bf16 (185 images/s to the
    middle; torch: 28).
    """
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
def cache_maps(
    part: TowerOutput, paths: list[Path], out: Path, count: int = 1, flip: bool = False
) -> np.ndarray:
    """The maps of all views as a memory-mapped array [images, views, ...] fp16; made once, then
    read.
    """
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
                print(
                    f"{out.name} {stop}/{len(flat)} {rate:.0f}/s {(len(flat) - stop) / rate:.0f} s left",
                    file=sys.stderr,
                )
        maps.flush()
        del maps, flat
        unfinished.replace(out)
    made: np.ndarray = np.load(out, mmap_mode="r")
    return made


def cache_texts(folder: Path, texts: list[str], out: Path, longest: int = 64) -> None:
    """Frozen gte-small over short texts, once: `states` [sum T, 384] fp16, `ends` [texts], `pooled`
    [texts, 384].
    """
    from safetensors.torch import load_file

    from llama_index_rnx.rankers.mini import TextEncoder, pad_ids, pool

    if out.exists():
        return
    tower = TextEncoder(TextEncoder.tokenizer_from(folder)).eval()
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
                print(
                    f"{out.name} {start}/{len(order)} {time.time() - started:.0f} s",
                    file=sys.stderr,
                )
    ends = np.cumsum([len(p) for p in pieces])
    np.savez(out, states=torch.cat(states).numpy(), ends=ends, pooled=pooled.half().numpy())
