"""The store of memories, which rankers compute ahead, by content and model. It knows no ranker and
no query.

Each memory is a safetensors value with a checksum, in a sqlite file of a folder or as an object at
an address (`backend.py`). In front of it is one LRU cache in RAM for the whole process. A store
that cannot be read or written warns and goes on in RAM: a memory can always be computed again.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from llama_index_rnx.memory.arrays import Framework, Memory, decode, encode
from llama_index_rnx.memory.backend import MemoryBackend
from llama_index_rnx.memory.open_backend import open_backend
from llama_index_rnx.memory.ram_cache import RAM

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
        read_only: read what is in the folder, and keep what is new in RAM only.

    Raises:
        SettingsError: `path` has an unknown scheme, its package is not installed, or it is no path.
        StorageError: `path` is a file, or lies in one.

    Example:
        >>> import numpy as np
        >>> store = MemoryStore()
        >>> store.keep("my-ranker/1", {"digest of a text": {"vector": np.ones(2)}})
        >>> # Unknown ones are left out.
        >>> memories = store.find("my-ranker/1", ["digest of a text", "of another"], "np")
        >>> {digest: memory["vector"].tolist() for digest, memory in memories.items()}
        {'digest of a text': [1.0, 1.0]}
        >>> # Another model remembers differently.
        >>> store.find("my-ranker/2", ["digest of a text"])
        {}
    """

    def __init__(self, path: str | Path | None = None, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self._backend: MemoryBackend | None = None
        if path is not None:
            self._backend = open_backend(path, read_only)
            OPEN_STORES.add(self)

    def __reduce__(self) -> tuple[type[MemoryStore], tuple[str | Path | None, bool]]:
        """Make a copy another store of the same path."""
        return type(self), (self.path, self.read_only)

    def find(
        self, fingerprint: str, digests: Sequence[str], framework: Framework = "pt"
    ) -> dict[str, Memory]:
        """Return what the ranker with this fingerprint remembers of these contents, by digest;
        unknown contents are left out. Nothing is written to the store's place.

        Args:
            framework: what the ranker computes with, arrays of numpy ("np") or tensors of torch
                ("pt"). What is in RAM comes as the ranker gave it.
        """
        keys = {_key(fingerprint, digest): digest for digest in digests}
        memories = {key: memory for key in keys if (memory := RAM.get(key)) is not None}
        stores = [self] if self._backend is not None else list(OPEN_STORES)
        for store in stores:
            missing = [key for key in keys if key not in memories]
            stored = store._read(missing, framework)
            for key, memory in stored.items():
                RAM.put(key, memory)
            memories.update(stored)
        return {keys[key]: memory for key, memory in memories.items()}

    def persist(self, fingerprint: str, memories: Mapping[str, Memory]) -> None:
        """Write the memories (digest -> memory) that this store's place lacks: `find` may have
        found them in RAM, where another store put them. Without a place nothing happens.
        """
        if self._backend is None:
            return
        keyed = {_key(fingerprint, digest): memory for digest, memory in memories.items()}
        self._write({key: keyed[key] for key in self._backend.missing_keys(list(keyed))})

    def keep(self, fingerprint: str, memories: Mapping[str, Memory]) -> None:
        """Keep memories (digest -> memory), in RAM and in the store."""
        keyed = {_key(fingerprint, digest): memory for digest, memory in memories.items()}
        for key, memory in keyed.items():
            RAM.put(key, memory)
        self._write(keyed)

    def close(self) -> None:
        """Close the backend; the store goes on in RAM."""
        if self._backend is not None:
            self._backend.close()

    def _read(self, keys: Sequence[bytes], framework: Framework) -> dict[bytes, Memory]:
        if self._backend is None or not keys:
            return {}

        values = self._backend.read(keys)
        memories = {key: decode(data, framework) for key, data in values.items()}
        return {key: memory for key, memory in memories.items() if memory is not None}

    def _write(self, memories: Mapping[bytes, Memory]) -> None:
        if self._backend is not None and memories:
            self._backend.write({key: encode(memory) for key, memory in memories.items()})


def _key(fingerprint: str, digest: str) -> bytes:
    return hashlib.sha256(f"{fingerprint}\n{digest}".encode()).digest()
