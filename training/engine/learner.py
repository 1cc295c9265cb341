"""What a ranker in training can do, and what one stage of its training is. It knows no model, no
data and no loss.

The trainer (`training/engine/trainer.py`) drives any `Learner` through any `Stage`: the embedded
model with its reader and image part, or a vision-language model with an adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from training.data import GradedList
from training.engine.stage import Stage


class Learner(Protocol):
    """A ranker in training: raw scores with gradients, weights that can be kept, averaged and
    exported.

    Dropout and the like are on where `torch.is_grad_enabled()`: the trainer evaluates under
    `torch.inference_mode()`.
    """

    def scores(self, of: GradedList) -> Tensor:
        """The logit of every candidate of one list, [N], float, with gradients to what `groups`
        named.
        """
        ...

    def groups(self, stage: Stage) -> list[dict[str, Any]]:
        """Parameter groups for AdamW (`params`, `lr`, `weight_decay`); what the stage does not
        train is frozen.
        """
        ...

    def weights(self) -> dict[str, Tensor]:
        """What any stage trains, by name: the tensors themselves, not copies; all of floating
        point.
        """
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
