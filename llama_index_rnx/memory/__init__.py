"""The store of memories, which rankers compute ahead, by content and model. It knows no ranker and
no query.
"""

from llama_index_rnx.memory.arrays import Array, Framework, Memory, are_memories, imported_torch
from llama_index_rnx.memory.ram_cache import RAM, RamCache
from llama_index_rnx.memory.sqlite_backend import FILE_NAME
from llama_index_rnx.memory.store import MemoryStore

__all__ = [
    "FILE_NAME",
    "RAM",
    "Array",
    "Framework",
    "Memory",
    "MemoryStore",
    "RamCache",
    "are_memories",
    "imported_torch",
]
