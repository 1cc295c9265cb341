"""The interface of a task, which the trainer trains, and its base for one `nn.Module`. It knows no
data, no loss and no files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from training.engine.distributed import SingleProcess


class Task(ABC):
    """The weights to train, the losses of a step, and what an evaluation measures.

    `Trainer` owns the rest: optimizer steps, learning rate, moving average, checkpoints, progress.
    Everything that `losses` draws must be a function of the seed and the step, so that a killed run
    resumes bit for bit.

    Attributes:
        name: stands before every line of progress.
        steps: of the whole run.
        evaluate_every: steps between two evaluations; the last step is evaluated in any case.
        max_grad_norm: gradients are scaled down to this norm.
        selects_best: whether the run ends with the moving average that evaluated best, and is
            evaluated before its first step, too; otherwise it ends with the last moving average.
        updates_after_each_loss: whether every loss of a step moves the weights; otherwise the
            gradients of a step's losses are added up first.
        processes: the team that trains together.
    """

    name: str
    steps: int
    evaluate_every: int
    max_grad_norm: float
    selects_best: bool = True
    updates_after_each_loss: bool = False
    processes: SingleProcess = SingleProcess()

    @abstractmethod
    def build_optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer at its peak rates, and freeze what is not trained."""

    @abstractmethod
    def learning_rate_factor(self, step: int) -> float:
        """Return the share of the peak rates that step `step` (from 0) uses."""

    @abstractmethod
    def ema_decay(self, step: int) -> float:
        """Return the share of the moving average, 0..1, that stays after step `step` (from 0)."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Return what is trained, by name: the tensors themselves, not copies; floating point."""

    @abstractmethod
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy values into `weights()`."""

    @abstractmethod
    def losses(self, step: int) -> Iterator[Tensor]:
        """Yield the scalar losses of a step; the trainer calls `backward` on each before it asks
        for the next.
        """

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of the weights as they are, by name; nothing where nothing is
        measured. Their mean selects the best weights.
        """
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return what else a resumed run needs and cannot compute again."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned."""
        del state


class ModuleTask(Task):
    """A task that trains one module, and ends with the last moving average of its weights."""

    selects_best = False

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def weights(self) -> dict[str, Tensor]:
        return dict(self.module.state_dict())

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(dict(weights))
