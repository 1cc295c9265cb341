"""Creates folders and files that belong to their owner alone, 0700 and 0600, whatever the umask is.
It knows no formats.

Only new ones are private. Existing ones stay as their owner has them, so that an index can be
shared: its permissions are changed once, and stay. On Windows a new file has the permissions of its
folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def make_folder(path: Path) -> None:
    """Create a private folder and its parents, unless they exist.

    Raises:
        FileExistsError: the path is a file.
    """
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(mode=FOLDER_MODE, exist_ok=True)


def make_file(path: Path) -> None:
    """Create an empty private file and its folders, unless they exist; sqlite gives the files
    beside it the same permissions.

    Raises:
        FileExistsError: a file is there where a folder is needed.
    """
    make_folder(path.parent)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))


def private_opener(path: str, flags: int) -> int:
    """Open a file; a new one belongs to its owner alone. For `open(..., opener=private_opener)`."""
    return os.open(path, flags, FILE_MODE)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; a new file belongs to its owner alone."""
    with open(path, "w", encoding="utf-8", opener=private_opener) as stream:
        stream.write(text)


@contextmanager
def keep_private(folder: Path, patterns: tuple[str, ...]) -> Iterator[None]:
    """Make private what the block creates inside a folder; what it replaces keeps its permissions.

    Args:
        patterns: of `Path.glob`, for the files and folders to look at.
    """
    before = {path: _mode(path) for path in _matching(folder, patterns)}
    yield
    for path in _matching(folder, patterns):
        mode = before.get(path, FOLDER_MODE if path.is_dir() else FILE_MODE)
        if _mode(path) != mode:
            # A file system without permissions refuses.
            with suppress(OSError):
                path.chmod(mode)


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern)]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
