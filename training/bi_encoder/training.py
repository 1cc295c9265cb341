"""How the bi-encoder is trained: contrastive over images and captions."""

from __future__ import annotations

import copy
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.bi_encoder.model import (
    BiEncoder,
    BiEncoderSettings,
    all_late,
    captions_of,
    embed_images,
    late_matrix,
    owners,
    part_of,
    recalls,
)
from training.bi_encoder.source import Source
from training.losses import infonce


def loss_of(
    model: BiEncoder,
    source: Source,
    rows: list[int],
    rng: np.random.Generator,
    settings: BiEncoderSettings,
) -> Tensor:
    """One batch: InfoNCE on all captions (bi-encoder) and on one caption a picture with late
    interaction added.
    """
    chosen = [list(rng.permutation(source.texts[r])) for r in rows]
    photographs = source.maps.shape[1] > 2
    per_picture, longest = (settings.captions, 24) if photographs else (1, 48)
    others = [(i, t) for i, c in enumerate(chosen) for t in c[1:per_picture]]
    owner = torch.tensor([*range(len(rows)), *(i for i, _ in others)])  # [Q]
    states, mask, pooled = source.captions(
        [*(c[0] for c in chosen), *(t for _, t in others)], longest
    )
    if settings.word_dropout:
        keep = torch.from_numpy(rng.random(mask.shape) >= settings.word_dropout)
        mask = mask & (keep | (torch.arange(mask.shape[1]) == 0))
    images = model.images(source.pictures(rows, rng.integers(source.maps.shape[1], size=len(rows))))
    captions = model.captions(states, mask, pooled)
    scale, target = (
        model.temperature.exp().clamp(max=100),
        F.one_hot(owner, len(rows)).float(),
    )  # [Q, B]
    cosine, n = captions.vector @ images.vector.T, len(rows)  # [Q, B]
    joint = cosine[:n] + model.part.late * all_late(part_of(captions, 0, n), images.regions)
    return infonce(scale * cosine, target) + infonce(scale * joint, target[:n])


def train_bi_encoder(
    model: BiEncoder, data: dict[str, Source], settings: BiEncoderSettings, out: Path
) -> BiEncoder:
    """Runs all steps, resuming from `out/state.pt`; returns the moving average of the weights."""
    optimizer = _optimizer(model, settings)
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    average = copy.deepcopy(model).eval()
    start = _resume(model, average, optimizer, out)
    began = time.time()
    model.train()
    for step in range(start, settings.steps):
        for p in model.tuned():
            p.requires_grad_(step >= settings.frozen_steps and settings.tower_rate > 0)
        rate = min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate
        loss = _step(model, optimizer, data, settings, step)
        follow(average, model, min(settings.ema, step / (step + 10)))
        if (step + 1) % 20 == 0:
            left = (time.time() - began) / (step + 1 - start) * (settings.steps - step - 1)
            print(
                f"step {step + 1}/{settings.steps} loss {loss:.3f} {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
        if (step + 1) % 60 == 0 or step + 1 == settings.steps:
            report_bi_encoder(average, data, f"step {step + 1}")
            _keep(model, average, optimizer, step + 1, out)
    return average


def _step(
    model: BiEncoder,
    optimizer: torch.optim.Optimizer,
    data: dict[str, Source],
    settings: BiEncoderSettings,
    step: int,
) -> float:
    """Everything drawn is a function of the step, so that a resumed run goes on as if it had never
    stopped.
    """
    rng = np.random.default_rng([settings.seed, step])
    torch.manual_seed(settings.seed * 100_003 + step)
    total = 0.0
    for name in _turn(step, settings.openstax):
        loss = loss_of(
            model, data[name], _batch(data[name].rows, step, settings, name), rng, settings
        )
        loss.backward()
        total += float(loss.detach())
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 5.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _optimizer(model: BiEncoder, settings: BiEncoderSettings) -> torch.optim.Optimizer:
    heads = [*model.part.parameters(), model.temperature]
    groups = [
        {
            "params": [p for p in heads if p.ndim > 1],
            "lr": settings.rate,
            "weight_decay": settings.decay,
        },
        {"params": [p for p in heads if p.ndim <= 1], "lr": settings.rate, "weight_decay": 0.0},
        {"params": model.tuned(), "lr": settings.tower_rate, "weight_decay": settings.tower_decay},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def _resume(
    model: BiEncoder, average: BiEncoder, optimizer: torch.optim.Optimizer, out: Path
) -> int:
    if not (out / "state.pt").exists():
        return 0
    saved = torch.load(out / "state.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    average.load_state_dict(saved["average"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def _keep(
    model: BiEncoder, average: BiEncoder, optimizer: torch.optim.Optimizer, step: int, out: Path
) -> None:
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save({**state, "step": step}, out / "state.pt.part")
    os.replace(out / "state.pt.part", out / "state.pt")


def _turn(step: int, openstax: float) -> list[str]:
    """The sources of a step: Flickr always, OpenStax `openstax` times a step on average."""
    more = int((step + 1) * openstax) - int(step * openstax)
    return ["flickr_train", *["openstax"] * more]


def _batch(rows: list[int], step: int, settings: BiEncoderSettings, name: str) -> list[int]:
    """The rows of a step: epochs of shuffled rows, the incomplete batch at the end dropped; a
    function of the step.
    """
    step = step if name == "flickr_train" else int(step * settings.openstax)
    per_epoch = len(rows) // settings.batch
    order = np.random.default_rng([settings.seed, len(rows), step // per_epoch]).permutation(rows)
    at = step % per_epoch * settings.batch
    return [int(r) for r in order[at : at + settings.batch]]


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    for a, m in zip(average.parameters(), model.parameters(), strict=True):
        a.lerp_(m, 1 - keep)


@torch.inference_mode()
def report_bi_encoder(model: BiEncoder, data: dict[str, Source], label: str) -> None:
    """Bi-encoder and bi-encoder + late interaction (over all pictures) on both development splits."""
    model.eval()
    for name in ("flickr_dev", "openstax_dev"):
        texts, owner = owners(data[name])
        images, captions = (
            embed_images(model, data[name], data[name].rows),
            captions_of(model.part.caption, data[name], texts),
        )
        cosine = captions.vector @ images.vector.T
        joint = cosine + model.part.late * late_matrix(captions, images.regions)
        print(
            f"{label} {name} cosine {recalls(cosine, owner)} joint {recalls(joint, owner)}",
            flush=True,
        )
