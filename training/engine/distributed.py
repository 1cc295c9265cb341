"""One process, or several that train one learner together, each on its share of a step's lists. It
knows no model.

Several processes (one a GPU, on one machine or many) are what `accelerate launch -m
training.train_vlm ...` starts. All of them draw the same lists, read every n-th, and add their
gradients up: the step is that of one process, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class SingleProcess:
    """One process, which reads everything. place: which of `count` this one is."""

    place, count = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.place == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """What this process reads of them."""
        return items[self.place :: self.count]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Every tensor becomes its sum over all processes."""

    def gather(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What all processes found."""
        return dict(values)


class Distributed(SingleProcess):
    """One of the processes that `accelerate launch` started."""

    def __init__(self) -> None:
        from accelerate import PartialState

        state = PartialState()
        self.place, self.count, self.device = state.process_index, state.num_processes, state.device

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        whole = torch.cat(
            [tensor.flatten().float() for tensor in tensors]
        )  # one message, not hundreds
        torch.distributed.all_reduce(whole)
        for tensor, part in zip(
            tensors, torch.split(whole, [tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(part.view_as(tensor))

    def gather(self, values: Mapping[str, Any]) -> dict[str, Any]:
        from accelerate.utils import gather_object

        found: list[tuple[str, Any]] = gather_object(list(values.items()))
        return dict(found)


def processes() -> SingleProcess:
    """As many as there are."""
    return Distributed() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else SingleProcess()
