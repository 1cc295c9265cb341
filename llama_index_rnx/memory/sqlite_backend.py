"""Memories in one sqlite file of a local folder."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index_rnx.errors import RNXError, shown
from llama_index_rnx.memory.object_backend import checksum, is_whole
from llama_index_rnx.system import make_file, make_folder

FILE_NAME = "memories.sqlite"


_SCHEMA = "CREATE TABLE IF NOT EXISTS memories (key BLOB PRIMARY KEY, crc INTEGER NOT NULL, data BLOB NOT NULL)"


_KEYS_A_QUERY = 500  # sqlite allows 999 parameters at least


_FAULTS = (
    OSError,
    sqlite3.Error,
    UnicodeDecodeError,
)  # the last: of a damaged file, where a name was


_OPENING = 50  # attempts, a tenth of a second apart: several processes may make the same file


class SqliteBackend:
    """One file, for processes of one machine: sqlite's locks cannot be relied on over a network.

    read_only: the file is read if it is there, and nothing is written; that is expected, so no
    warning says it.
    """

    def __init__(self, folder: Path, read_only: bool = False) -> None:
        self._folder, self._file = folder, folder / FILE_NAME
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._full = read_only
        if read_only:
            self._connection = _read_only(self._file)
        else:
            self._open()

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        rows = self._select(keys, "key, crc, data")
        return {key: data for key, crc, data in rows if is_whole(key, crc, data)}

    def absent(self, keys: Sequence[bytes]) -> list[bytes]:
        if self._connection is None or self._full:
            return []
        there = {row[0] for row in self._select(keys, "key")}
        return [key for key in keys if key not in there]

    def write(self, blobs: Mapping[bytes, bytes]) -> None:
        """One transaction, so all of them or none."""
        rows = [(key, checksum(key, data), data) for key, data in blobs.items()]
        with self._lock:
            if self._connection is None or self._full:
                return
            try:
                with self._connection:  # commits, or rolls back
                    self._connection.executemany(
                        "INSERT OR REPLACE INTO memories VALUES (?, ?, ?)", rows
                    )
            except _FAULTS as error:
                if _is_damage(error):
                    self._give_up(error)
                    return
                self._full = True  # what is there can still be read
                self._warn(error)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _open(self) -> None:
        """A new file in place of a damaged one; a file that cannot be written is read at least."""
        try:
            make_folder(self._folder)
            make_file(self._file)
            self._connection = _opened(self._file)
        except (FileExistsError, NotADirectoryError) as error:
            raise RNXError(
                f"memory_path {str(self._folder)!r} is a file or lies in one; name a folder or an address."
            ) from error
        except _FAULTS as error:
            if _is_damage(error) and self._put_aside(error):
                self._open()
                return
            self._connection = _read_only(self._file)
            self._full = True
            self._warn(error)
        except ValueError as error:  # of a path with a zero byte, or with half a surrogate pair
            raise RNXError(
                f"memory_path {shown(str(self._folder))} is no path ({error}); name a folder or an address."
            ) from error

    def _select(self, keys: Sequence[bytes], columns: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(keys), _KEYS_A_QUERY):
            part = keys[start : start + _KEYS_A_QUERY]
            query = f"SELECT {columns} FROM memories WHERE key IN ({','.join('?' * len(part))})"
            with self._lock:
                if self._connection is None:
                    return []
                try:
                    found += self._connection.execute(query, part).fetchall()
                except _FAULTS as error:
                    self._give_up(error)
                    return []
        return found

    def _give_up(self, error: Exception) -> None:
        """The file failed: from here on nothing is kept. Said once, since it never opens again.

        A damaged file is put aside, so that the next store begins a new one; a disk that failed is
        left as it is.
        """
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        if not _is_damage(error) or not self._put_aside(error):
            self._warn(error)

    def _put_aside(self, error: Exception) -> bool:
        """Renames a damaged file, whether it could be."""
        try:
            self._file.replace(self._file.with_name(f"{FILE_NAME}.damaged"))
            for beside in ("-wal", "-shm"):  # of the damaged file: a new one must not read them
                self._file.with_name(FILE_NAME + beside).unlink(missing_ok=True)
        except OSError:
            return False
        warnings.warn(
            f"the memory store in {self._folder} is damaged ({error}); it is kept as {FILE_NAME}.damaged, its memories are "
            "made again. Look after the disk.",
            RuntimeWarning,
            stacklevel=4,
        )
        return True

    def _warn(self, error: Exception) -> None:
        warnings.warn(
            f"the memory store in {self._folder} cannot be written ({error}); new memories are kept in RAM only. "
            f"{_advice(error)} or choose another memory_path to keep them.",
            RuntimeWarning,
            stacklevel=4,
        )


def _opened(path: Path) -> sqlite3.Connection:
    for _ in range(_OPENING):
        try:
            return _opened_once(path)
        except sqlite3.OperationalError as error:  # to make it a WAL file sqlite waits for nobody
            if "locked" not in str(error):
                raise
            time.sleep(0.1)
    return _opened_once(path)


def _opened_once(path: Path) -> sqlite3.Connection:
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
    """A file on a disk that cannot be written is read as it is; None where it cannot be read
    either.
    """
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        connection.execute("SELECT count(*) FROM memories")
    except sqlite3.Error:
        return None
    return connection


def _advice(error: Exception) -> str:
    forbidden = isinstance(error, OSError) and error.errno in (
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
    )
    return "Make the folder writable" if forbidden or "readonly" in str(error) else "Free the disk"


def _is_damage(error: Exception) -> bool:
    """Whether the file's content is wrong, as opposed to a disk that is full, locked, or gone."""
    return not isinstance(error, OSError | sqlite3.OperationalError)
