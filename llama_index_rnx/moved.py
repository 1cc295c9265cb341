"""Keeps old names of modules, as `llama_index_rnx.files`, working until 1.0. It imports nothing
until one of them is used.
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


class MovedModule(ModuleType):
    """A stand-in for a module that has moved: each of its names comes from where it is now."""

    def __init__(self, name: str, target: str) -> None:
        super().__init__(name)
        self.target = target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(self.target), name)


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
