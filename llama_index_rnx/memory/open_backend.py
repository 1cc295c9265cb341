"""Opens the backend that a path asks for: a folder, or an address. It reads and writes nothing."""

from __future__ import annotations

from pathlib import Path

from llama_index_rnx.memory.backend import MemoryBackend
from llama_index_rnx.memory.object_backend import ObjectBackend
from llama_index_rnx.memory.sqlite_backend import SqliteBackend


def open_backend(path: str | Path, read_only: bool = False) -> MemoryBackend:
    """Open a sqlite file in a folder, or objects at an address with a scheme:
    `s3://bucket/memories`, `file:///mnt/shared/memories`.

    Raises:
        SettingsError: the scheme is unknown, its package is not installed, or the path is none.
        StorageError: a file stands where the folder should be.
    """
    if isinstance(path, str) and "://" in path:
        return ObjectBackend(path)

    return SqliteBackend(Path(path), read_only)
