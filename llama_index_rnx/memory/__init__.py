"""The store of memories: what a ranker prepared ahead, by content and model. It knows no ranker and
no query.
"""

from llama_index_rnx.memory.sqlite_backend import FILE_NAME
from llama_index_rnx.memory.store import RAM, Memory, MemoryStore, RamCache

__all__ = [
    "FILE_NAME",
    "RAM",
    "Memory",
    "MemoryStore",
    "RamCache",
]
