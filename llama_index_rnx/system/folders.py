"""Whole folders: temporary ones, copies, sizes, and what a power cut leaves. It knows no
formats.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_BLOCK = 2**20
_HOLE = bytes(_BLOCK)
_SECTOR = 512  # what `st_blocks` counts
_MOUNTS = Path("/proc/self/mountinfo")


class TemporaryFolder:
    """A private folder that is removed with this object, or at the end of the process that made it;
    a fork leaves it alone.

    Attributes:
        path: of the folder.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="rnx-"))
        self._remove = weakref.finalize(self, _remove, self.path, os.getpid())

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        self._remove()


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file or a folder. Files that are mapped into memory are mostly holes, and these take
    no room in the copy either.

    Raises:
        OSError: a file cannot be read or written.
    """
    if not source.is_dir():
        _copy_file(source, target)
        return
    target.mkdir()
    for path in source.iterdir():
        copy_sparse(path, target / path.name)


def size_on_disk(folder: Path) -> int:
    """Return the bytes that a file, or all files of a folder, take on the disk, without holes."""
    return sum(_allocated(stat) for stat in _stats(folder))


def hole_bytes(folder: Path) -> int:
    """Return how many bytes the files of a folder grow by when all of them are read through maps.
    On a disk in RAM (tmpfs) each hole that is looked at takes room; elsewhere none does.
    """
    if _file_system(folder) != "tmpfs":
        return 0
    return sum(max(0, stat.st_size - _allocated(stat)) for stat in _stats(folder))


def sync_folder(folder: Path) -> None:
    """Wait until all files of a folder are on the disk, so that a power cut leaves them whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(_BLOCK):
            if block == _HOLE[: len(block)]:
                writer.seek(len(block), os.SEEK_CUR)
            else:
                writer.write(block)
        writer.truncate()


def _stats(folder: Path) -> Iterator[os.stat_result]:
    """Yield the sizes of a file, or of a folder and all that is in it."""
    for path in [folder, *folder.rglob("*")]:
        # Another thread may have removed it.
        with suppress(FileNotFoundError):
            yield path.stat()


def _allocated(stat: os.stat_result) -> int:
    """Return the bytes that a file takes on the disk; Windows does not say."""
    blocks = getattr(stat, "st_blocks", None)
    return stat.st_size if blocks is None else blocks * _SECTOR


def _file_system(folder: Path) -> str:
    """Return the kind of the file system that a folder lies on, as Linux names it; elsewhere
    nothing.
    """
    if not _MOUNTS.exists():
        return ""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    # Each line: id, parent, major:minor, ..., " - ", kind, source, options.
    for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == number:
            return source.split()[0]
    return ""


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(path, ignore_errors=True)
