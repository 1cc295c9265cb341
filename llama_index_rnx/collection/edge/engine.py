"""One collection's engine and its files; `optimize` puts better files in their place while the
collection is searched and written. It knows no requests.

The files lie in `shard`, once they were optimized in `shard-1`, then in `shard-2`: the highest
number counts, and the others are leftovers, as is all that begins with `new-`. `changes` has a byte
for each point that was written or removed since.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import qdrant_edge as edge

from llama_index_rnx.system import copy_sparse, make_folder, size_on_disk, sync_folder

_SHARD = "shard"
_CHANGES = "changes"
_NEW = "new-"
_NUMBERED = re.compile(rf"{_SHARD}(?:-(\d+))?")

# How many points must have been written or removed before an optimization is worth a copy of the
# files: this many, and this part of all. The engine itself leaves fewer as they are: it drops what
# was removed from a fifth on, and builds a graph of what fills EXACT_KB.
_LEAST_CHANGES = 1_000
_LEAST_PART = 0.05

# The program of the process that optimizes.
_OPTIMIZER = Path(__file__).with_name("optimizer.py")
T = TypeVar("T")


class EdgeError(Exception):
    """What the engine says, in one line: it has no errors of its own."""


class Engine:
    """The engine of one collection; several threads may use it.

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

        # Held by who writes, and while the files are exchanged.
        self._writing = threading.Lock()
        # One optimization at a time: its process, and what was written since it took its copy.
        self._optimizing = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._missed: list[edge.UpdateOperation] | None = None
        self._copied_changes = 0

    @classmethod
    def create(cls, folder: Path, config: edge.EdgeConfig) -> Engine:
        """Make the files of an empty collection; what lies in the folder is removed."""
        if folder.exists():
            shutil.rmtree(folder)
        files = folder / _SHARD
        make_folder(files)
        engine = cls(folder, files, guarded(lambda: edge.EdgeShard.create(str(files), config)))
        engine.run(lambda shard: shard.flush())
        return engine

    @classmethod
    def open(cls, folder: Path) -> Engine:
        """Open the files of a collection, and remove the leftovers."""
        numbered = [path for path in folder.iterdir() if _NUMBERED.fullmatch(path.name)]
        files = max(numbered, key=_number, default=folder / _SHARD)
        for path in {*numbered, *folder.glob(f"{_NEW}*")} - {files}:
            shutil.rmtree(path, ignore_errors=True)
        return cls(folder, files, _load(files))

    def run(self, action: Callable[[edge.EdgeShard], T]) -> T:
        """Run an action that reads. Files that are exchanged meanwhile stay open until its end."""
        shard = self._shard
        return guarded(lambda: action(shard))

    def update(self, operation: edge.UpdateOperation, changes: int) -> None:
        """Write.

        Args:
            changes: how many points are written or removed.
        """
        with self._writing:
            with self._changes_file.open("ab") as stream:
                stream.write(bytes(changes))
            self._changes += changes
            guarded(lambda: self._shard.update(operation))
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
            new = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.folder))
            try:
                files = new / _SHARD
                self._copy_to(files)
                return self._optimize_files(files) and self._exchange(files)
            finally:
                self._missed = None
                shutil.rmtree(new, ignore_errors=True)

    def size(self) -> int:
        """Return the bytes of the files on the disk."""
        return size_on_disk(self._files)

    def close(self) -> None:
        """Close the files, and end an optimization that is under way."""
        with self._writing:
            self._closed = True
            if self._process is not None:
                self._process.kill()
            guarded(self._shard.close)

    def _copy_to(self, files: Path) -> None:
        with self._writing:
            guarded(self._shard.flush)
            copy_sparse(self._files, files)
            self._missed = []
            self._copied_changes = self._changes

    def _optimize_files(self, files: Path) -> bool:
        """Return whether they were optimized, and not given up since this engine was closed."""
        with self._writing:
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
        with self._writing:
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
            old = self._files
            self._shard = shard
            self._files = target
            self._changes -= self._copied_changes
            self._changes_file.write_bytes(bytes(self._changes))

        # Who still reads has the old files open; where the system then keeps them, they are removed
        # when the collection is opened again.
        shutil.rmtree(old, ignore_errors=True)
        return True


def guarded(action: Callable[[], T]) -> T:
    """Return what a call of the engine returns. It raises plain `Exception`s, and a panic of its
    own, which is no `Exception`; both become an `EdgeError`.
    """
    try:
        return action()
    except BaseException as error:
        is_plain = type(error) is Exception
        if is_plain or type(error).__name__ == "PanicException":
            raise EdgeError(str(error)) from error
        raise


def _load(files: Path) -> edge.EdgeShard:
    return guarded(lambda: edge.EdgeShard.load(str(files)))


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
