"""More heads for the bi-encoder: pairs of vectors on frozen maps and pooled captions."""

from __future__ import annotations

import copy
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_index_rnx.rankers.mini import AuxiliaryHead, ImageConfig
from training.bi_encoder.model import chunks, recalls
from training.bi_encoder.source import Source
from training.bi_encoder.training import follow
from training.losses import infonce


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """One head; defaults are those of the weights in the package."""

    steps: int = (
        400  # 33 epochs of photographs: figures go on gaining after photographs have stopped
    )
    batch: int = 512
    figures: int = 256  # OpenStax pictures of a step that has some
    openstax: float = 0.34  # such steps, of all
    rate: float = 1e-3
    decay: float = 0.05
    dropout: float = 0.3
    ema: float = 0.98
    seed: int = 0


class Head(nn.Module):
    """A `AuxiliaryHead` and the temperature it is trained with."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.pair = AuxiliaryHead(ImageConfig(dropout=settings.dropout))
        self.temperature = nn.Parameter(torch.tensor(math.log(20.0)))

    def loss(self, cells: Tensor, pooled: Tensor, owner: Tensor) -> Tensor:
        """InfoNCE of all captions of a batch; cells [B, 16, 1280], pooled [Q, 384], owner [Q]."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            images, captions = self.pair.images(cells.bfloat16()), self.pair.captions(pooled)
        scores = self.temperature.exp().clamp(max=100) * (captions @ images.T)  # [Q, B]
        return infonce(scores, F.one_hot(owner, len(cells)).float())


def pooled_of(source: Source, rows: list[int]) -> tuple[Tensor, Tensor]:
    """The pooled captions [Q, 384] of some pictures and their owners [Q]."""
    texts = [text for row in rows for text in source.texts[row]]
    owner = torch.tensor([place for place, row in enumerate(rows) for _ in source.texts[row]])
    return torch.from_numpy(source.pooled[texts]).float(), owner


def rows_of(source: Source, size: int, step: int, seed: int) -> list[int]:
    """The pictures of a step: epochs of shuffled rows, the incomplete batch at the end dropped; a
    function of the step.
    """
    an_epoch = len(source.rows) // size
    order = np.random.default_rng([seed, len(source.rows), step // an_epoch]).permutation(
        source.rows
    )
    at = step % an_epoch * size
    return [int(row) for row in order[at : at + size]]


def batches(
    data: dict[str, Source], settings: HeadSettings, step: int
) -> list[tuple[Source, list[int]]]:
    """Photographs in every step, figures in a share of them."""
    found = [
        (data["flickr_train"], rows_of(data["flickr_train"], settings.batch, step, settings.seed))
    ]
    before, after = int(step * settings.openstax), int((step + 1) * settings.openstax)
    if after > before:
        found.append(
            (data["openstax"], rows_of(data["openstax"], settings.figures, before, settings.seed))
        )
    return found


def step_of(
    head: Head,
    optimizer: torch.optim.Optimizer,
    data: dict[str, Source],
    settings: HeadSettings,
    step: int,
) -> float:
    """One step; all that is drawn is a function of its number."""
    rng = np.random.default_rng([settings.seed, step])
    torch.manual_seed(settings.seed * 100_003 + step)
    total = 0.0
    for source, rows in batches(data, settings, step):
        cells = source.pictures(rows, rng.integers(source.maps.shape[1], size=len(rows)))
        loss = head.loss(cells, *pooled_of(source, rows))
        loss.backward()
        total += float(loss.detach())
    nn.utils.clip_grad_norm_(head.parameters(), 5.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def train_heads(head: Head, data: dict[str, Source], settings: HeadSettings, out: Path) -> Head:
    """All steps; the moving average of the weights."""
    matrices, rest = (
        [p for p in head.parameters() if p.ndim > 1],
        [p for p in head.parameters() if p.ndim <= 1],
    )
    groups = [
        {"params": matrices, "weight_decay": settings.decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
    average, start, began = copy.deepcopy(head), _resume(out, head, optimizer), time.time()
    if start:
        average.load_state_dict(torch.load(out / "state.pt", weights_only=True)["average"])
    for step in range(start, settings.steps):
        rate = (
            settings.rate
            * min(1.0, (step + 1) / 20)
            * 0.5
            * (1 + math.cos(math.pi * step / settings.steps))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        head.train()
        loss = step_of(head, optimizer, data, settings, step)
        follow(average, head, min(settings.ema, step / (step + 10)))
        if (step + 1) % 100 == 0 or step + 1 == settings.steps:
            left = (time.time() - began) / (step + 1 - start) * (settings.steps - step - 1)
            print(
                f"step {step + 1}/{settings.steps} loss {loss:.3f} {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            report_heads(average, data, f"step {step + 1}")
            state = {
                "head": head.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            torch.save({**state, "step": step + 1}, out / "state.pt.part")
            os.replace(out / "state.pt.part", out / "state.pt")
    return average


def _resume(out: Path, head: Head, optimizer: torch.optim.Optimizer) -> int:
    if not (out / "state.pt").exists():
        return 0
    saved = torch.load(out / "state.pt", weights_only=True)
    head.load_state_dict(saved["head"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


@torch.inference_mode()
def images_of(pair: AuxiliaryHead, source: Source, rows: list[int]) -> Tensor:
    """Vectors [B, D] of whole pictures."""
    pair.eval()
    return torch.cat(
        [pair.images(source.pictures(b, np.zeros(len(b), int)).float()) for b in chunks(rows, 128)]
    )


@torch.inference_mode()
def report_heads(head: Head, data: dict[str, Source], label: str) -> None:
    """The head alone on both development splits."""
    for name in ("flickr_dev", "openstax_dev"):
        images = images_of(head.pair, data[name], data[name].rows)
        pooled, owner = pooled_of(data[name], data[name].rows)
        print(
            f"{label} {name} cosine {recalls(head.pair.captions(pooled) @ images.T, owner)}",
            flush=True,
        )
