"""Keeps old names of modules, as `llama_index_rnx.files`, and of what is in them working until 1.0.
It imports nothing until one of them is used.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Each old module, and the module or the room that holds its public names now, both relative to the
# package.
MOVED = {
    "bm25": "text.bm25",
    "checkup": "batch",
    "demo_corpus": "demo",
    "display": "results",
    "explain": "results",
    "extract": "chat",
    "fetch": "network",
    "files": "ingestion",
    "hits": "results",
    "lists": "batch",
    "llms": "chat",
    "ordering": "ranking",
    "progress": "console",
    "qdrant": "collection",
    "rankers.backbones": "rankers.vlm",
    "rankers.base": "ranking",
    "rankers.calibration": "ranking",
    "rankers.checkpoints": "rankers.vlm",
    "rankers.doctor": "rankers.vlm",
    "rankers.loading": "rankers.vlm",
    "rankers.prompt": "rankers.vlm",
    "rankers.recipes": "rankers.vlm",
    "rankers.tiny": "rankers.vlm.tiny",
    "report": "results",
    "scheduler": "ranking",
    "sentences": "text",
    "serve": "server",
    "shares": "ingestion",
    "storage": "collection",
    "trec": "batch",
}

# Each old name of a function or class, by the module or the room that answers for it, and the room
# and the name that it has now.
RENAMED = {
    ("batch", "examine"): ("batch", "diagnose_checkpoint"),
    ("batch", "needs_none"): ("batch", "skip_reason"),
    ("chat", "Failed"): ("chat", "FailedEvent"),
    ("chat", "Found"): ("chat", "RetrievedEvent"),
    ("chat", "Said"): ("chat", "TextEvent"),
    ("demo", "PICTURE_QUERY"): ("demo", "IMAGE_QUERY"),
    ("rankers", "BatchRanker"): ("ranking", "BatchRanker"),
    ("rankers", "Ranker"): ("ranking", "Ranker"),
    ("rankers", "recall"): ("ranking", "get_or_compute_memories"),
    ("ranking", "Ask"): ("ranking", "ScoringRequest"),
    ("ranking", "Recalled"): ("ranking", "UsableMemories"),
    ("ranking", "SharedRanker"): ("ranking", "BatchingRanker"),
    ("ranking", "drive"): ("ranking", "run_plan"),
    ("ranking", "drive_all"): ("ranking", "run_plans"),
    ("ranking", "parallel"): ("ranking", "parallel_windows"),
    ("ranking", "recall"): ("ranking", "get_or_compute_memories"),
    ("ranking", "recall_usable"): ("ranking", "get_usable_memories"),
    ("ranking", "sliding"): ("ranking", "sliding_windows"),
    ("rerank", "rank"): ("ranking", "rank"),
}


def old_name(module: str, name: str) -> Any:
    """Return what an old name of a module stands for, and name the new one in a DeprecationWarning.

    Args:
        module: the full name of the module that was asked for it.
        name: the name that this module does not have.

    Raises:
        AttributeError: it never had that name.
    """
    package, _, room = module.partition(".")
    if (room, name) not in RENAMED:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    new_room, new_name = RENAMED[room, name]
    target = f"{package}.{new_room}"
    warnings.warn(
        f"{module}.{name} is {target}.{new_name} now; the old name goes with version 1.0.",
        DeprecationWarning,
        stacklevel=3,
    )
    return getattr(import_module(target), new_name)


class MovedModule(ModuleType):
    """A stand-in for a module that has moved: each of its names comes from where it is now."""

    def __init__(self, name: str, target: str) -> None:
        super().__init__(name)
        self.target = target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        module = import_module(self.target)
        return getattr(module, name) if hasattr(module, name) else old_name(self.target, name)


class MovedFinder(MetaPathFinder, Loader):
    """Finds the modules of `MOVED` by their old names, and names the new ones in a
    DeprecationWarning.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return a spec for an old name, None for every other one."""
        package, _, name = fullname.partition(".")
        if package != __package__ or name not in MOVED:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a stand-in for the old module."""
        package, _, name = spec.name.partition(".")
        target = f"{package}.{MOVED[name]}"
        warnings.warn(
            f"{spec.name} has moved: import from {target}; the old name goes with version 1.0.",
            DeprecationWarning,
            stacklevel=2,
        )
        return MovedModule(spec.name, target)

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing: the stand-in has no code of its own."""


def install() -> None:
    """Tell the import system the old names; a second call changes nothing."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
