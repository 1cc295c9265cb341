"""Writes a file whole or not at all: a kill at any moment leaves the old file, or none. It knows no
formats.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(
    path: Path, *, mode: int | None = None, concurrent: bool = False
) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it replaces `path` when the block ends without an
    error.

    After an error the part file is removed and `path` is as it was. A kill leaves the part file
    behind: it is hidden, so an indexer passes it by, and the next writer replaces it. The folder
    must exist.

    Args:
        path: the file to write.
        mode: permissions of the new file, less those that the umask takes away; by default those
            that `open` gives to any new file.
        concurrent: whether other threads or processes may write the same file at the same time. If
            so, each writes a part file of its own, and the last one to finish wins.

    Raises:
        OSError: the part file cannot be made, or `path` cannot be replaced.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_write(folder / "settings.json") as part:
        ...     _ = part.write_text("{}")
        >>> [path.name for path in folder.iterdir()]
        ['settings.json']
    """
    writer = f".{os.getpid()}.{threading.get_ident()}" if concurrent else ""
    part = path.with_name(f".{path.name}{writer}.part")
    try:
        if mode is not None:
            _create(part, mode)
        yield part
        part.replace(path)
    finally:
        # There is nothing to remove after a success; after an error it must not hide that error.
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _create(path: Path, mode: int) -> None:
    """Create an empty file with these permissions, in place of one that a killed process left."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
