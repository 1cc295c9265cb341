"""The store of memories: what a ranker prepared ahead, by content and model. It knows no ranker and
no query.

Kept as safetensors blobs with a checksum each (blobs.py): in a sqlite file of a folder, or as
objects of a shared place. In front of it one LRU in RAM for the whole process. A store that cannot
be read or written says so and goes on in RAM: a memory can always be made again.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from llama_index_rnx.memory.backend import MemoryBackend
from llama_index_rnx.memory.open_backend import backend_at

Memory = Mapping[str, Tensor]

RAM_BYTES = 512 * 2**20


class RamCache:
    """The least recently used memories give way when their tensors exceed `limit` bytes."""

    def __init__(self, limit: int = RAM_BYTES) -> None:
        self.limit = limit
        self._memories: OrderedDict[bytes, Memory] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Memory | None:
        with self._lock:
            memory = self._memories.get(key)
            if memory is not None:
                self._memories.move_to_end(key)
            return memory

    def put(self, key: bytes, memory: Memory) -> None:
        with self._lock:
            self._bytes += _size(memory) - _size(self._memories.pop(key, {}))
            self._memories[key] = memory
            while self._bytes > self.limit and len(self._memories) > 1:
                self._bytes -= _size(self._memories.popitem(last=False)[1])

    def clear(self) -> None:
        with self._lock:
            self._memories.clear()
            self._bytes = 0


RAM = RamCache()

# The stores with a place of their own that are open in this process. A reranker that was given no
# `memory_path` has a store without a place: it looks here, and so finds what a collection prepared
# when it indexed, although neither knows the other. Nobody else reads or writes this set.
OPEN_STORES: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


class MemoryStore:
    """Memories of any ranker, in one place and in RAM; safe for several threads and several
    processes.

    Args:
        path: a folder of this machine, made when missing; or an address with a scheme that many
            machines share: `file:///mnt/shared/memories`, `s3://bucket/memories` and what else
            fsspec knows, set up by its own settings (`FSSPEC_S3_...`, `~/.config/fsspec`). `None`
            keeps nothing, and also reads the stores that are open in this process: so a reranker
            finds what a collection prepared when it indexed.
        read_only: what is in the folder is read, what is new stays in RAM.

    Example:
        >>> import torch
        >>> store = MemoryStore()
        >>> store.keep("my-ranker/1", {"digest of a text": {"vector": torch.ones(2)}})
        >>> found = store.find("my-ranker/1", ["digest of a text", "of another"])  # unknown ones are left out
        >>> {digest: memory["vector"].tolist() for digest, memory in found.items()}
        {'digest of a text': [1.0, 1.0]}
        >>> store.find("my-ranker/2", ["digest of a text"])  # another model remembers differently
        {}
    """

    def __init__(self, path: str | Path | None = None, read_only: bool = False) -> None:
        self.path, self.read_only = path, read_only
        self._blobs: MemoryBackend | None = None
        if path is not None:
            self._blobs = backend_at(path, read_only)
            OPEN_STORES.add(self)

    def __reduce__(self) -> tuple[type[MemoryStore], tuple[str | Path | None, bool]]:
        """A copy is another store of the same place."""
        return type(self), (self.path, self.read_only)

    def find(self, fingerprint: str, digests: Sequence[str]) -> dict[str, Memory]:
        """Return what the ranker with this fingerprint remembers of these contents, by digest;
        unknown contents are left out. Nothing is written to the store's place.
        """
        keys = {_key(fingerprint, digest): digest for digest in digests}
        memories = {key: memory for key in keys if (memory := RAM.get(key)) is not None}
        stores = [self] if self._blobs is not None else list(OPEN_STORES)
        for store in stores:
            stored = store._read([key for key in keys if key not in memories])
            for key, memory in stored.items():
                RAM.put(key, memory)
            memories.update(stored)
        return {keys[key]: memory for key, memory in memories.items()}

    def persist(self, fingerprint: str, memories: Mapping[str, Memory]) -> None:
        """Write the memories (digest -> memory) that this store's place lacks: `find` may have
        found them in RAM, where another store put them. Without a place nothing happens.
        """
        if self._blobs is None:
            return
        keyed = {_key(fingerprint, digest): memory for digest, memory in memories.items()}
        self._write({key: keyed[key] for key in self._blobs.absent(list(keyed))})

    def keep(self, fingerprint: str, memories: Mapping[str, Memory]) -> None:
        """Remembers (digest -> memory), in RAM and in its place."""
        keyed = {_key(fingerprint, digest): memory for digest, memory in memories.items()}
        for key, memory in keyed.items():
            RAM.put(key, memory)
        self._write(keyed)

    def close(self) -> None:
        """Lets go of its place; the store goes on in RAM."""
        if self._blobs is not None:
            self._blobs.close()

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Memory]:
        blobs = self._blobs.read(keys) if self._blobs is not None and keys else {}
        return {key: memory for key, data in blobs.items() if (memory := _loaded(data)) is not None}

    def _write(self, memories: Mapping[bytes, Memory]) -> None:
        if self._blobs is not None and memories:
            self._blobs.write({key: save(dict(memory)) for key, memory in memories.items()})


def _key(fingerprint: str, digest: str) -> bytes:
    return hashlib.sha256(f"{fingerprint}\n{digest}".encode()).digest()


def _loaded(data: bytes) -> Memory | None:
    """A blob that is no memory counts as unknown: it is made again and replaced."""
    try:
        memory: Memory = load(data)
    except SafetensorError:
        return None
    return memory


def _size(memory: Memory) -> int:
    return sum(tensor.nbytes for tensor in memory.values())
