"""Memories as one object each at an address of fsspec: s3://, gs:// and the like."""

from __future__ import annotations

import threading
import time
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from llama_index_rnx.errors import RNXError
from llama_index_rnx.system import atomic_write, make_folder

TIMEOUT_SECONDS = 30.0  # seconds for one reading or writing of a remote place


COOLDOWN_SECONDS = 60.0  # seconds that a remote place is left alone after it failed


KNOWN = 200_000  # keys remembered as being there, so that they are not written again: about 30 MB


_CRC_BYTES = 4


T = TypeVar("T")


class ObjectBackend:
    """One object a key, for any number of machines: `<address>/<two hex digits>/<key in hex>`, a
    checksum in front.

    An object is written whole or not at all, and two writers of one key write the same. What goes
    wrong at the other end costs its time limit at most; then the place is left alone for a while,
    for reading and for writing apart.
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
        found = {
            paths[path]: framed[_CRC_BYTES:]
            for path, framed in got.items()
            if _is_framed(paths[path], framed)
        }
        self._note(found)
        return found

    def absent(self, keys: Sequence[bytes]) -> list[bytes]:
        """To ask the other end for each would cost as much as to write it: only what is known to be
        there is left out.
        """
        if self._rests("written"):
            return []
        with self._lock:
            return [key for key in keys if key not in self._there]

    def write(self, blobs: Mapping[bytes, bytes]) -> None:
        framed = {
            self._path(key): checksum(key, data).to_bytes(_CRC_BYTES, "big") + data
            for key, data in blobs.items()
        }

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
    """What the action gives, or raises; TimeoutError when it takes longer. Then its thread is left
    behind: it ends with us.
    """
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
        with atomic_write(target, mode=allowed & 0o666, concurrent=True) as part:
            part.write_bytes(data)


def is_whole(key: Any, crc: Any, data: Any) -> bool:
    return isinstance(key, bytes) and isinstance(data, bytes) and checksum(key, data) == crc


def _is_framed(key: bytes, framed: bytes) -> bool:
    return is_whole(key, int.from_bytes(framed[:_CRC_BYTES], "big"), framed[_CRC_BYTES:])
