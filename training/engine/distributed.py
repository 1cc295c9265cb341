"""One process, or several that train one learner together, each on its share of a step's lists. It
knows no model.

`accelerate launch -m training.train_vlm ...` starts several processes (one per GPU, on one machine
or many). All of them draw the same lists, every process reads every n-th of them, and their
gradients are added up: the step equals that of one process, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class SingleProcess:
    """One process, which reads everything. rank: the index of this process among `world_size`."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items that this process reads."""
        return items[self.rank :: self.world_size]

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over all processes, in place."""

    def gather(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of all processes in one mapping."""
        return dict(values)


class Distributed(SingleProcess):
    """One of the processes that `accelerate launch` started."""

    def __init__(self) -> None:
        from accelerate import PartialState

        state = PartialState()
        self.rank = state.process_index
        self.world_size = state.num_processes
        self.device = state.device

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        # One message instead of hundreds.
        flat = torch.cat([tensor.flatten().float() for tensor in tensors])
        torch.distributed.all_reduce(flat)

        sizes = [tensor.numel() for tensor in tensors]
        for tensor, values in zip(tensors, torch.split(flat, sizes), strict=True):
            tensor.copy_(values.view_as(tensor))

    def gather(self, values: Mapping[str, Any]) -> dict[str, Any]:
        from accelerate.utils import gather_object

        pairs: list[tuple[str, Any]] = gather_object(list(values.items()))
        return dict(pairs)


def processes() -> SingleProcess:
    """Return this process's view of the team: `Distributed` under a launcher, else
    `SingleProcess`.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return Distributed() if world_size > 1 else SingleProcess()
