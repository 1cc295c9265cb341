"""The interface of a ranker in training. It knows no model, no data and no loss.

`GradedListTask` (`training/engine/graded_lists.py`) takes any `Learner` through any `Stage`: the
embedded model with its listwise scorer and image heads, or a vision-language model with an adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from training.data import GradedList
from training.engine.stage import Stage


class Learner(Protocol):
    """A ranker in training: raw scores with gradients, weights that can be copied, averaged and
    exported.

    Dropout and the like are on where `torch.is_grad_enabled()`: evaluation runs under
    `torch.inference_mode()`.
    """

    def scores(self, graded_list: GradedList, /) -> Tensor:
        """Return the logit of every candidate of one list, [N], float, any real number, with
        gradients to what `groups` named.
        """
        ...

    def groups(self, stage: Stage) -> list[dict[str, Any]]:
        """Return parameter groups for AdamW (`params`, `lr`, `weight_decay`), and freeze what the
        stage does not train.
        """
        ...

    def weights(self) -> dict[str, Tensor]:
        """Return what any stage trains, by name: the tensors themselves, not copies; all of
        floating point.
        """
        ...

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy values into `weights()`; every name must be present."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load_ranker` or the exporter reads."""
        ...


@runtime_checkable
class Penalised(Protocol):
    """A learner with a property to preserve that no order of candidates shows."""

    def penalty(self) -> Tensor:
        """Return a scalar >= 0 that is added to the loss of the list that was scored last."""
        ...
