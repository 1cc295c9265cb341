"""The one training loop over graded lists: any `Learner`, any `Stage`. It knows losses and lists,
and no model.

Every step draws lists from the mix, takes some candidates of each, and adds the losses up. All that
is drawn is a function of the seed and the step, so a killed run goes on from its last checkpoint
with the same result, bit by bit.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.data import GradedList, take
from training.engine import checkpoint
from training.engine.checkpoint import Record, add_prefix, strip_prefix
from training.engine.distributed import SingleProcess
from training.engine.learner import Learner, Penalised
from training.engine.stage import Stage
from training.evaluation import NDCG10, Run, Values, evaluate, mean, qrels_of, run_of
from training.losses import lambdarank, listmle, ranknet, softmax_kl

Loss = Callable[[Tensor, Tensor], Tensor]
Lists = Mapping[str, Sequence[GradedList]]  # by source, or by development set
LOSSES: dict[str, Loss] = {
    "softmax_kl": softmax_kl,
    "listmle": listmle,
    "ranknet": ranknet,
    "lambdarank": lambdarank,
    "mixed": lambda scores, grades: softmax_kl(scores, grades) + 0.3 * listmle(scores, grades),
}
CHECKPOINT = "checkpoint.safetensors"
KEEP_SECONDS = 300.0  # a killed run loses no more than this; when it is written changes nothing
SHOW_EVERY = 25


class Trainer:
    """A learner in one stage: its optimiser, its moving average, the best weights so far, and the
    folder it resumes from.
    """

    def __init__(
        self,
        learner: Learner,
        stage: Stage,
        work: Path,
        record: Record,
        processes: SingleProcess = SingleProcess(),
    ) -> None:
        self.learner, self.stage, self.path, self.record = learner, stage, work / CHECKPOINT, record
        self.processes = processes
        groups = learner.groups(stage)
        self.optimiser = torch.optim.AdamW(groups, eps=1e-6)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.rates = [float(group["lr"]) for group in groups]
        self.average, self.best = _copy(learner.weights()), _copy(learner.weights())
        self.done, self.seconds, self.losses = 0, 0.0, list[float]()
        self.history: list[
            dict[str, Any]
        ] = []  # one row an evaluation: the step, nDCG@10 of every set, their mean
        if self.path.exists():
            self._resume()

    def step(self, lists: Lists) -> float:
        """One step on lists drawn from the mix; its loss."""
        stage, names = self.stage, [name for name, _ in self.stage.mix]
        chance = random.Random(f"{self.record.seed}-{stage.name}-{self.done}")
        sources = chance.choices(
            names, weights=[weight for _, weight in stage.mix], k=stage.lists_a_step
        )
        drawn = [self._drawn(chance.choice(lists[name]), chance) for name in sources]
        total = 0.0
        for of, seed in self.processes.share(drawn):
            torch.manual_seed(seed)  # dropout and views
            loss = self._loss(of) / stage.lists_a_step
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        self.losses.append(self._added_up(total))
        self._move()
        return self.losses[-1]

    def _loss(self, of: GradedList) -> Tensor:
        scores = self.learner.scores(of)  # [N]
        loss = LOSSES[self.stage.loss](scores, torch.tensor(of.grades, device=scores.device))
        return loss + self.learner.penalty() if isinstance(self.learner, Penalised) else loss

    def _drawn(self, of: GradedList, chance: random.Random) -> tuple[GradedList, int]:
        """Some candidates of a list, and the seed of what else is drawn while it is read."""
        half = self.stage.candidates // 2
        count = min(chance.randint(max(2, half), half * 3), self.stage.most)
        return take(of, draw(of, count, chance)), chance.getrandbits(63)

    def _added_up(self, loss: float) -> float:
        """The loss of all processes; every gradient becomes the sum of theirs."""
        if self.processes.count == 1:
            return loss
        for parameter in self.parameters:  # a process may have read no list
            parameter.grad = (
                torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            )
        total = torch.tensor([loss], device=self.parameters[0].device)
        self.processes.add_up(
            [
                total,
                *(parameter.grad for parameter in self.parameters if parameter.grad is not None),
            ]
        )
        return float(total)

    def _move(self) -> None:
        factor = rate_factor(self.done, self.stage)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        nn.utils.clip_grad_norm_(self.parameters, self.stage.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.done += 1
        _follow(
            self.average,
            self.learner.weights(),
            min(self.stage.average, self.done / (self.done + 9)),
        )

    def select(self, sets: Lists) -> None:
        """Evaluate the average; where it is the best so far, it becomes `best`."""
        kept = _copy(self.learner.weights())  # exact: fp32 holds every bf16 and fp16
        self.learner.load(self.average)
        shares = {
            name: ndcg(self.learner, self.processes.share(lists)) for name, lists in sets.items()
        }
        found = {name: mean(self.processes.gather(values)) for name, values in shares.items()}
        self.learner.load(kept)
        mark = sum(found.values()) / len(found)
        better = not self.history or mark > max(row["mean"] for row in self.history)
        if better:
            self.best = _copy(self.average)
        self.history.append({"step": self.done, **found, "mean": mark})
        line = "  ".join(f"{name} {value:.4f}" for name, value in found.items())
        self._say(f"== step {self.done}: {line}  mean {mark:.4f}{' *' if better else ''}")

    def keep(self) -> None:
        """Write all that a resumed run needs."""
        if not self.processes.first:
            return
        moments = self.optimiser.state_dict()["state"]
        state = {
            f"{place}/{name}": value for place, of in moments.items() for name, value in of.items()
        }
        parts = {
            "weights": self.learner.weights(),
            "average": self.average,
            "best": self.best,
            "optimiser": state,
        }
        tensors = {
            name: tensor
            for part, found in parts.items()
            for name, tensor in add_prefix(found, part).items()
        }
        stands = {name: getattr(self, name) for name in ("done", "seconds", "losses", "history")}
        checkpoint.write(self.path, tensors, {"record": asdict(self.record), **stands})

    def _resume(self) -> None:
        tensors, header = checkpoint.read(self.path)
        checkpoint.check_same_run(self.path, header, self.record)
        self.learner.load(strip_prefix(tensors, "weights"))
        ours = self.learner.weights()
        for name in ("average", "best"):
            setattr(
                self,
                name,
                {
                    key: value.to(ours[key].device)
                    for key, value in strip_prefix(tensors, name).items()
                },
            )
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in strip_prefix(tensors, "optimiser").items():
            place, kind = name.split("/")
            moments.setdefault(int(place), {})[kind] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        for name in ("done", "seconds", "losses", "history"):
            setattr(self, name, header[name])
        self._say(f"{self.stage.name}: goes on at step {self.done}")

    def show(self) -> None:
        """Where the stage stands."""
        recent, left = self.losses[-SHOW_EVERY:], self.stage.steps - self.done
        seconds = self.seconds / self.done * left
        line = f"{self.stage.name}: step {self.done}/{self.stage.steps} loss {sum(recent) / len(recent):.4f}"
        self._say(f"{line}, {seconds:.0f} s left")

    def _say(self, line: str) -> None:
        if self.processes.first:
            print(line, flush=True)


def train(trainer: Trainer, lists: Callable[[int], Lists], sets: Lists) -> None:
    """Train to the end, and leave the learner with the best average by the mean over `sets`.

    `lists` gives the lists of a round; it is asked when the round begins, and when a run resumes
    inside it.
    """
    stage, began, kept = trainer.stage, time.monotonic() - trainer.seconds, time.monotonic()
    if not trainer.history:
        trainer.select(sets)
    drawn: Lists = {}
    while trainer.done < stage.steps:
        if not drawn or starts_round(trainer.done, stage):
            drawn = lists(round_of(trainer.done, stage))
        trainer.step(drawn)
        trainer.seconds = time.monotonic() - began
        if trainer.done % SHOW_EVERY == 0:
            trainer.show()
        last = trainer.done == stage.steps
        if last or trainer.done % stage.evaluate_every == 0:
            trainer.select(sets)
        if (
            last
            or trainer.done % stage.evaluate_every == 0
            or time.monotonic() - kept > KEEP_SECONDS
        ):
            trainer.keep()
            kept = time.monotonic()
    trainer.learner.load(trainer.best)


def round_of(step: int, stage: Stage) -> int:
    """Which of the stage's rounds a step belongs to, from 0."""
    return min(step * stage.rounds // stage.steps, stage.rounds - 1)


def starts_round(step: int, stage: Stage) -> bool:
    """Whether a step is the first of its round."""
    return step == 0 or round_of(step, stage) != round_of(step - 1, stage)


def draw(of: GradedList, count: int, chance: random.Random) -> list[int]:
    """Places of `count` candidates: half of them from the relevant ones at most, so that there is
    something to beat.
    """
    relevant = [place for place, grade in enumerate(of.grades) if grade > 0]
    others = [place for place, grade in enumerate(of.grades) if grade <= 0]
    chance.shuffle(relevant)
    chance.shuffle(others)
    kept = relevant[: max(count // 2, count - len(others))]
    return kept + others[: count - len(kept)]


def rate_factor(step: int, stage: Stage) -> float:
    """Linear warm-up, then cosine to 2 % of the rate."""
    warm = max(1, round(stage.warmup * stage.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, stage.steps - warm)))


@torch.inference_mode()
def run_lists(learner: Learner, lists: Sequence[GradedList]) -> Run:
    """The learner's scores of every list, whole, as a run."""
    return run_of(lists, [learner.scores(of).tolist() for of in lists])


def ndcg(learner: Learner, lists: Sequence[GradedList]) -> Values:
    """nDCG@10 of every list."""
    return evaluate(qrels_of(lists), run_lists(learner, lists), NDCG10)


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().float().clone() for name, tensor in weights.items()
    }  # an average needs fp32


@torch.no_grad()
def _follow(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], keep: float) -> None:
    for name, old in average.items():
        old.lerp_(weights[name].float(), 1 - keep)
