"""Bytes by key, kept for good: in a sqlite file of a local folder, or one object each at an address of fsspec.

It knows no memories and no tensors. Both kinds may be used by several processes at once, check what they read, and never
stop the work: what cannot be read counts as unknown, what cannot be written is left out, and a warning says so.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from llama_index_rnx.errors import RNXError, shown
from llama_index_rnx.system import make_file, make_folder

FILE_NAME = "memories.sqlite"
TIMEOUT_SECONDS = 30.0  # seconds for one reading or writing of a remote place
COOLDOWN_SECONDS = 60.0  # seconds that a remote place is left alone after it failed
KNOWN = 200_000  # keys remembered as being there, so that they are not written again: about 30 MB
_SCHEMA = "CREATE TABLE IF NOT EXISTS memories (key BLOB PRIMARY KEY, crc INTEGER NOT NULL, data BLOB NOT NULL)"
_KEYS_A_QUERY = 500  # sqlite allows 999 parameters at least
_FAULTS = (OSError, sqlite3.Error, UnicodeDecodeError)  # the last: of a damaged file, where a name was
_CRC_BYTES = 4
_OPENING = 50  # attempts, a tenth of a second apart: several processes may make the same file
T = TypeVar("T")


class MemoryBackend(Protocol):
    """Bytes by key; a key's bytes never change."""

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """What is there and whole."""
        ...

    def absent(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those that could be written now and are not known to be there."""
        ...

    def write(self, blobs: Mapping[bytes, bytes]) -> None: ...

    def close(self) -> None:
        """From here on nothing is read or written."""
        ...


def backend_at(path: str | Path, read_only: bool = False) -> MemoryBackend:
    """A sqlite file in a folder, or objects at an address with a scheme: `s3://bucket/memories`, `file:///mnt/shared/memories`.

    Raises:
        RNXError: no such scheme, or its package is not installed; a file stands where the folder should.
    """
    return ObjectBackend(path) if isinstance(path, str) and "://" in path else SqliteBackend(Path(path), read_only)


class SqliteBackend:
    """One file, for processes of one machine: sqlite's locks cannot be relied on over a network.

    read_only: the file is read if it is there, and nothing is written; that is expected, so no warning says it.
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
        return {key: data for key, crc, data in rows if _is_whole(key, crc, data)}

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
                    self._connection.executemany("INSERT OR REPLACE INTO memories VALUES (?, ?, ?)", rows)
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

        A damaged file is put aside, so that the next store begins a new one; a disk that failed is left as it is.
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


class ObjectBackend:
    """One object a key, for any number of machines: `<address>/<two hex digits>/<key in hex>`, a checksum in front.

    An object is written whole or not at all, and two writers of one key write the same. What goes wrong at the other end
    costs its time limit at most; then the place is left alone for a while, for reading and for writing apart.
    """

    def __init__(self, address: str) -> None:
        from fsspec.core import url_to_fs  # only who has an address pays for it
        from fsspec.implementations.local import LocalFileSystem

        try:
            self._system, self._root = url_to_fs(address)
        except (ValueError, ImportError) as error:
            raise RNXError(
                f"memory_path {address!r} cannot be used ({' '.join(str(error).split())}); a folder, file://, s3:// and what "
                "else fsspec and its packages (s3fs, gcsfs, adlfs) know are allowed."
            ) from error
        self._address = address
        local = isinstance(self._system, LocalFileSystem)
        self._put = partial(_put_files, Path(self._root)) if local else self._put_objects
        self._there: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()
        self._rests_until = {"read": 0.0, "written": 0.0}
        self._closed = False

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        paths = {self._path(key): key for key in keys}
        nothing: dict[str, bytes] = {}
        got = self._in_time("read", lambda: self._get(list(paths)), nothing) if paths else nothing
        found = {paths[path]: framed[_CRC_BYTES:] for path, framed in got.items() if _is_framed(paths[path], framed)}
        self._note(found)
        return found

    def absent(self, keys: Sequence[bytes]) -> list[bytes]:
        """To ask the other end for each would cost as much as to write it: only what is known to be there is left out."""
        if self._rests("written"):
            return []
        with self._lock:
            return [key for key in keys if key not in self._there]

    def write(self, blobs: Mapping[bytes, bytes]) -> None:
        framed = {self._path(key): checksum(key, data).to_bytes(_CRC_BYTES, "big") + data for key, data in blobs.items()}

        def put() -> bool:
            self._put(framed)
            return True

        if self._in_time("written", put, False):
            self._note(blobs)

    def close(self) -> None:
        self._closed = True

    def _path(self, key: bytes) -> str:
        name = key.hex()
        return f"{self._root}/{name[:2]}/{name}"

    def _note(self, keys: Iterable[bytes]) -> None:
        with self._lock:
            self._there.update((key, None) for key in keys)
            while len(self._there) > KNOWN:
                self._there.popitem(last=False)

    def _get(self, paths: list[str]) -> dict[str, bytes]:
        """All that are there, at once where the system can; a fault other than absence comes out."""
        got = self._system.cat(paths, on_error="return")
        for fault in got.values():
            if isinstance(fault, Exception) and not isinstance(fault, FileNotFoundError):
                raise fault
        return {path: data for path, data in got.items() if isinstance(data, bytes)}

    def _put_objects(self, framed: Mapping[str, bytes]) -> None:
        """Object stores show an object when it is whole."""
        self._system.pipe(dict(framed))

    def _rests(self, doing: str) -> bool:
        return self._closed or time.monotonic() < self._rests_until[doing]

    def _in_time(self, doing: str, action: Callable[[], T], otherwise: T) -> T:
        if self._rests(doing):
            return otherwise
        try:
            return within_seconds(action, TIMEOUT_SECONDS)
        except Exception as error:  # every system behind fsspec has errors of its own
            self._rests_until[doing] = time.monotonic() + COOLDOWN_SECONDS
            self._warn(doing, error)
            return otherwise

    def _warn(self, doing: str, error: Exception) -> None:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        warnings.warn(
            f"the memory store at {self._address} cannot be {doing} ({reason}); for {COOLDOWN_SECONDS:.0f} s memories are made anew or "
            "kept in RAM only.",
            RuntimeWarning,
            stacklevel=5,
        )


def within_seconds(action: Callable[[], T], seconds: float) -> T:
    """What the action gives, or raises; TimeoutError when it takes longer. Then its thread is left behind: it ends with us."""
    results: list[T] = []
    faults: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=run, daemon=True, name="rnx-memories")
    thread.start()
    thread.join(seconds)
    if faults:
        raise faults[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return results[0]


def checksum(key: bytes, data: bytes) -> int:
    """Of both: a damaged index of the file could lead from one key to another's data."""
    return zlib.crc32(data, zlib.crc32(key))


def _put_files(root: Path, framed: Mapping[str, bytes]) -> None:
    """Under another name first: who reads meanwhile sees the whole file or none.

    A new folder is its owner's alone. One that is there belongs to those who may enter it: so far
    they may also read, and write, what is put into it.
    """
    make_folder(root)
    allowed = root.stat().st_mode
    for path, data in framed.items():
        target = Path(path)
        target.parent.mkdir(mode=allowed & 0o777, exist_ok=True)
        part = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            with open(part, "wb", opener=lambda name, flags: os.open(name, flags, allowed & 0o666)) as stream:
                stream.write(data)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


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
    """A file on a disk that cannot be written is read as it is; None where it cannot be read either."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        connection.execute("SELECT count(*) FROM memories")
    except sqlite3.Error:
        return None
    return connection


def _advice(error: Exception) -> str:
    forbidden = isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return "Make the folder writable" if forbidden or "readonly" in str(error) else "Free the disk"


def _is_damage(error: Exception) -> bool:
    """Whether the file's content is wrong, as opposed to a disk that is full, locked, or gone."""
    return not isinstance(error, OSError | sqlite3.OperationalError)


def _is_whole(key: Any, crc: Any, data: Any) -> bool:
    return isinstance(key, bytes) and isinstance(data, bytes) and checksum(key, data) == crc


def _is_framed(key: bytes, framed: bytes) -> bool:
    return _is_whole(key, int.from_bytes(framed[:_CRC_BYTES], "big"), framed[_CRC_BYTES:])
