"""One collection's engine and its files; `optimize` puts better files in their place while the
collection is searched and written. It knows no requests.

The files lie in `shard`, once they were optimized in `shard-1`, then in `shard-2`: the highest
number counts, and the others are leftovers, as is all that begins with `new-`. `changes` has a byte
for each point that was written or removed since.

The engine maps its files into memory, and most of them are holes. A page that the disk has no room
for ends the process (SIGBUS), so each call first asks for the room that it can take.
"""

from __future__ import annotations

import ctypes
import errno
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import qdrant_edge as edge

from llama_index_rnx.collection.edge.seal import BrokenSealError, break_seal, seal
from llama_index_rnx.system import (
    copy_sparse,
    hole_bytes,
    make_folder,
    size_on_disk,
    sync_folder,
)

_SHARD = "shard"
_LOG = "wal"
_CHANGES = "changes"
_NEW = "new-"
_NUMBERED = re.compile(rf"{_SHARD}(?:-(\d+))?")

# How many points must have been written or removed before an optimization is worth a copy of the
# files: this many, and this part of all. The engine itself leaves fewer as they are.
_LEAST_CHANGES = 1_000
_LEAST_PART = 0.05

# Bytes that must be free beside those of a write: new files of the engine take up to 11 MiB.
WRITE_RESERVE = 16 * 2**20
# The same for opening, where the log of writes that were not flushed is replayed into new pages: an
# index of 3,000 points that was killed took up to 4 MiB at a log of 13.
OPEN_RESERVE = 4 * 2**20

# The program of the process that optimizes.
_OPTIMIZER = Path(__file__).with_name("optimizer.py")
T = TypeVar("T")


class EdgeError(Exception):
    """What the engine says, in one line: it has no errors of its own."""


class PanicError(EdgeError):
    """The engine has failed in a way that it did not foresee."""


class Engine:
    """The engine of one collection; several threads may use it, one at a time. It holds Python's
    own lock while it works, so that nothing is lost by that.

    Args:
        folder: of the collection.
        files: the folder in it that the engine has open.
    """

    def __init__(self, folder: Path, files: Path, shard: edge.EdgeShard) -> None:
        self.folder = folder
        self._files = files
        self._shard = shard
        self._changes_file = folder / _CHANGES
        self._changes = 0
        if self._changes_file.exists():
            self._changes = self._changes_file.stat().st_size
        self._closed = False
        self._panic = ""

        # Held by each call, and while the files are exchanged.
        self._calling = threading.RLock()
        # One optimization at a time: its process, and what was written since it took its copy.
        self._optimizing = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._missed: list[edge.UpdateOperation] | None = None
        self._copied_changes = 0

    @classmethod
    def create(cls, folder: Path, config: edge.EdgeConfig) -> Engine:
        """Make the files of an empty collection in a folder that has none."""
        check_room(folder, WRITE_RESERVE)
        files = folder / _SHARD
        make_folder(files)
        shard = guarded(lambda: edge.EdgeShard.create(str(files), config))
        engine = cls(folder, files, _undroppable(shard))
        engine.run(lambda shard: shard.flush())
        return engine

    @classmethod
    def open(cls, folder: Path) -> Engine:
        """Open the files of a collection, and remove the leftovers.

        Raises:
            EdgeError: a file is missing or damaged.
            OSError: the disk is full.
        """
        numbered = [path for path in folder.iterdir() if _NUMBERED.fullmatch(path.name)]
        files = max(numbered, key=_number, default=folder / _SHARD)
        for path in {*numbered, *folder.glob(f"{_NEW}*")} - {files}:
            shutil.rmtree(path, ignore_errors=True)

        # The engine would make what is missing.
        if not files.is_dir():
            raise EdgeError(f"{files} is missing")
        try:
            break_seal(files)
        except BrokenSealError as error:
            raise EdgeError(str(error)) from error
        check_room(folder, OPEN_RESERVE + size_on_disk(files / _LOG) + hole_bytes(files))
        return cls(folder, files, _load(files))

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether a folder holds the files of an engine."""
        return any(folder.glob(f"{_SHARD}*"))

    def run(self, action: Callable[[edge.EdgeShard], T]) -> T:
        """Run an action. After a panic nobody knows what is in memory, so that nothing more is read
        or written.
        """
        with self._calling:
            if self._panic:
                raise EdgeError(f"the engine has stopped: {self._panic}")
            if self._closed:
                raise EdgeError("it was closed")
            try:
                return guarded(lambda: action(self._shard))
            except PanicError as error:
                self._panic = str(error)
                raise

    def update(self, operation: edge.UpdateOperation, changes: int, size: int) -> None:
        """Write.

        Args:
            changes: how many points are written or removed.
            size: bytes that they take on the disk, about.
        """
        check_room(self.folder, WRITE_RESERVE + 2 * size)
        with self._calling:
            with self._changes_file.open("ab") as stream:
                stream.write(bytes(changes))
            self._changes += changes
            self.run(lambda shard: shard.update(operation))
            if self._missed is not None:
                self._missed.append(operation)

    def needs_optimizing(self) -> bool:
        """Return whether enough was written and removed since the last time."""
        count = self.run(lambda shard: shard.info()).points_count
        return self._changes >= max(_LEAST_CHANGES, _LEAST_PART * count)

    def optimize(self) -> bool:
        """Optimize a copy of the files in another process, and let it take their place.

        The engine does not let go of Python's lock while it optimizes, and nothing ends it but a
        kill: in this process it would stop all threads for as long.

        Returns:
            Whether it was done: not if little was written since the last time, or if this engine
            was closed meanwhile.
        """
        with self._optimizing:
            if self._closed or not self.needs_optimizing():
                return False
            check_room(self.folder, WRITE_RESERVE + 2 * size_on_disk(self._files))
            new = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.folder))
            try:
                files = new / _SHARD
                self._copy_to(files)
                return self._optimize_files(files) and self._exchange(files)
            finally:
                self._missed = None
                shutil.rmtree(new, ignore_errors=True)

    def close(self) -> None:
        """Close the files, and end an optimization that is under way."""
        with self._calling:
            if self._closed:
                return
            self._closed = True
            if self._process is not None:
                self._process.kill()
            guarded(self._shard.close)
        # After a panic its files are looked at anew; on a full disk the next process goes without.
        if not self._panic:
            with suppress(OSError):
                seal(self._files)

    def _copy_to(self, files: Path) -> None:
        with self._calling:
            self.run(lambda shard: shard.flush())
            copy_sparse(self._files, files)
            self._missed = []
            self._copied_changes = self._changes

    def _optimize_files(self, files: Path) -> bool:
        """Return whether they were optimized, and not given up since this engine was closed."""
        with self._calling:
            if self._closed:
                return False
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_OPTIMIZER), str(files)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        with self._process as process:
            try:
                _, lines = process.communicate()
            except BaseException:
                process.kill()
                raise
        if self._closed:
            return False
        if process.returncode != 0:
            reason = (lines.strip().splitlines() or [f"it ended with {process.returncode}"])[-1]
            raise EdgeError(f"it could not be optimized: {reason}")
        sync_folder(files)
        return True

    def _exchange(self, files: Path) -> bool:
        """Write to the new files what they missed, and go on with them."""
        with self._calling:
            missed = self._missed or []
            if self._closed:
                return False
            if missed:
                _replay(files, missed)
            target = self.folder / f"{_SHARD}-{_number(self._files) + 1}"
            files.rename(target)
            try:
                shard = _load(target)
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
            old_shard, old_files = self._shard, self._files
            self._shard = shard
            self._files = target
            self._changes -= self._copied_changes
            self._changes_file.write_bytes(bytes(self._changes))
            guarded(old_shard.close)
        shutil.rmtree(old_files, ignore_errors=True)
        return True


def guarded(action: Callable[[], T]) -> T:
    """Return what a call of the engine returns. It raises plain `Exception`s, and a panic of its
    own, which is no `Exception`; both become an `EdgeError`.
    """
    try:
        return action()
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise PanicError(str(error)) from error
        # The engine itself asks for room before it builds new files.
        if "not enough space" in str(error).lower():
            raise OSError(errno.ENOSPC, f"the disk is full: {error}") from error
        if type(error) is Exception:
            raise EdgeError(str(error)) from error
        raise


def check_room(folder: Path, needed: int) -> None:
    """Raise OSError when fewer bytes than these are free on the disk."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the disk is full: {free / 2**20:.0f} MiB are free, "
            f"{needed / 2**20:.0f} MiB are needed",
        )


def _load(files: Path) -> edge.EdgeShard:
    return _undroppable(guarded(lambda: edge.EdgeShard.load(str(files))))


def _undroppable(shard: edge.EdgeShard) -> edge.EdgeShard:
    """Return a shard that Python never frees, for the engine flushes what is freed, in a fork, too.
    A closed one holds next to nothing.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(shard))
    return shard


def _replay(files: Path, operations: list[edge.UpdateOperation]) -> None:
    shard = _load(files)
    for operation in operations:
        guarded(partial(shard.update, operation))
    guarded(shard.flush)
    guarded(shard.close)


def _number(files: Path) -> int:
    """Return how often the files of this folder were optimized."""
    match = _NUMBERED.fullmatch(files.name)
    assert match is not None
    return int(match[1] or 0)
