"""The store of memories: what a ranker prepared ahead, by content and model. It knows no ranker and no query.

Disk: one sqlite file of safetensors blobs, each with a checksum. In front of it one LRU in RAM for the whole process.
A store that cannot write (read-only or full disk) says so once and goes on in RAM: a memory can always be made again.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import warnings
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

Memory = Mapping[str, Tensor]

RAM_BYTES = 512 * 2**20
FILE_NAME = "memories.sqlite"
_SCHEMA = "CREATE TABLE IF NOT EXISTS memories (key BLOB PRIMARY KEY, crc INTEGER NOT NULL, data BLOB NOT NULL)"
_KEYS_A_QUERY = 500  # sqlite allows 999 parameters at least
_FAULTS = (OSError, sqlite3.Error, UnicodeDecodeError)  # the last: of a damaged file, where a name was


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
_open_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


class MemoryStore:
    """Memories of any ranker, in a folder and in RAM; safe for several threads and several processes.

    Args:
        path: a folder, made when missing. `None` writes nothing to disk, and also reads the folders of the stores that
            are open in this process: so a reranker finds what a collection prepared when it indexed.

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

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._full = False
        if self.path is not None:
            self._open(self.path)
            _open_stores.add(self)

    def find(self, fingerprint: str, digests: Sequence[str]) -> dict[str, Memory]:
        """What is remembered of these contents by the ranker with this fingerprint; unknown ones are left out."""
        keys = {_key(fingerprint, digest): digest for digest in digests}
        found = {key: memory for key in keys if (memory := RAM.get(key)) is not None}
        self._write({key: found[key] for key in self._absent(list(found))})  # another store may have put them into RAM
        for store in [self] if self.path is not None else list(_open_stores):
            on_disk = store._read([key for key in keys if key not in found])
            for key, memory in on_disk.items():
                RAM.put(key, memory)
            found.update(on_disk)
        return {keys[key]: memory for key, memory in found.items()}

    def keep(self, fingerprint: str, memories: Mapping[str, Memory]) -> None:
        """Remembers (digest -> memory), in RAM and on disk; one transaction, so all of them or none."""
        keyed = {_key(fingerprint, digest): memory for digest, memory in memories.items()}
        for key, memory in keyed.items():
            RAM.put(key, memory)
        self._write(keyed)

    def close(self) -> None:
        """Closes the file; the store goes on in RAM."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _open(self, folder: Path) -> None:
        """A new file in place of a damaged one; a file that cannot be written is read at least."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = _opened(folder / FILE_NAME)
        except _FAULTS as error:
            if _is_damage(error) and self._put_aside(folder / FILE_NAME, error):
                self._open(folder)
                return
            self._connection = _read_only(folder / FILE_NAME)
            self._full = True
            self._warn(error)

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Memory]:
        found: dict[bytes, Memory] = {}
        for start in range(0, len(keys), _KEYS_A_QUERY):
            part = keys[start : start + _KEYS_A_QUERY]
            for key, crc, data in self._select(part, "key, crc, data"):
                memory = _checked(key, crc, data)
                if memory is not None:
                    found[key] = memory
        return found

    def _select(self, keys: Sequence[bytes], columns: str) -> list[tuple[Any, ...]]:
        marks = ",".join("?" * len(keys))
        with self._lock:
            if self._connection is None:
                return []
            try:
                query = f"SELECT {columns} FROM memories WHERE key IN ({marks})"
                return self._connection.execute(query, keys).fetchall()
            except _FAULTS as error:
                self._give_up(error)
                return []

    def _absent(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those that could be written, and are not on this disk."""
        if self._connection is None or self._full:
            return []
        there = {
            row[0]
            for start in range(0, len(keys), _KEYS_A_QUERY)
            for row in self._select(keys[start : start + _KEYS_A_QUERY], "key")
        }
        return [key for key in keys if key not in there]

    def _write(self, memories: Mapping[bytes, Memory]) -> None:
        if not memories:
            return
        rows = [(key, _checksum(key, data), data) for key, memory in memories.items() for data in [save(dict(memory))]]
        with self._lock:
            if self._connection is None or self._full:
                return
            try:
                with self._connection:  # commits, or rolls back
                    self._connection.executemany("INSERT OR REPLACE INTO memories VALUES (?, ?, ?)", rows)
            except _FAULTS as error:
                if _is_damage(error):
                    self._give_up(error)
                    return
                self._full = True  # what is there can still be read
                self._warn(error)

    def _give_up(self, error: Exception) -> None:
        """The file failed: from here on this store lives in RAM. Said once, since it never opens again.

        A damaged file is put aside, so that the next store begins a new one; a disk that failed is left as it is.
        """
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        if not _is_damage(error) or self.path is None or not self._put_aside(self.path / FILE_NAME, error):
            self._warn(error)

    def _put_aside(self, file: Path, error: Exception) -> bool:
        """Renames a damaged file, whether it could be."""
        try:
            file.replace(file.with_name(f"{FILE_NAME}.damaged"))
            for beside in ("-wal", "-shm"):  # of the damaged file: a new one must not read them
                file.with_name(FILE_NAME + beside).unlink(missing_ok=True)
        except OSError:
            return False
        warnings.warn(
            f"the memory store in {self.path} is damaged ({error}); it is kept as {FILE_NAME}.damaged, its memories are made "
            "again. Look after the disk.",
            RuntimeWarning,
            stacklevel=4,
        )
        return True

    def _warn(self, error: Exception) -> None:
        warnings.warn(
            f"the memory store in {self.path} cannot be written ({error}); new memories are kept in RAM only. "
            "Free the disk or choose another memory_path to keep them.",
            RuntimeWarning,
            stacklevel=3,
        )


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(_SCHEMA)
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _read_only(path: Path) -> sqlite3.Connection | None:
    """A file on a disk that cannot be written is read as it is; None where it cannot be read either."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        connection.execute("SELECT count(*) FROM memories")
    except sqlite3.Error:
        return None
    return connection


def _key(fingerprint: str, digest: str) -> bytes:
    return hashlib.sha256(f"{fingerprint}\n{digest}".encode()).digest()


def _checksum(key: bytes, data: bytes) -> int:
    """Of both: a damaged index of the file could lead from one key to another's data."""
    return zlib.crc32(data, zlib.crc32(key))


def _is_damage(error: Exception) -> bool:
    """Whether the file's content is wrong, as opposed to a disk that is full, locked, or gone."""
    return not isinstance(error, OSError | sqlite3.OperationalError)


def _checked(key: Any, crc: Any, data: Any) -> Memory | None:
    """A memory that was damaged on disk counts as unknown: it is made again and replaced."""
    if not isinstance(key, bytes) or not isinstance(data, bytes) or _checksum(key, data) != crc:
        return None
    try:
        memory: Memory = load(data)
    except SafetensorError:
        return None
    return memory


def _size(memory: Memory) -> int:
    return sum(tensor.nbytes for tensor in memory.values())
