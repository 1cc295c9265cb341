"""Memories as bytes: arrays of numpy or tensors of torch, in safetensors' format. It imports torch
only where a tensor is asked for, and knows no ranker.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

# The names of safetensors: numpy's arrays ("np") or torch's tensors ("pt"). Both have the same
# bytes, so what one of them wrote the other reads.
Framework = Literal["np", "pt"]

# An array of numpy, or a tensor of torch on the CPU. A ranker gets no other memories than its own,
# so it knows which; nothing between its two verbs needs to.
Array = Any
Memory = Mapping[str, Array]

# What numpy and safetensors both know.
_NUMPY_DTYPES = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "float32", "float64",
}  # fmt: skip


def imported_torch() -> ModuleType | None:
    """Return torch if something in this process has imported it. Without it there are no tensors
    and no threads of its own, and to import it takes seconds.
    """
    if sys.modules.get("torch") is None:
        return None
    # Another thread may be in the midst of importing it: this waits for its end.
    return import_module("torch")


def are_memories(values: Iterable[Any]) -> bool:
    """Return whether each of the values is a memory: it maps names to arrays of numpy, of a dtype
    that can be stored, or to tensors of torch; not to both.
    """
    return all(_is_memory(value) for value in values)


def encode(memory: Memory) -> bytes:
    """Return the bytes of a memory."""
    if _are_numpy(list(memory.values())):
        # The format holds rows one after the other; `asarray` copies only what is stored otherwise.
        rows = {name: np.asarray(array, order="C") for name, array in memory.items()}
        return safetensors_numpy.save(rows)

    from safetensors.torch import save

    return save(dict(memory))


def decode(data: bytes, framework: Framework) -> Memory | None:
    """Return a memory; None for data that is none, or that numpy has no dtype for, so that it is
    computed again and replaced.
    """
    try:
        if framework == "np":
            return safetensors_numpy.load(data)

        from safetensors.torch import load

        tensors: Memory = load(data)
    except (SafetensorError, KeyError):
        return None
    return tensors


def _is_memory(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    arrays = list(value.values())
    return _are_numpy(arrays) or _are_tensors(arrays)


def _are_numpy(arrays: list[Any]) -> bool:
    return all(isinstance(each, np.ndarray) and each.dtype.name in _NUMPY_DTYPES for each in arrays)


def _are_tensors(arrays: list[Any]) -> bool:
    torch = imported_torch()
    return torch is not None and all(isinstance(each, torch.Tensor) for each in arrays)
