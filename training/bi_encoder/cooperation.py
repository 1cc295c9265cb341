"""Bi-encoder and cross-encoder, separate (SEP) or with shared weights (JOINT): arXiv 2103.11920."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_index_rnx.rankers.mini import TransformerLayer
from training.bi_encoder.heads import rows_of
from training.bi_encoder.model import chunks, owners
from training.bi_encoder.source import Source
from training.losses import hard_triplet, infonce

WORDS = 24  # of a caption; longer ones are cut


CUTS = (10, 20, 50)


@dataclass(frozen=True, kw_only=True)
class CooperationSettings:
    """One run of all three models."""

    rounds: int = 300
    pictures: int = 256  # of a bi-encoder batch
    captions: int = 2  # of each of them
    lists: int = 24  # of a cross-encoder batch: a caption, its picture and wrong ones
    length: int = 8
    nearest: int = 50  # hard wrong pictures are drawn from that many that the bi-encoder puts first
    # Of a list; the others are drawn from all: with hard ones alone a loss of log(length) is never
    # left.
    hard: int = 2
    mine_every: int = 60  # rounds; the bi-encoder of the moment mines anew (ANCE, arXiv 2007.00808)
    rate: float = 5e-4
    decay: float = 0.05
    dropout: float = 0.2
    width: int = 128
    layers: int = 2
    loss: str = "infonce"
    queries: int = 500  # captions whose scores over all pictures the cross-encoder gives
    seed: int = 0


class SharedReader(nn.Module):
    """A transformer over cells [N, 16, 1280], words [N, T, 384], or both."""

    def __init__(self, settings: CooperationSettings) -> None:
        super().__init__()
        width = settings.width
        self.cells, self.words = nn.Linear(1280, width), nn.Linear(384, width)
        self.layers = nn.ModuleList(TransformerLayer(width, 4) for _ in range(settings.layers))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(settings.dropout)
        self.vector = nn.Linear(width, 256)
        self.score = nn.Parameter(
            torch.full((256,), 20.0)
        )  # both together begin as the cosine of what attention made of both
        self.temperature = nn.Parameter(torch.tensor(math.log(20.0)))

    def _read(self, *parts: tuple[Tensor, Tensor]) -> list[Tensor]:
        """All parts attend to one another; a unit vector [N, 256] of each."""
        x, mask = (
            torch.cat(found, 1) for found in zip(*parts, strict=True)
        )  # [N, T, width], [N, T]
        for layer in self.layers:
            x = layer(x, mask)
        lengths = [part.shape[1] for _, part in parts]
        columns = zip(
            torch.split(self.norm(x), lengths, 1),
            torch.split(mask.unsqueeze(-1), lengths, 1),
            strict=True,
        )
        return [
            F.normalize(self.vector((of * kept).sum(1) / kept.sum(1)).float(), dim=-1)
            for of, kept in columns
        ]

    def _cells(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        return self.cells(self.dropout(cells)), torch.ones(cells.shape[:2], dtype=torch.bool)

    def _words(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.words(self.dropout(states)), mask

    def images(self, cells: Tensor) -> Tensor:
        """Unit length [N, 256]."""
        return self._read(self._cells(cells))[0]

    def captions(self, states: Tensor, mask: Tensor) -> Tensor:
        """Unit length [N, 256]."""
        return self._read(self._words(states, mask))[0]

    def together(self, cells: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """How well each picture fits the caption beside it: [N]."""
        seen, asked = self._read(self._cells(cells), self._words(states, mask))
        return (seen * asked * self.score).sum(-1)  # not a `Linear`: bf16 would tie half of a list


class CooperationRun:
    """A reader in training on one source of photographs: its two kinds of step, and mining."""

    def __init__(self, reader: SharedReader, source: Source, settings: CooperationSettings) -> None:
        self.reader, self.source, self.settings = reader, source, settings
        self.hard = torch.empty(0)

    def bi_loss(self, turn: int, rng: np.random.Generator) -> Tensor:
        """In-batch negatives."""
        result_rows = rows_of(self.source, self.settings.pictures, turn, self.settings.seed)
        chosen = [
            rng.permutation(self.source.texts[row])[: self.settings.captions] for row in result_rows
        ]
        owner = torch.tensor([place for place, texts in enumerate(chosen) for _ in texts])
        states, mask, _ = self.source.captions([int(t) for texts in chosen for t in texts], WORDS)
        cells = self.source.pictures(
            result_rows, rng.integers(self.source.maps.shape[1], size=len(result_rows))
        ).float()
        cosine = self.reader.captions(states, mask) @ self.reader.images(cells).T  # [Q, B]
        if self.settings.loss == "hard_triplet":
            return hard_triplet(cosine, owner)
        scale = self.reader.temperature.exp().clamp(max=100)
        return infonce(scale * cosine, F.one_hot(owner, len(result_rows)).float())

    def cross_loss(self, turn: int, rng: np.random.Generator) -> Tensor:
        """Lists of a caption's picture and mined wrong ones."""
        result_rows = rows_of(self.source, self.settings.lists, turn, self.settings.seed + 1)
        texts = [int(rng.choice(self.source.texts[row])) for row in result_rows]
        lists = [
            [row, *self._wrong(row, text, rng)]
            for row, text in zip(result_rows, texts, strict=True)
        ]
        flat = [row for found in lists for row in found]
        cells = self.source.pictures(
            flat, rng.integers(self.source.maps.shape[1], size=len(flat))
        ).float()
        states, mask, _ = self.source.captions(texts, WORDS)
        times = self.settings.length
        scores = self.reader.together(
            cells, states.repeat_interleave(times, 0), mask.repeat_interleave(times, 0)
        )
        return F.cross_entropy(
            scores.view(len(result_rows), times), torch.zeros(len(result_rows), dtype=torch.long)
        )

    def _wrong(self, row: int, text: int, rng: np.random.Generator) -> list[int]:
        """Hard wrong pictures of a caption, and some of all others."""
        hard = rng.choice(self.hard[text].numpy(), self.settings.hard, replace=False)
        others = rng.choice(self.source.rows, self.settings.length, replace=False)
        return [*map(int, hard), *(int(other) for other in others if other != row)][
            : self.settings.length - 1
        ]

    def mine(self, miner: SharedReader) -> None:
        """The `nearest` wrong pictures of every caption by a bi-encoder: [texts, nearest]."""
        captions, images, owner = vectors(miner, self.source)
        found = []
        for start in range(0, len(captions), 1000):  # all at once they would fill a gigabyte
            cosine, mine = (
                captions[start : start + 1000] @ images.T,
                owner[start : start + 1000, None],
            )
            found.append(
                cosine.scatter(1, mine, -torch.inf).topk(self.settings.nearest, dim=1).indices
            )
        self.hard = torch.tensor(self.source.rows)[torch.cat(found)]

    def train(self, turns: Sequence[str], miner: SharedReader | None = None) -> SharedReader:
        """Rounds of one step a turn. Steps alternate, each with a batch of its own; losses are
        never added up, and the rate moves once a round. `miner` is the bi-encoder that mines:
        another reader, or this one."""
        settings, optimizer = self.settings, _optimizer(self.reader, self.settings)
        losses = {"bi": self.bi_loss, "cross": self.cross_loss}
        for done in range(settings.rounds):
            if "cross" in turns and done % settings.mine_every == 0:
                self.mine(miner or self.reader)
            rng = np.random.default_rng([settings.seed, done])
            torch.manual_seed(settings.seed * 100_003 + done)
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * _factor(done, settings.rounds)
            self.reader.train()
            for turn in turns:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = losses[turn](done, rng)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self.reader.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if (done + 1) % 50 == 0:
                last = f"round {done + 1}/{settings.rounds}, last loss {float(loss.detach()):.3f}"
                print(f"{'+'.join(turns)}: {last}", file=sys.stderr, flush=True)
        return self.reader.eval()


def _optimizer(reader: SharedReader, settings: CooperationSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        reader.parameters(), lr=settings.rate, weight_decay=settings.decay, betas=(0.9, 0.98)
    )


def _factor(done: int, rounds: int) -> float:
    return min(1.0, (done + 1) / (0.1 * rounds)) * 0.5 * (1 + math.cos(math.pi * done / rounds))


@torch.inference_mode()
def vectors(reader: SharedReader, source: Source) -> tuple[Tensor, Tensor, Tensor]:
    """All captions [Q, 256] and whole pictures [B, 256] of a source, and the owner of each caption
    [Q].
    """
    reader.eval()
    texts, owner = owners(source)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = [
            reader.images(source.pictures(b, np.zeros(len(b), int)).float())
            for b in chunks(source.rows, 128)
        ]
        captions = [reader.captions(*source.captions(b, WORDS)[:2]) for b in chunks(texts, 512)]
    return torch.cat(captions), torch.cat(images), owner


@torch.inference_mode()
def cross_scores(reader: SharedReader, source: Source, places: Tensor, texts: list[int]) -> Tensor:
    """Scores [Q, K] of the pictures at `places` [Q, K] for each of the texts."""
    cells = source.pictures(source.rows, np.zeros(len(source.rows), int)).float()  # [B, 16, 1280]
    found, count = [], places.shape[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for start in range(0, len(texts), max(1, 1000 // count)):
            stop = start + max(1, 1000 // count)
            states, mask, _ = source.captions(texts[start:stop], WORDS)
            near = places[start:stop].flatten()
            scores = reader.together(
                cells[near], states.repeat_interleave(count, 0), mask.repeat_interleave(count, 0)
            )
            found.append(scores.view(-1, count))
    return torch.cat(found)


def recall(order: Tensor, owner: Tensor) -> str:
    """R@1 / 5 / 10 in percent of pictures in order [Q, K], best first."""
    hit = order == owner[:, None]  # [Q, K]
    return " / ".join(f"{100 * float(hit[:, :k].any(1).float().mean()):.1f}" for k in (1, 5, 10))


def result_rows(
    name: str,
    retriever: SharedReader,
    reranker: SharedReader,
    source: Source,
    settings: CooperationSettings,
) -> list[str]:
    """The rows of one pair: bi-encoder, its top k in the cross-encoder's order, and the
    cross-encoder over everything.
    """
    texts, _ = owners(source)
    captions, images, owner = vectors(retriever, source)
    order = (captions @ images.T).topk(max(CUTS), dim=1).indices  # [Q, 50]
    scores = cross_scores(reranker, source, order, texts)
    made = [f"| {name}: bi-encoder | {recall(order, owner)} |"]
    for k in CUTS:
        by_score = order[:, :k].gather(1, scores[:, :k].argsort(1, descending=True))
        made.append(f"| {name}: k = {k} | {recall(by_score, owner)} |")
    some = torch.linspace(0, len(texts) - 1, settings.queries).long().tolist()
    everything = torch.arange(len(source.rows)).expand(len(some), -1)
    over_all = cross_scores(reranker, source, everything, [texts[place] for place in some]).argsort(
        1, descending=True
    )
    made.append(
        f"| {name}: cross-encoder over all, {len(some)} captions | {recall(over_all, owner[some])} |"
    )
    return made


def new_reader(settings: CooperationSettings) -> SharedReader:
    torch.manual_seed(settings.seed)
    return SharedReader(settings)
