"""The models that score lists, and `load_ranker`, which finds one by its name. They know no nodes."""

from llama_index_rnx.rankers.auto import load_ranker
from llama_index_rnx.rankers.remote import RemoteRanker
from llama_index_rnx.ranking import BatchRanker, Ranker, recall

__all__ = [
    "BatchRanker",
    "Ranker",
    "RemoteRanker",
    "load_ranker",
    "recall",
]
