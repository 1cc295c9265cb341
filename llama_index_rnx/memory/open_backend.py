"""The backend that a place asks for: a folder, or an address."""

from __future__ import annotations

from pathlib import Path

from llama_index_rnx.memory.backend import MemoryBackend
from llama_index_rnx.memory.object_backend import ObjectBackend
from llama_index_rnx.memory.sqlite_backend import SqliteBackend


def backend_at(path: str | Path, read_only: bool = False) -> MemoryBackend:
    """A sqlite file in a folder, or objects at an address with a scheme: `s3://bucket/memories`,
    `file:///mnt/shared/memories`.

    Raises:
        RNXError: no such scheme, or its package is not installed; a file stands where the folder
            should.
    """
    return (
        ObjectBackend(path)
        if isinstance(path, str) and "://" in path
        else SqliteBackend(Path(path), read_only)
    )
