"""Indexes in folders: who has one open, which engine reads it, and what is done before it opens. It
knows no nodes and no vectors.

A folder is locked as long as it is open. Qdrant Edge has a folder of its own inside it; what local
mode of earlier versions left there is converted once. Both write to what they open, so an index
that cannot be written is copied to a temporary folder.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from qdrant_client import QdrantClient

from llama_index_rnx.collection.connection import MEMORY, Connection
from llama_index_rnx.collection.local_mode import (
    COLLECTIONS,
    LocalConnection,
    open_local_mode,
)
from llama_index_rnx.collection.schema import EDGE, META, holds_index
from llama_index_rnx.errors import SettingsError, StorageError, one_line
from llama_index_rnx.system import (
    FolderInUseError,
    FolderLock,
    TemporaryFolder,
    copy_sparse,
    size_on_disk,
)

_LOCK = ".lock"
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

# What a damaged file may raise.
_DAMAGES = (OSError, sqlite3.Error, ValueError, TypeError, LookupError, AttributeError)
log = logging.getLogger(__name__)

# The folders that are open in this process: a cell of a notebook may well run twice.
# A fork has none of them.
_connections: weakref.WeakValueDictionary[tuple[int, Path], Connection] = (
    weakref.WeakValueDictionary()
)
_opening = threading.Lock()


def has_edge() -> bool:
    """Return whether Qdrant Edge is installed: it has no wheel for macOS on Intel, nor for Linux
    with musl.
    """
    return find_spec("qdrant_edge") is not None


def open_memory() -> Connection:
    """Return an empty engine whose points end with it."""
    if not has_edge():
        return LocalConnection(QdrantClient(MEMORY, force_disable_check_same_thread=True), MEMORY)
    from llama_index_rnx.collection.edge_connection import EdgeConnection

    folder = TemporaryFolder()
    return EdgeConnection(folder.path, MEMORY, on_close=folder.remove)


def open_folder(folder: Path) -> Connection:
    """Return the connection to a folder, one for a process.

    Args:
        folder: an absolute path; made when missing.

    Raises:
        SettingsError: it is a file.
        StorageError: another process has it open, or it is damaged.
    """
    with _opening:
        connection = _connections.get((os.getpid(), folder))
        if connection is None:
            connection = _open_new(folder)
            _connections[os.getpid(), folder] = connection
        return connection


def _open_new(folder: Path) -> Connection:
    if folder.exists() and not folder.is_dir():
        raise SettingsError(
            f"{folder} is a file; an index is a folder, :memory:, or the URL of a Qdrant server."
        )
    try:
        return _open_copy(folder) if is_read_only(folder) else _open(folder)
    except StorageError:
        raise
    except FolderInUseError as error:
        raise StorageError(
            f"the index in {folder} is in use by {error}; "
            "wait for it, or run a Qdrant server and give its URL."
        ) from error
    except _DAMAGES as error:
        advice = "make room on a full disk"
        if isinstance(error, OSError) and error.errno in _READ_ONLY:
            advice = "make the folder readable and writable"
        raise StorageError(
            f"the index in {folder} cannot be opened ({one_line(error)}); {advice}, "
            "or index again into a new folder."
        ) from error


def is_read_only(folder: Path) -> bool:
    """Return whether a folder holds an index of which this process may not write every file."""
    if not holds_index(folder):
        return False
    paths = [folder, folder / _LOCK, folder / META, folder / EDGE]
    for pattern in (f"{EDGE}/*/*", f"{COLLECTIONS}/*/*"):
        paths += folder.glob(pattern)
    return not all(os.access(path, os.W_OK) for path in paths if path.exists())


def _open(folder: Path) -> Connection:
    """Return the connection to a folder that can be written."""

    def forget() -> None:
        _connections.pop((os.getpid(), folder), None)

    if has_edge():
        return _open_edge(folder, str(folder), read_only=False, on_close=forget)
    return _open_local_mode(folder, forget)


def _open_copy(folder: Path) -> Connection:
    """Return the connection to a copy of a folder that cannot be written."""
    sources = [folder / name for name in (EDGE, META, COLLECTIONS) if (folder / name).exists()]
    copy = TemporaryFolder()
    log.warning(
        "the index in %s is read-only: its %.0f MiB are copied to %s to be opened; "
        "a writable folder would save that.",
        folder,
        sum(map(size_on_disk, sources)) / 2**20,
        copy.path,
    )
    try:
        for source in sources:
            copy_sparse(source, copy.path / source.name)
    except OSError as error:
        copy.remove()
        raise StorageError(
            f"the index in {folder} is read-only and cannot be copied ({one_line(error)}); "
            "name a folder with more room in TMPDIR, or make the index writable."
        ) from error

    def forget() -> None:
        _connections.pop((os.getpid(), folder), None)
        copy.remove()

    if has_edge():
        return _open_edge(copy.path, str(folder), read_only=True, on_close=forget)
    return _open_local_mode(copy.path, forget)


def _open_edge(
    folder: Path, where: str, read_only: bool, on_close: Callable[[], None]
) -> Connection:
    from llama_index_rnx.collection.conversion import convert, needs_conversion, remove_converted
    from llama_index_rnx.collection.edge_connection import EdgeConnection

    lock = FolderLock(folder / _LOCK)

    def close() -> None:
        lock.release()
        on_close()

    try:
        if needs_conversion(folder):
            convert(folder)
        remove_converted(folder)
        return EdgeConnection(folder / EDGE, where, read_only, close)
    except BaseException:
        close()
        raise


def _open_local_mode(folder: Path, on_close: Callable[[], None]) -> Connection:
    """Return the connection to a folder where there is no better engine."""
    if (folder / EDGE).is_dir():
        raise StorageError(
            f"the index in {folder} was made by Qdrant Edge, which is not installed; "
            "run `pip install qdrant-edge-py`, or index again into a new folder."
        )
    log.warning(
        "there is no Qdrant Edge for this platform, so %s is searched point by point; "
        "a Qdrant server answers in milliseconds.",
        folder,
    )
    try:
        client = open_local_mode(folder)
    except RuntimeError as error:
        raise FolderInUseError("another process") from error
    return LocalConnection(client, str(folder), folder=folder, on_close=on_close)
