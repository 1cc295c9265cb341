"""The models that score lists, and `load_ranker`, which loads one by its name. They know no
nodes.
"""

from llama_index_rnx.rankers.auto import load_ranker
from llama_index_rnx.rankers.remote import RemoteRanker

__all__ = [
    "RemoteRanker",
    "load_ranker",
]
