"""Train the reader of `rnx-mini` on graded lists, over a frozen text tower whose states are cached.

`python -m training.train_ranker --work DIR --cache DIR --steps 400 [--init reader.safetensors]`

Every step draws lists from the mix, takes some candidates of each, and adds the losses up. A checkpoint is written at
every evaluation; a killed run goes on from the last one with the same result (`--work` is the same folder).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llama_index_rnx.rankers.mini.reader import CandidateBatch, QueryStates, Reader, ReaderConfig, TextMemory, collate
from training.evaluate import NDCG10, evaluate, mean, qrels_of, run_of
from training.lists import GradedList, take
from training.losses import lambdarank, listmle, softmax_kl
from training.mixes import Mix, development, training_mixes
from training.token_cache import CachedText, TokenCache

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "softmax_kl": softmax_kl,
    "listmle": listmle,
    "lambdarank": lambdarank,
    "mixed": lambda scores, grades: softmax_kl(scores, grades) + 0.3 * listmle(scores, grades),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run is; kept in its checkpoint."""

    steps: int = 600
    lists_a_step: int = 6
    candidates: int = 24
    rate: float = 2e-4
    base_rate: float = 2e-3
    warmup: float = 0.1
    decay: float = 0.05
    clip: float = 1.0
    loss: str = "mixed"
    evaluate_every: int = 150
    average: float = 0.98
    parts: tuple[str, ...] = ("base", "compress", "joint", "list")
    seed: int = 0


def query_states(reader: Reader, cache: TokenCache, query: str) -> QueryStates:
    """The cached states of a query as the reader wants them."""
    entry = cache[f"query:{query}"]
    vector = nn.functional.normalize(entry.chunks[0].float(), dim=0)
    return reader.query(entry.states.float(), entry.pieces.long(), vector)


def candidate_batch(
    reader: Reader, cache: TokenCache, texts: Sequence[str], image_logits: Sequence[float | None] = ()
) -> CandidateBatch:
    """The cached texts as a batch; gradients reach the reader's projection, so nothing here is `remember`ed."""
    entries = [cache[text] if text else None for text in texts]
    states = [entry.states for entry in entries if entry] or [torch.zeros(0, reader.config.state_width)]
    tokens = reader.project(torch.cat(states).float())  # [all tokens, D]
    parts = iter(torch.split(tokens, [len(of) for of in states]))
    memories = [_memory(entry, next(parts)) if entry else None for entry in entries]
    if not image_logits:
        return collate(memories, reader.config)
    has_image = torch.tensor([logit is not None for logit in image_logits])
    return collate(memories, reader.config, has_image, torch.tensor([logit or 0.0 for logit in image_logits]))


def _memory(entry: CachedText, tokens: Tensor) -> TextMemory:
    return TextMemory(tokens=tokens, chunks=entry.chunks.float(), pieces=entry.pieces, counts=entry.counts)


@torch.inference_mode()
def score_lists(reader: Reader, cache: TokenCache, lists: Sequence[GradedList]) -> list[list[float]]:
    """The reader's scores of every list, whole."""
    reader.eval()
    found = []
    for of in lists:
        batch = candidate_batch(reader, cache, of.texts, of.image_logits)
        found.append(reader(query_states(reader, cache, of.query), batch).tolist())
    return found


@torch.inference_mode()
def cosine_scores(cache: TokenCache, lists: Sequence[GradedList]) -> list[list[float]]:
    """The text tower alone: cosine of the retrieval vectors."""
    scores = []
    for of in lists:
        query = cache[f"query:{of.query}"].chunks[0].float()
        vectors = torch.stack([cache[text].chunks.float().mean(0) for text in of.texts])
        scores.append(nn.functional.cosine_similarity(vectors, query.unsqueeze(0)).tolist())
    return scores


def draw(of: GradedList, count: int, chance: random.Random) -> list[int]:
    """Places of `count` candidates: half of them from the relevant ones at most, so that there is something to beat."""
    relevant = [place for place, grade in enumerate(of.grades) if grade > 0]
    others = [place for place, grade in enumerate(of.grades) if grade <= 0]
    chance.shuffle(relevant)
    chance.shuffle(others)
    kept = relevant[: max(count // 2, count - len(others))]
    return kept + others[: count - len(kept)]


def optimiser(reader: Reader, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with a higher rate for the few scalar weights of the base, and no decay on vectors."""
    for name, parameter in reader.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in config.parts)
    fast = [p for p in [*reader.base.parameters(), *reader.kinds.parameters()] if p.requires_grad]
    known = {id(parameter) for parameter in fast}
    rest = [p for p in reader.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": fast, "lr": config.base_rate, "weight_decay": 0.0},
        {"params": [p for p in rest if p.ndim > 1], "lr": config.rate, "weight_decay": config.decay},
        {"params": [p for p in rest if p.ndim <= 1], "lr": config.rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, eps=1e-6)


def rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine to 2 % of the rate."""
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))


def list_loss(reader: Reader, cache: TokenCache, of: GradedList, config: TrainConfig, chance: random.Random) -> Tensor:
    """The loss of one list, some of its candidates drawn."""
    places = draw(of, chance.randint(config.candidates // 2, config.candidates * 3 // 2), chance)
    of = take(of, places)
    batch = candidate_batch(reader, cache, of.texts, of.image_logits)
    scores = reader(query_states(reader, cache, of.query), batch)
    return LOSSES[config.loss](scores, torch.tensor(of.grades))


def first_projection(cache: TokenCache, texts: Sequence[str], width: int) -> Tensor:
    """Principal directions of the token states, softly whitened (power 1/4): [width, 384], where `compress` starts."""
    states = nn.functional.normalize(torch.cat([cache[text].states[::3].float() for text in texts]), dim=-1)
    values, vectors = torch.linalg.eigh(states.T.cov())
    principal: Tensor = vectors[:, -width:] / values[-width:] ** 0.25  # [384, width]
    return principal.T.contiguous()


def new_reader(cache: TokenCache, mixes: Sequence[Mix], seed: int, config: ReaderConfig = ReaderConfig()) -> Reader:
    """An untrained reader: it gives the text tower's own order."""
    torch.manual_seed(seed)
    reader = Reader(config)
    reader.weights.copy_(cache.weights)
    sample = [text for mix in mixes for of in mix.lists[:20] for text in of.texts[:30]]
    with torch.no_grad():
        reader.compress.weight.copy_(first_projection(cache, sample, config.memory_width))
    return reader


def report(reader: Reader, cache: TokenCache, sets: dict[str, list[GradedList]]) -> dict[str, float]:
    """nDCG@10 on every development set."""
    return {
        name: mean(evaluate(qrels_of(lists), run_of(lists, score_lists(reader, cache, lists)), NDCG10))
        for name, lists in sets.items()
    }


class Trainer:
    """A reader in training: its moving average, its optimiser, and the folder that it resumes from."""

    def __init__(self, reader: Reader, cache: TokenCache, config: TrainConfig, work: Path) -> None:
        self.reader, self.cache, self.config, self.work = reader, cache, config, work
        self.average = copy.deepcopy(reader)  # the moving average: .71 on DL19 where the last step alone had .66
        self.optimiser = optimiser(reader, config)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: rate_factor(step, config))
        self.done, self.best = 0, -1.0
        work.mkdir(parents=True, exist_ok=True)
        if (work / "checkpoint.pt").exists():
            self._resume(torch.load(work / "checkpoint.pt"))

    def step(self, mixes: Sequence[Mix]) -> float:
        """One step on lists drawn from the mixes; its loss."""
        chance = random.Random(f"{self.config.seed}-{self.done}")  # resumed or not, step k draws the same lists
        total, count = 0.0, self.config.lists_a_step
        self.reader.train()
        for mix in chance.choices(mixes, weights=[mix.weight for mix in mixes], k=count):
            loss = list_loss(self.reader, self.cache, chance.choice(mix.lists), self.config, chance) / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        nn.utils.clip_grad_norm_(self.reader.parameters(), self.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.scheduler.step()
        self.done += 1
        _follow(self.average, self.reader, min(self.config.average, self.done / (self.done + 9)))
        return total

    def select(self, sets: dict[str, list[GradedList]]) -> None:
        """Evaluate the average; if it is the best so far, it becomes `reader.safetensors`."""
        found = report(self.average, self.cache, sets)
        mark = sum(found.values()) / len(found)
        line = "  ".join(f"{name} {value:.4f}" for name, value in found.items())
        print(f"== step {self.done}: {line}  mean {mark:.4f}{' *' if mark > self.best else ''}", flush=True)
        with (self.work / "report.jsonl").open("a") as log:
            log.write(json.dumps({"step": self.done, **found, "mean": mark}) + "\n")
        if mark > self.best:
            self.best = mark
            weights = {name: value.contiguous() for name, value in self.average.state_dict().items()}
            save_file(weights, self.work / "reader.safetensors")

    def save(self) -> None:
        """Write all that a resumed run needs."""
        parts = {name: getattr(self, name).state_dict() for name in ("reader", "average", "optimiser", "scheduler")}
        torch.save({**parts, "done": self.done, "best": self.best}, self.work / "checkpoint.part")
        (self.work / "checkpoint.part").rename(self.work / "checkpoint.pt")

    def _resume(self, state: dict[str, Any]) -> None:
        for name in ("reader", "average", "optimiser", "scheduler"):
            getattr(self, name).load_state_dict(state[name])
        self.done, self.best = state["done"], state["best"]
        print(f"resumed at step {self.done}", flush=True)


def train(trainer: Trainer, mixes: Sequence[Mix], sets: dict[str, list[GradedList]]) -> None:
    """Train to the end; the best average by the mean over `sets` is left in `reader.safetensors`."""
    config, began, first, total = trainer.config, time.time(), trainer.done, 0.0
    if trainer.done == 0:
        trainer.select(sets)
    while trainer.done < config.steps:
        total += trainer.step(mixes)
        if trainer.done % 25 == 0:
            left = (time.time() - began) / (trainer.done - first) * (config.steps - trainer.done)
            print(f"step {trainer.done}/{config.steps} loss {total / 25:.4f}, {left:.0f} s left", flush=True)
            total = 0.0
        if trainer.done % config.evaluate_every == 0 or trainer.done == config.steps:
            trainer.select(sets)
            trainer.save()


@torch.no_grad()
def _follow(average: Reader, reader: Reader, keep: float) -> None:
    for old, new in zip(average.parameters(), reader.parameters(), strict=True):
        old.lerp_(new, 1 - keep)


def main() -> None:
    """Train from the command line; lists whose texts are not in the cache (training/fill_cache.py) are left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints, report and the trained reader.safetensors")
    parser.add_argument("--cache", type=Path, required=True, help="token states of the frozen tower (training/fill_cache.py)")
    parser.add_argument("--init", type=Path, help="start from these weights instead of the text tower's own order")
    parser.add_argument("--steps", type=int, default=TrainConfig.steps)
    parser.add_argument("--loss", choices=LOSSES, default=TrainConfig.loss)
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    parser.add_argument("--threads", type=int, default=1)
    found = parser.parse_args()
    torch.set_num_threads(found.threads)
    config = TrainConfig(steps=found.steps, loss=found.loss, seed=found.seed)
    cache = TokenCache(found.cache, load_file(found.cache / "idf.safetensors")["weights"])
    mixes = training_mixes(cache)
    print("mixes:", ", ".join(f"{mix.name} {len(mix.lists)} lists x {mix.weight}" for mix in mixes), flush=True)
    reader = new_reader(cache, mixes, config.seed)
    if found.init:
        reader.load_state_dict(load_file(found.init))
    train(Trainer(reader, cache, config, found.work), mixes, development(cache))
    (found.work / "reader.json").write_text(json.dumps({**asdict(reader.config), "training": asdict(config)}, indent=1))


if __name__ == "__main__":
    main()
