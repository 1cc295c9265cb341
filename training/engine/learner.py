"""What a ranker in training can do, and what one stage of its training is. It knows no model, no data and no loss.

The trainer (`training/engine/trainer.py`) drives any `Learner` through any `Stage`: the embedded model with its reader and image
part, or a vision-language model with an adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from training.data import GradedList


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a curriculum, as data: what is read, what is trained, how and for how long.

    mix: the sources of lists and how often each is drawn. development: the sets that select the best weights (their mean).
    negatives: where the wrong candidates come from, "given" with the lists, or "mined" by the ranker as it then is, anew in
    each of `rounds` equal parts of the steps. teacher: where the grades come from. candidates: how many of a list are read
    in a step, a half more or less, but not more than `most`, which a ranker's window may ask for. trained: the parts of the
    learner, by their names. scalar_rate: of the few numbers that calibrate scores; they may move faster than matrices.
    average: how much of the moving average stays at every step.
    """

    name: str
    mix: tuple[tuple[str, float], ...]
    development: tuple[str, ...]
    trained: tuple[str, ...]
    steps: int
    negatives: str = "given"
    rounds: int = 1
    teacher: str = "grades"
    candidates: int = 24
    most: int = 1_000
    lists_a_step: int = 6
    loss: str = "mixed"
    rate: float = 2e-4
    scalar_rate: float = 2e-3
    warmup: float = 0.1
    decay: float = 0.05
    clip: float = 1.0
    average: float = 0.98
    evaluate_every: int = 150


class Learner(Protocol):
    """A ranker in training: raw scores with gradients, weights that can be kept, averaged and exported.

    Dropout and the like are on where `torch.is_grad_enabled()`: the trainer evaluates under `torch.inference_mode()`.
    """

    def scores(self, of: GradedList) -> Tensor:
        """The logit of every candidate of one list, [N], float, with gradients to what `groups` named."""
        ...

    def groups(self, stage: Stage) -> list[dict[str, Any]]:
        """Parameter groups for AdamW (`params`, `lr`, `weight_decay`); what the stage does not train is frozen."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """What any stage trains, by name: the tensors themselves, not copies; all of floating point."""
        ...

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy values into `weights()`; every name must be there."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load_ranker` or the exporter reads."""
        ...


@runtime_checkable
class Penalised(Protocol):
    """A learner that must not lose something which no order of candidates shows."""

    def penalty(self) -> Tensor:
        """What is added to the loss of the list that was read last."""
        ...
