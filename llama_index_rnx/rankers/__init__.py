"""The models that score lists, and `load_ranker`, which loads one by its name. They know no
nodes.
"""

from typing import TYPE_CHECKING, Any

from llama_index_rnx import moved
from llama_index_rnx.rankers.auto import load_ranker
from llama_index_rnx.rankers.remote import RemoteRanker

__all__ = [
    "RemoteRanker",
    "load_ranker",
]

if not TYPE_CHECKING:  # A type checker that saw this would accept every name.

    def __getattr__(name: str) -> Any:
        """Return what an old name of this room stands for (PEP 562)."""
        return moved.old_name(__name__, name)
