"""Memories as one object each at an address of fsspec: s3://, gs:// and the like. It knows no
tensors.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from cachetools import LRUCache

from llama_index_rnx.errors import SettingsError, one_line
from llama_index_rnx.memory.checksums import add_checksum, strip_checksum
from llama_index_rnx.system import atomic_write, make_folder

# How long one read or one write of a remote store may take.
TIMEOUT_SECONDS = 30.0

# How long a remote store is left alone after it failed (a circuit breaker).
COOLDOWN_SECONDS = 60.0

# Keys remembered as stored, so that they are not written again: about 30 MB.
MAX_KNOWN_KEYS = 200_000

Operation = Literal["read", "written"]
T = TypeVar("T")


class ObjectBackend:
    """One object for each key, for any number of machines: `<address>/<two hex digits>/<key in
    hex>`, a checksum in front of the data.

    An object is written whole or not at all, and two writers of one key write the same bytes. A
    failure of the remote end costs one time-out at most; then reads, or writes, pause for
    `COOLDOWN_SECONDS`.

    Raises:
        SettingsError: the scheme of the address is unknown, or its package is not installed.
    """

    def __init__(self, address: str) -> None:
        # Only users of an address pay for this import.
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        try:
            self._file_system, self._root = url_to_fs(address)
        except (ValueError, ImportError) as error:
            raise SettingsError(
                f"memory_path {address!r} cannot be used ({one_line(error)}); a folder, file://, "
                "s3:// and what else fsspec and its packages (s3fs, gcsfs, adlfs) know are allowed."
            ) from error

        self._address = address
        is_local = isinstance(self._file_system, LocalFileSystem)
        self._put = partial(_put_files, Path(self._root)) if is_local else self._put_objects
        self._known_keys: LRUCache[bytes, None] = LRUCache(MAX_KNOWN_KEYS)
        self._lock = threading.Lock()
        self._paused_until: dict[Operation, float] = {"read": 0.0, "written": 0.0}
        self._closed = False

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that are stored and undamaged; none after a failure."""
        paths = {self._path(key): key for key in keys}
        objects: dict[str, bytes] = {}
        if paths:
            objects = self._call("read", lambda: self._get(list(paths)), objects)

        values: dict[bytes, bytes] = {}
        for path, framed in objects.items():
            data = strip_checksum(paths[path], framed)
            if data is not None:
                values[paths[path]] = data

        self._mark_known(values)
        return values

    def missing_keys(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the keys that this backend neither read nor wrote; none while writes pause.

        To ask the remote end about each key would cost as much as to write it again.
        """
        if self._is_paused("written"):
            return []

        with self._lock:
            return [key for key in keys if key not in self._known_keys]

    def write(self, values: Mapping[bytes, bytes]) -> None:
        """Store these values, one object each. If that fails, warn and pause writes."""
        objects = {self._path(key): add_checksum(key, data) for key, data in values.items()}

        def put() -> bool:
            self._put(objects)
            return True

        if self._call("written", put, False):
            self._mark_known(values)

    def close(self) -> None:
        """Read and write nothing from here on."""
        self._closed = True

    def _path(self, key: bytes) -> str:
        name = key.hex()
        return f"{self._root}/{name[:2]}/{name}"

    def _mark_known(self, keys: Iterable[bytes]) -> None:
        with self._lock:
            for key in keys:
                self._known_keys[key] = None

    def _get(self, paths: list[str]) -> dict[str, bytes]:
        """Read all objects that exist, at once where the file system can.

        Raises:
            Exception: any error of the file system but a missing object.
        """
        results = self._file_system.cat(paths, on_error="return")
        for result in results.values():
            if isinstance(result, Exception) and not isinstance(result, FileNotFoundError):
                raise result

        return {path: data for path, data in results.items() if isinstance(data, bytes)}

    def _put_objects(self, objects: Mapping[str, bytes]) -> None:
        """Write all objects; an object store shows an object only when it is whole."""
        self._file_system.pipe(dict(objects))

    def _is_paused(self, operation: Operation) -> bool:
        return self._closed or time.monotonic() < self._paused_until[operation]

    def _call(self, operation: Operation, action: Callable[[], T], default: T) -> T:
        """Run `action` within the time-out; after a failure, warn, pause and return `default`."""
        if self._is_paused(operation):
            return default

        try:
            return run_with_timeout(action, TIMEOUT_SECONDS)
        # Every file system behind fsspec has errors of its own.
        except Exception as error:
            self._paused_until[operation] = time.monotonic() + COOLDOWN_SECONDS
            self._warn(operation, error)
            return default

    def _warn(self, operation: Operation, error: Exception) -> None:
        warnings.warn(
            f"the memory store at {self._address} cannot be {operation} ({one_line(error, 200)}); "
            f"for {COOLDOWN_SECONDS:.0f} s memories are made anew or kept in RAM only.",
            RuntimeWarning,
            stacklevel=5,
        )


def run_with_timeout(action: Callable[[], T], seconds: float) -> T:
    """Return what `action` returns.

    An action that takes too long is abandoned in its daemon thread, which ends with the process.

    Raises:
        TimeoutError: the action takes longer than `seconds`.
        BaseException: whatever the action raises.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="rnx-memories")
    thread.start()
    thread.join(seconds)

    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return results[0]


def _put_files(root: Path, objects: Mapping[str, bytes]) -> None:
    """Write files whole or not at all, so that another process reads a whole file or none.

    A new folder belongs to its owner alone. An existing one belongs to those who may enter it: with
    the same rights they may read, and write, what is put into it.
    """
    make_folder(root)
    mode = root.stat().st_mode

    for name, data in objects.items():
        path = Path(name)
        path.parent.mkdir(mode=mode & 0o777, exist_ok=True)
        with atomic_write(path, mode=mode & 0o666, concurrent=True) as temporary:
            temporary.write_bytes(data)
