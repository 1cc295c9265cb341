"""Folders and files that belong to their owner alone: 0700 and 0600, whatever the umask is.

Only what is made here is made so. What is there already stays as its owner has it, so that an index
can be shared: its permissions are changed once, and kept. On Windows a new file has the permissions
of its folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER, FILE = 0o700, 0o600


def make_folder(path: Path) -> None:
    """Makes a folder and what it lies in, unless it is there.

    Raises:
        FileExistsError: a file is there.
    """
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(mode=FOLDER, exist_ok=True)


def make_file(path: Path) -> None:
    """Makes an empty file and the folders that it lies in, unless they are there; sqlite gives the
    files beside it the same permissions.

    Raises:
        FileExistsError: a file is there where a folder is needed.
    """
    make_folder(path.parent)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE))


def opener(path: str, flags: int) -> int:
    """For `open`: a file that is made by it belongs to its owner alone."""
    return os.open(path, flags, FILE)


def write_text(path: Path, text: str) -> None:
    """As `Path.write_text`, in UTF-8."""
    with open(path, "w", encoding="utf-8", opener=opener) as stream:
        stream.write(text)


@contextmanager
def made_private(folder: Path, patterns: tuple[str, ...]) -> Iterator[None]:
    """What others make inside a folder meanwhile becomes private; what they replace stays as it
    was.
    """
    before = {path: _mode(path) for path in _matching(folder, patterns)}
    yield
    for path in _matching(folder, patterns):
        wanted = before.get(path, FOLDER if path.is_dir() else FILE)
        if _mode(path) != wanted:
            with suppress(OSError):  # a file system without permissions refuses
                path.chmod(wanted)


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern)]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
