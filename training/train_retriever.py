"""Stage 0: the image-caption bi-encoder of rnx-mini, with late interaction. Feature maps and token states are cached.

    RNX_DATA=... python -m training.train_retriever --tower LITE2.pth --text GTE_FOLDER --cache CACHE --out OUT

Resumes from OUT/state.pt; the pointwise convolutions of the image tower's last blocks are tuned, its depthwise filters and
the text tower are not (a step costs a third so, and 6,000 pictures have nothing to teach filters).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from llama_index_rnx.rankers.mini import CaptionVectors, ImageConfig, ImagePart, ImageTower, ImageVectors
from training.features import Pair, Part, cache_maps, cache_texts, fold, pairs
from training.losses import infonce

CaptionsOf = Callable[[Tensor, Tensor, Tensor], CaptionVectors]  # states, mask, pooled: `CaptionHead`, `ImagePart.captions`


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run; defaults are those of the first run behind the weights in the package."""

    steps: int = 260
    batch: int = 256
    frozen_steps: int = 40  # the projector first finds its place, then the tower moves
    rate: float = 1e-3
    tower_rate: float = 1.5e-4
    decay: float = 0.05
    tower_decay: float = 0.01
    dropout: float = 0.3
    word_dropout: float = 0.1
    captions: int = 3  # of a Flickr picture a step
    openstax: float = 0.33  # OpenStax batches a Flickr batch
    ema: float = 0.97
    seed: int = 0


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
        return torch.from_numpy(np.stack([self.maps[r, v] for r, v in zip(rows, view, strict=True)]))

    def captions(self, texts: list[int], longest: int = 64) -> tuple[Tensor, Tensor, Tensor]:
        """States [Q, T, 384] (T at most `longest`), mask [Q, T], pooled [Q, 384]."""
        lengths = [min(longest, int(self.starts[t + 1] - self.starts[t])) for t in texts]
        states = torch.zeros(len(texts), max(lengths), self.states.shape[1])
        for i, (t, n) in enumerate(zip(texts, lengths, strict=True)):
            states[i, :n] = torch.from_numpy(self.states[self.starts[t] : self.starts[t] + n])
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return states, mask, torch.from_numpy(self.pooled[texts]).float()


VIEWS = (("flickr_dev", 1, False), ("flickr_train", 6, True), ("openstax", 2, False))  # how many, and whether mirrored


def sources(data: Path, cache: Path, tower: Path, text: Path, kind: str = "middle") -> dict[str, Source]:
    """Flickr8k train and dev, OpenStax train and dev (every tenth module); makes the caches of a `Part` that are not there."""
    folded = Part(fold(torch.load(tower, map_location="cpu", weights_only=True)), kind)
    made: dict[str, Source] = {}
    for name, views, flip in VIEWS:
        items = pairs(data, name)
        file = cache / (f"{name}.npy" if kind == "middle" else f"{name}_{tower.stem}_{kind}.npy")
        maps = cache_maps(folded, [item.path for item in items], file, views, flip)
        cache_texts(text, [t for item in items for t in item.texts], cache / f"{name}_texts.npz")
        groups = sorted({item.group for item in items})
        held = set(groups[::10]) if name == "openstax" else set()
        made[name] = Source(items, maps, cache / f"{name}_texts.npz", _rows(items, held, inside=False))
        if held:
            made[name + "_dev"] = copy.copy(made[name])
            made[name + "_dev"].rows = _rows(items, held, inside=True)
    return made


def _rows(items: list[Pair], groups: set[str], inside: bool) -> list[int]:
    return [i for i, item in enumerate(items) if (item.group in groups) == inside]


class Model(nn.Module):
    """The tunable end of the image tower and the image part."""

    def __init__(self, tower: ImageTower, settings: Settings) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False)
        self.part = ImagePart(ImageConfig(dropout=settings.dropout))
        self.temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def tuned(self) -> list[nn.Parameter]:
        """The tower's pointwise convolutions after its last stride."""
        first, *rest = self.tower.end.blocks
        parts = [first.project, self.tower.end.head, *(p for block in rest for p in (block.expand, block.project))]
        return [p for part in parts for p in part.parameters()]

    def images(self, middle: Tensor) -> ImageVectors:
        """[B, 16, 16, 120] -> vectors and regions."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vectors: ImageVectors = self.part.projector(self.tower.end(middle.permute(0, 3, 1, 2).float()))
        return vectors

    def captions(self, states: Tensor, mask: Tensor, pooled: Tensor) -> CaptionVectors:
        """As `CaptionHead`."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vectors: CaptionVectors = self.part.caption(states, mask, pooled)
        return vectors


def all_late(captions: CaptionVectors, regions: Tensor) -> Tensor:
    """Late interaction of every caption with every picture: -> [Q, B]."""
    words, (count, cells, width) = captions.words, regions.shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = words.flatten(0, 1) @ regions.reshape(-1, width).T  # [Q * T, B * R]
    best = near.view(len(near), count, cells).amax(-1).view(*words.shape[:2], count)  # [Q, T, B]
    return torch.einsum("qtb,qt->qb", best.float(), captions.weights)


def late_matrix(captions: CaptionVectors, regions: Tensor) -> Tensor:
    """As `all_late`, in parts that fit the memory."""
    parts = [all_late(part_of(captions, i, i + 200), regions) for i in range(0, len(captions.vector), 200)]
    return torch.cat(parts)


def loss_of(model: Model, source: Source, rows: list[int], rng: np.random.Generator, settings: Settings) -> Tensor:
    """One batch: InfoNCE on all captions (bi-encoder) and on one caption a picture with late interaction added."""
    chosen = [list(rng.permutation(source.texts[r])) for r in rows]
    photographs = source.maps.shape[1] > 2
    per_picture, longest = (settings.captions, 24) if photographs else (1, 48)
    others = [(i, t) for i, c in enumerate(chosen) for t in c[1:per_picture]]
    owner = torch.tensor([*range(len(rows)), *(i for i, _ in others)])  # [Q]
    states, mask, pooled = source.captions([*(c[0] for c in chosen), *(t for _, t in others)], longest)
    if settings.word_dropout:
        keep = torch.from_numpy(rng.random(mask.shape) >= settings.word_dropout)
        mask = mask & (keep | (torch.arange(mask.shape[1]) == 0))
    images = model.images(source.pictures(rows, rng.integers(source.maps.shape[1], size=len(rows))))
    captions = model.captions(states, mask, pooled)
    scale, target = model.temperature.exp().clamp(max=100), F.one_hot(owner, len(rows)).float()  # [Q, B]
    cosine, n = captions.vector @ images.vector.T, len(rows)  # [Q, B]
    joint = cosine[:n] + model.part.late * all_late(part_of(captions, 0, n), images.regions)
    return infonce(scale * cosine, target) + infonce(scale * joint, target[:n])


@torch.inference_mode()
def embed_images(model: Model, source: Source, rows: list[int]) -> ImageVectors:
    """The whole pictures (first view) of `rows`."""
    parts = [model.images(source.pictures(b, np.zeros(len(b), int))) for b in chunks(rows, 128)]
    return ImageVectors(vector=torch.cat([p.vector for p in parts]), regions=torch.cat([p.regions for p in parts]))


def owners(source: Source) -> tuple[list[int], Tensor]:
    """All texts of a split, and the owner [Q] of each: its picture's place among the split's rows."""
    texts = [t for r in source.rows for t in source.texts[r]]
    return texts, torch.tensor([i for i, r in enumerate(source.rows) for _ in source.texts[r]])


@torch.inference_mode()
def captions_of(head: CaptionsOf, source: Source, texts: list[int]) -> CaptionVectors:
    """Any texts of a source, in parts that fit the memory."""
    longest = int(max(source.starts[t + 1] - source.starts[t] for t in texts))
    found = [padded(head(*source.captions(b)), longest) for b in chunks(texts, 512)]
    return CaptionVectors(
        vector=torch.cat([c.vector for c in found]),
        words=torch.cat([c.words for c in found]),
        weights=torch.cat([c.weights for c in found]),
    )


def padded(captions: CaptionVectors, longest: int) -> CaptionVectors:
    """With zeros behind, up to `longest` words."""
    extra = longest - captions.words.shape[1]
    words, weights = F.pad(captions.words, (0, 0, 0, extra)), F.pad(captions.weights, (0, extra))
    return CaptionVectors(vector=captions.vector, words=words, weights=weights)


def chunks(rows: list[int], size: int) -> list[list[int]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def recalls(scores: Tensor, owner: Tensor) -> dict[str, float]:
    """Text to image R@1/5/10 and image to text R@1, in percent. scores: [Q, B]."""
    rank = (scores > scores.gather(1, owner[:, None])).sum(1)  # [Q]
    found = {f"R@{k}": 100 * float((rank < k).float().mean()) for k in (1, 5, 10)}
    found["i2t R@1"] = 100 * float((owner[scores.argmax(0)] == torch.arange(scores.shape[1])).float().mean())
    return {name: round(value, 1) for name, value in found.items()}


def train(model: Model, data: dict[str, Source], settings: Settings, out: Path) -> Model:
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
            print(f"step {step + 1}/{settings.steps} loss {loss:.3f} {left:.0f} s left", file=sys.stderr, flush=True)
        if (step + 1) % 60 == 0 or step + 1 == settings.steps:
            report(average, data, f"step {step + 1}")
            _keep(model, average, optimizer, step + 1, out)
    return average


def _step(model: Model, optimizer: torch.optim.Optimizer, data: dict[str, Source], settings: Settings, step: int) -> float:
    """Everything drawn is a function of the step, so that a resumed run goes on as if it had never stopped."""
    rng = np.random.default_rng([settings.seed, step])
    torch.manual_seed(settings.seed * 100_003 + step)
    total = 0.0
    for name in _turn(step, settings.openstax):
        loss = loss_of(model, data[name], _batch(data[name].rows, step, settings, name), rng, settings)
        loss.backward()
        total += float(loss.detach())
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 5.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _optimizer(model: Model, settings: Settings) -> torch.optim.Optimizer:
    heads = [*model.part.parameters(), model.temperature]
    groups = [
        {"params": [p for p in heads if p.ndim > 1], "lr": settings.rate, "weight_decay": settings.decay},
        {"params": [p for p in heads if p.ndim <= 1], "lr": settings.rate, "weight_decay": 0.0},
        {"params": model.tuned(), "lr": settings.tower_rate, "weight_decay": settings.tower_decay},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def _resume(model: Model, average: Model, optimizer: torch.optim.Optimizer, out: Path) -> int:
    if not (out / "state.pt").exists():
        return 0
    saved = torch.load(out / "state.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    average.load_state_dict(saved["average"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def _keep(model: Model, average: Model, optimizer: torch.optim.Optimizer, step: int, out: Path) -> None:
    state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step}, out / "state.pt.part")
    os.replace(out / "state.pt.part", out / "state.pt")


def _turn(step: int, openstax: float) -> list[str]:
    """The sources of a step: Flickr always, OpenStax `openstax` times a step on average."""
    more = int((step + 1) * openstax) - int(step * openstax)
    return ["flickr_train", *["openstax"] * more]


def _batch(rows: list[int], step: int, settings: Settings, name: str) -> list[int]:
    """The rows of a step: epochs of shuffled rows, the incomplete batch at the end dropped; a function of the step."""
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
def report(model: Model, data: dict[str, Source], label: str) -> None:
    """Bi-encoder and bi-encoder + late interaction (over all pictures) on both development splits."""
    model.eval()
    for name in ("flickr_dev", "openstax_dev"):
        texts, owner = owners(data[name])
        images, captions = embed_images(model, data[name], data[name].rows), captions_of(model.part.caption, data[name], texts)
        cosine = captions.vector @ images.vector.T
        joint = cosine + model.part.late * late_matrix(captions, images.regions)
        print(f"{label} {name} cosine {recalls(cosine, owner)} joint {recalls(joint, owner)}", flush=True)


def part_of(captions: CaptionVectors, start: int, stop: int) -> CaptionVectors:
    """Queries `start` to `stop`."""
    return CaptionVectors(
        vector=captions.vector[start:stop], words=captions.words[start:stop], weights=captions.weights[start:stop]
    )


def main() -> None:
    """The command line; every setting has a flag."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("tower", "text", "cache", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="model.safetensors of an earlier run to start from")
    parser.add_argument("--threads", type=int, default=1)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="%(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if "RNX_DATA" not in os.environ:
        parser.error("RNX_DATA is not set; it names the folder of the development data")
    settings = Settings(**{name: getattr(args, name) for name in asdict(Settings())})
    torch.manual_seed(settings.seed)
    args.cache.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    data = sources(Path(os.environ["RNX_DATA"]), args.cache, args.tower, args.text)
    model = Model(fold(torch.load(args.tower, map_location="cpu", weights_only=True)), settings)
    if args.init:
        model.load_state_dict(load_file(args.init))
    average = train(model, data, settings, args.out)
    save_file({k: v.contiguous() for k, v in average.state_dict().items()}, args.out / "model.safetensors")
    (args.out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))


if __name__ == "__main__":
    main()
