"""The one training loop: any `Task`, with checkpoints, a moving average and progress. It knows no
model, no data and no loss.

A checkpoint is one safetensors file of tensors with JSON in its header, and a killed run goes on
from it with the same result, bit for bit, because tasks draw everything by the seed and the step.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from training.engine import checkpoint
from training.engine.checkpoint import Record, add_prefix, strip_prefix
from training.engine.task import Task

CHECKPOINT = "checkpoint.safetensors"

# A killed run loses no more than this. When a checkpoint is written changes no result.
SAVE_SECONDS = 300.0

SHOW_EVERY = 25  # steps

# Fields of the trainer that lie as JSON in the header of a checkpoint.
_PROGRESS = ("done", "seconds", "losses", "history")


class Trainer:
    """A task in training: its optimizer and schedule, its moving average, the best weights so far.

    Args:
        task: what is trained.
        work: the folder of the checkpoint, from which a run resumes; None writes none.
        record: what the run is; a checkpoint of another run is refused.

    Attributes:
        done: steps taken. seconds: spent on them, in all sessions.
        losses: one number a step.
        history: one row an evaluation: the step, every metric, their mean.
        average: the moving average of the weights, float32. best: the one to end with.

    Raises:
        RNXError: the checkpoint is damaged, or of a run with other settings, seed or data.
    """

    def __init__(self, task: Task, work: Path | None, record: Record) -> None:
        self.task = task
        self.record = record
        self.processes = task.processes
        self.path = None if work is None else work / CHECKPOINT

        self.optimizer = task.build_optimizer()
        self.parameters = [
            parameter for group in self.optimizer.param_groups for parameter in group["params"]
        ]
        self.average = copy_weights(task.weights())
        self.best = copy_weights(task.weights())

        self.done = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self.history: list[dict[str, Any]] = []

        if self.path is not None and self.path.exists():
            self._resume(self.path)
        self.schedule = self._build_schedule()

    def train(self) -> None:
        """Train to the end, and leave the task with the weights to end with."""
        started = time.monotonic() - self.seconds
        last_saved = time.monotonic()
        if self.task.selects_best and not self.history:
            self.evaluate()

        while self.done < self.task.steps:
            self.step()
            self.seconds = time.monotonic() - started
            if self.done % SHOW_EVERY == 0:
                self.show()

            is_due = self.done % self.task.evaluate_every == 0 or self.done == self.task.steps
            if is_due:
                self.evaluate()
            if is_due or time.monotonic() - last_saved > SAVE_SECONDS:
                self.save_checkpoint()
                last_saved = time.monotonic()
        self.task.load(self.best)

    def step(self) -> float:
        """Take one step, and return its loss: the sum over all processes."""
        total = 0.0
        pending = 0.0
        for loss in self.task.losses(self.done):
            loss.backward()
            pending += loss.item()
            if self.task.updates_after_each_loss:
                total += self._optimizer_step(pending)
                pending = 0.0
        if not self.task.updates_after_each_loss:
            total = self._optimizer_step(pending)

        self.schedule.step()
        update_ema(self.average, self.task.weights(), self.task.ema_decay(self.done))
        self.done += 1
        self.losses.append(total)
        return total

    def evaluate(self) -> None:
        """Evaluate the moving average; where it is the best so far, it becomes `best`."""
        # The copy is exact: float32 holds every bfloat16 and float16.
        current = copy_weights(self.task.weights())
        self.task.load(self.average)
        metrics = self.task.evaluate()
        self.task.load(current)

        mean = sum(metrics.values()) / max(1, len(metrics))
        is_best = not self.history or mean > max(row["mean"] for row in self.history)
        if is_best or not self.task.selects_best:
            self.best = copy_weights(self.average)
        self.history.append({"step": self.done, **metrics, "mean": mean})

        if metrics:
            line = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            star = " *" if is_best and self.task.selects_best else ""
            self._print(f"== step {self.done}: {line}  mean {mean:.4f}{star}")

    def save_checkpoint(self) -> None:
        """Write all that a resumed run needs; only the main process writes."""
        if self.path is None or not self.processes.is_main_process:
            return

        moments = {
            f"{index}/{name}": value
            for index, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        groups = {
            "weights": self.task.weights(),
            "average": self.average,
            "best": self.best,
            # Spelled as in checkpoints that exist already.
            "optimiser": moments,
            "task": self.task.state(),
        }
        tensors: dict[str, Tensor] = {}
        for prefix, values in groups.items():
            tensors.update(add_prefix(values, prefix))

        progress = {name: getattr(self, name) for name in _PROGRESS}
        checkpoint.write(self.path, tensors, {"record": asdict(self.record), **progress})

    def show(self) -> None:
        """Print the step, the recent loss, the rate and the time left."""
        recent = self.losses[-SHOW_EVERY:]
        loss = sum(recent) / len(recent)
        rate = self.done / max(self.seconds, 1e-9)
        remaining = (self.task.steps - self.done) / rate
        self._print(
            f"{self.task.name}: step {self.done}/{self.task.steps} loss {loss:.4f}, "
            f"{rate:.2f} steps/s, {remaining:.0f} s left"
        )

    def _optimizer_step(self, loss: float) -> float:
        """Move the weights by the gradients of all processes; return the sum of their losses."""
        total = self._reduce_gradients(loss)
        nn.utils.clip_grad_norm_(self.parameters, self.task.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _reduce_gradients(self, loss: float) -> float:
        if self.processes.world_size == 1:
            return loss

        # A process may have read no list, and then has no gradients.
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        total = torch.tensor([loss], device=self.parameters[0].device)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.processes.all_reduce_sum([total, *gradients])
        return float(total)

    def _build_schedule(self) -> LambdaLR:
        """Return the schedule, standing at step `done`."""
        if self.done:
            for group in self.optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        return LambdaLR(self.optimizer, self.task.learning_rate_factor, last_epoch=self.done - 1)

    def _resume(self, path: Path) -> None:
        tensors, header = checkpoint.read(path)
        checkpoint.check_same_run(path, header, self.record)

        self.task.load(strip_prefix(tensors, "weights"))
        self.task.restore(strip_prefix(tensors, "task"))
        self.average = self._on_devices(strip_prefix(tensors, "average"))
        self.best = self._on_devices(strip_prefix(tensors, "best"))

        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in strip_prefix(tensors, "optimiser").items():
            index, name = key.split("/")
            moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

        for name in _PROGRESS:
            setattr(self, name, header[name])
        self._print(f"{self.task.name}: goes on at step {self.done}")

    def _on_devices(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Move tensors to where the task's weights of the same names are."""
        weights = self.task.weights()
        return {name: tensor.to(weights[name].device) for name, tensor in tensors.items()}

    def _print(self, line: str) -> None:
        if self.processes.is_main_process:
            print(line, flush=True)


def copy_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy weights in float32, the precision that a moving average needs."""
    return {name: tensor.detach().float().clone() for name, tensor in weights.items()}


@torch.no_grad()
def update_ema(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
    """Move the average towards the weights in place: decay * average + (1 - decay) * weights."""
    for name, tensor in average.items():
        tensor.lerp_(weights[name].float(), 1 - decay)
