"""Memories in one sqlite file of a local folder. It knows no tensors."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index_rnx.errors import SettingsError, StorageError, shown
from llama_index_rnx.memory.checksums import checksum, is_intact
from llama_index_rnx.system import make_file, make_folder

FILE_NAME = "memories.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS memories (key BLOB PRIMARY KEY, crc INTEGER NOT NULL, data BLOB NOT NULL)
"""

# SQLite allows 999 parameters at least.
_KEYS_PER_QUERY = 500

# A UnicodeDecodeError comes from a damaged file, where a name was.
_STORAGE_ERRORS = (OSError, sqlite3.Error, UnicodeDecodeError)

# Several processes may create the same file at once; each tries again for five seconds.
_CONNECT_ATTEMPTS = 50
_CONNECT_DELAY_SECONDS = 0.1


class SqliteBackend:
    """One file for the processes of one machine: sqlite's locks are unreliable over a network.

    Args:
        folder: where the file is, or will be.
        read_only: read the file if it exists, and write nothing. That is expected, so there is no
            warning.

    Raises:
        StorageError: `folder` is a file, or lies in one.
        SettingsError: `folder` is no path.
    """

    def __init__(self, folder: Path, read_only: bool = False) -> None:
        self._folder = folder
        self._file = folder / FILE_NAME
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._is_read_only = read_only

        if read_only:
            self._connection = _connect_read_only(self._file)
        else:
            self._open()

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that are stored and undamaged; none after a failure."""
        rows = self._select(keys, "key, crc, data")
        return {key: data for key, crc, data in rows if is_intact(key, crc, data)}

    def missing_keys(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the keys that are not stored; none while nothing can be written."""
        if self._connection is None or self._is_read_only:
            return []

        stored = {row[0] for row in self._select(keys, "key")}
        return [key for key in keys if key not in stored]

    def write(self, values: Mapping[bytes, bytes]) -> None:
        """Store these values in one transaction: all of them or none. If that fails, warn once."""
        rows = [(key, checksum(key, data), data) for key, data in values.items()]
        with self._lock:
            if self._connection is None or self._is_read_only:
                return
            try:
                # The block commits, or rolls back.
                with self._connection:
                    self._connection.executemany(
                        "INSERT OR REPLACE INTO memories VALUES (?, ?, ?)", rows
                    )
            except _STORAGE_ERRORS as error:
                if _is_damage(error):
                    self._disable(error)
                    return
                # Memories that are stored already can still be read.
                self._is_read_only = True
                self._warn(error)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _open(self) -> None:
        """Open the file, a new one in place of a damaged one; if it cannot be written, read it."""
        try:
            make_folder(self._folder)
            make_file(self._file)
            self._connection = _connect(self._file)
        except (FileExistsError, NotADirectoryError) as error:
            raise StorageError(
                f"memory_path {str(self._folder)!r} is a file or lies in one; "
                "name a folder or an address."
            ) from error
        except _STORAGE_ERRORS as error:
            if _is_damage(error) and self._quarantine(error):
                self._open()
                return
            self._connection = _connect_read_only(self._file)
            self._is_read_only = True
            self._warn(error)
        # The path has a zero byte, or half a surrogate pair.
        except ValueError as error:
            raise SettingsError(
                f"memory_path {shown(str(self._folder))} is no path ({error}); "
                "name a folder or an address."
            ) from error

    def _select(self, keys: Sequence[bytes], columns: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            batch = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(batch))
            query = f"SELECT {columns} FROM memories WHERE key IN ({marks})"
            with self._lock:
                if self._connection is None:
                    return []
                try:
                    rows += self._connection.execute(query, batch).fetchall()
                except _STORAGE_ERRORS as error:
                    self._disable(error)
                    return []

        return rows

    def _disable(self, error: Exception) -> None:
        """Use the file no more after an error, and warn once.

        A damaged file is quarantined, so that the next store begins a new one. If the disk failed,
        the file stays as it is.
        """
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        if not _is_damage(error) or not self._quarantine(error):
            self._warn(error)

    def _quarantine(self, error: Exception) -> bool:
        """Rename a damaged file and warn; return whether it could be renamed."""
        try:
            self._file.replace(self._file.with_name(f"{FILE_NAME}.damaged"))
            # These belong to the damaged file: a new one must not read them.
            for suffix in ("-wal", "-shm"):
                self._file.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        except OSError:
            return False

        warnings.warn(
            f"the memory store in {self._folder} is damaged ({error}); it is kept as "
            f"{FILE_NAME}.damaged, its memories are made again. Look after the disk.",
            RuntimeWarning,
            stacklevel=4,
        )
        return True

    def _warn(self, error: Exception) -> None:
        warnings.warn(
            f"the memory store in {self._folder} cannot be written ({error}); new memories are "
            f"kept in RAM only. {_advice(error)} or choose another memory_path to keep them.",
            RuntimeWarning,
            stacklevel=4,
        )


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file for reading and writing; retry while another process creates it.

    sqlite waits for no lock when it turns a file into one with a write-ahead log.
    """
    for _ in range(_CONNECT_ATTEMPTS):
        try:
            return _connect_once(path)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(_CONNECT_DELAY_SECONDS)

    return _connect_once(path)


def _connect_once(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
    try:
        # With a write-ahead log readers do not wait for the writer.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(_SCHEMA)
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_read_only(path: Path) -> sqlite3.Connection | None:
    """Open a file on a disk that cannot be written; return None if it cannot be read either."""
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        connection.execute("SELECT count(*) FROM memories")
    except sqlite3.Error:
        return None
    return connection


def _advice(error: Exception) -> str:
    """Return what its user can do about an error of the disk."""
    forbidden = (errno.EROFS, errno.EACCES, errno.EPERM)
    is_forbidden = isinstance(error, OSError) and error.errno in forbidden
    if is_forbidden or "readonly" in str(error):
        return "Make the folder writable"

    return "Free the disk"


def _is_damage(error: Exception) -> bool:
    """Return whether the content is damaged, as opposed to a disk that is full, locked or gone."""
    return not isinstance(error, OSError | sqlite3.OperationalError)
