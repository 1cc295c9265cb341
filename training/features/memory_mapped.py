"""Maps and token states of images and captions as memory-mapped arrays, computed once. It knows no
loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from llama_index_rnx.console import progress_bar
from llama_index_rnx.system import atomic_write
from training.features.views import views
from training.mini import ImageTower, TextEncoder, grid, pad_ids, pool

IMAGES_AT_ONCE = 16
TEXTS_AT_ONCE = 64

# A function from pixels [B, 3, 256, 256] to an array [B, ...].
Runner = Callable[[Tensor], np.ndarray]


class TowerOutput(torch.nn.Module):
    """The output of an image encoder that is cached: its `middle` maps, where an end is to be
    tuned, or the `grid` of its last map, for more heads.
    """

    def __init__(self, tower: ImageTower, kind: str) -> None:
        super().__init__()
        self.tower = tower
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 256, 256] -> [B, 16, 16, 120] or [B, 16, 1280]."""
        if self.kind == "middle":
            return self.tower.middle(x).permute(0, 2, 3, 1)
        return grid(self.tower(x))


@torch.inference_mode()
def cache_maps(
    output: TowerOutput, paths: Sequence[Path], out: Path, count: int = 1, flip: bool = False
) -> np.ndarray:
    """Return the maps of all views as a memory-mapped array [images, views, ...] fp16; computed
    once, then read.

    count: views per image. flip: whether every second view is mirrored.
    """
    if not out.exists():
        shape = (len(paths), count, *output(torch.zeros(1, 3, 256, 256)).shape[1:])
        with atomic_write(out) as partial:
            maps = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
            _fill(maps.reshape(-1, *shape[2:]), output, paths, count, flip, out.name)
            maps.flush()
            del maps
    loaded: np.ndarray = np.load(out, mmap_mode="r")
    return loaded


def cache_texts(folder: Path, texts: Sequence[str], out: Path, longest: int = 64) -> None:
    """Write what the frozen text encoder says of short texts, once: `states` [sum T, 384] fp16,
    `ends` [texts], `pooled` [texts, 384] fp16.

    folder: `model.safetensors` and `tokenizer.json` of gte-small. longest: tokens of a text; longer
    ones are cut.
    """
    if out.exists():
        return

    encoder = _load_encoder(folder)
    ids = [_token_ids(encoder, text, longest) for text in texts]
    states, pooled = _encode(encoder, ids, out.name)
    with atomic_write(out) as partial, partial.open("wb") as file:
        np.savez(
            file,
            states=torch.cat(states).numpy(),
            ends=np.cumsum([len(row) for row in ids]),
            pooled=pooled.half().numpy(),
        )


def _fill(
    flat: np.ndarray,
    output: TowerOutput,
    paths: Sequence[Path],
    count: int,
    flip: bool,
    label: str,
) -> None:
    """Fill an array [images * views, ...] with maps."""
    run = _compile(output, IMAGES_AT_ONCE, torch.get_num_threads())
    with progress_bar(label, len(flat), "views") as advance:
        for start, pixels in _batches(paths, count, flip, IMAGES_AT_ONCE):
            stop = min(start + IMAGES_AT_ONCE, len(flat))
            flat[start:stop] = run(pixels)[: stop - start]
            advance(stop - start)


def _compile(output: TowerOutput, batch: int, threads: int) -> Runner:
    """Compile a tower with OpenVINO in bf16 where it is installed (185 images/s to the middle;
    torch: 28).
    """
    try:
        openvino: Any = import_module("openvino")
    except ImportError:
        return lambda x: np.asarray(output(x))

    example = torch.zeros(batch, 3, 256, 256)
    model = openvino.convert_model(output, example_input=example, input=[list(example.shape)])
    hints = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", hints)

    def run(x: Tensor) -> np.ndarray:
        maps: np.ndarray = compiled(x.numpy())[0]
        return maps

    return run


def _batches(
    paths: Sequence[Path], count: int, flip: bool, batch: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of the first view, pixels [batch, 3, 256, 256]) over the views of all images;
    the last batch is filled up with its last view, because compiled shapes are fixed.
    """
    pending: list[Tensor] = []
    start = 0
    for index, path in enumerate(paths):
        with Image.open(path) as image:
            pending += views(image, count, seed=index, flip=flip)
        while len(pending) >= batch:
            yield start, torch.stack(pending[:batch])
            pending = pending[batch:]
            start += batch

    if pending:
        padding = [pending[-1]] * (batch - len(pending))
        yield start, torch.stack(pending + padding)


def _load_encoder(folder: Path) -> TextEncoder:
    encoder = TextEncoder(TextEncoder.tokenizer_from(folder)).eval()
    encoder.load_state_dict(load_file(folder / "model.safetensors"))
    return encoder.bfloat16()


def _token_ids(encoder: TextEncoder, text: str, longest: int) -> list[int]:
    ids = encoder.chunk_ids(text, 1)[0]
    return ids if len(ids) <= longest else [*ids[: longest - 1], encoder.sep]


@torch.inference_mode()
def _encode(
    encoder: TextEncoder, ids: Sequence[list[int]], label: str
) -> tuple[list[Tensor], Tensor]:
    """Return the states of every text, [T, 384] fp16, and the pooled vectors [texts, 384]."""
    # Texts of one length share a batch.
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    states: list[Tensor] = [torch.empty(0)] * len(ids)
    pooled = torch.empty(len(ids), encoder.config.width)

    with progress_bar(label, len(ids), "texts") as advance:
        for start in range(0, len(order), TEXTS_AT_ONCE):
            rows = order[start : start + TEXTS_AT_ONCE]
            padded, mask = pad_ids([ids[i] for i in rows])
            hidden = encoder(padded, mask).float()  # [64, T, 384]
            pooled[rows] = pool(hidden, mask)
            for i, state in zip(rows, hidden, strict=True):
                states[i] = state[: len(ids[i])].half()
            advance(len(rows))
    return states, pooled
