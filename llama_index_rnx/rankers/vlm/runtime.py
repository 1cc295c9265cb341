"""The state that all rankers over one loaded model share: its lock, budgets that shrink when memory
runs out, warnings that are given once. It knows neither prompts nor scores.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Hashable

# Patches that go through the vision tower at once.
PATCH_BUDGETS = {"cuda": 65_536, "mps": 16_384, "cpu": 8_192}

# Positions that go through the language model at once, padding counted.
TOKEN_BUDGETS = {"cuda": 65_536, "mps": 16_384, "cpu": 8_192}

# Bytes of images that stay on the device between windows and calls; a CPU gains nothing by it.
IMAGE_CACHE_BYTES = {"cuda": 2 * 2**30, "mps": 2**30, "cpu": 0}


class Runtime:
    """The state of one loaded model that changes while it is used.

    Args:
        name: of the model, for warnings.
        device: `cuda`, `mps`, `cpu`, or another kind, which is treated as `cpu`.

    Attributes:
        lock: held by whoever uses the tokenizer, the vision tower or the language model.
        patch_budget, token_budget: patches and positions of one forward.
        image_cache_bytes: bytes of images that stay on the device.
        max_candidates: how many candidates fit into one forward; None until a window did not fit.
    """

    def __init__(self, name: str, device: str) -> None:
        kind = device if device in TOKEN_BUDGETS else "cpu"
        self.lock = threading.RLock()
        self.patch_budget = PATCH_BUDGETS[kind]
        self.token_budget = TOKEN_BUDGETS[kind]
        self.image_cache_bytes = IMAGE_CACHE_BYTES[kind]
        self.max_candidates: int | None = None
        self.name = name
        self._warned: set[Hashable] = set()

    def shrink_token_budget(self) -> None:
        """Halve the positions of one forward, after it did not fit."""
        self.token_budget = max(1, self.token_budget // 2)
        self.warn_once(
            "batch", "out of memory; from now on smaller batches are read, which takes longer."
        )

    def shrink_patch_budget(self) -> None:
        """Halve the patches of one run of the vision tower, after they did not fit."""
        self.patch_budget = max(1, self.patch_budget // 2)
        self.warn_once(
            "vision",
            "out of memory in the vision tower; from now on it sees fewer images at once.",
        )

    def shrink_window(self, count: int) -> None:
        """Note that a window of `count` candidates did not fit: the next ones are half as large."""
        self.max_candidates = max(2, count // 2)
        self.warn_once(
            "window",
            f"out of memory; from now on {self.max_candidates} candidates are read at once.",
        )

    def warn_once(self, key: Hashable, text: str) -> None:
        """Give a warning, unless one of this key was given before."""
        if key in self._warned:
            return
        self._warned.add(key)
        warnings.warn(f"{self.name}: {text}", RuntimeWarning, stacklevel=2)
