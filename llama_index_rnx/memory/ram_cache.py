"""The memories in RAM, of the whole process, the most recently used ones. It knows no files."""

from __future__ import annotations

import threading

from cachetools import LRUCache

from llama_index_rnx.memory.arrays import Memory

RAM_BYTES = 512 * 2**20


class RamCache:
    """Memories by key, for several threads. The least recently used ones give way when the arrays
    exceed `limit` bytes; a single memory that is larger than that is kept alone.
    """

    def __init__(self, limit: int = RAM_BYTES) -> None:
        self.limit = limit
        self._memories: LRUCache[bytes, Memory] = LRUCache(limit, getsizeof=self._size)
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Memory | None:
        """Return a memory, which is the most recently used one now; None if it is not here."""
        with self._lock:
            return self._memories.get(key)

    def put(self, key: bytes, memory: Memory) -> None:
        """Keep a memory, in place of an earlier one with this key."""
        with self._lock:
            self._memories[key] = memory

    def clear(self) -> None:
        """Forget all memories."""
        with self._lock:
            self._memories.clear()

    def _size(self, memory: Memory) -> int:
        """Return the bytes of a memory; at most `limit`, since cachetools refuses larger values."""
        size: int = sum(array.nbytes for array in memory.values())
        return min(self.limit, size)


RAM = RamCache()
