"""One process at a time in a folder, and who that is. It knows no formats."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path

import portalocker

from llama_index_rnx.system.permissions import make_file

# Characters of a command line in a message.
_COMMAND = 80


class FolderInUseError(RuntimeError):
    """Another process has the folder; the message says which one."""


class FolderLock:
    """The lock of a folder, held until `release` or the end of the process; a fork does not release
    it. The file says who has it, for those who come later.

    Args:
        file: made when missing, private.

    Raises:
        FolderInUseError: another process, or this one, has it.
        OSError: the file cannot be made or written.
    """

    def __init__(self, file: Path) -> None:
        make_file(file)
        self._stream = file.open("r+", encoding="utf-8", errors="replace")
        try:
            portalocker.lock(
                self._stream, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
            )
        except portalocker.exceptions.LockException as error:
            owner = self._owner()
            self._stream.close()
            raise FolderInUseError(owner) from error

        self._pid = os.getpid()
        # On a full disk the lock holds without a name.
        with suppress(OSError):
            self._stream.truncate(0)
            self._stream.write(f"process {self._pid} ({_command_line()})")
            self._stream.flush()

    def release(self) -> None:
        """Let others in."""
        if not self._stream.closed and os.getpid() == self._pid:
            portalocker.unlock(self._stream)
            self._stream.close()

    def _owner(self) -> str:
        """Return who has the lock, as that process wrote it down."""
        try:
            owner = self._stream.read(2 * _COMMAND)
        # Windows lets nobody read a locked file.
        except OSError:
            owner = ""
        return owner if owner.startswith("process ") else "another process"


def _command_line() -> str:
    name, *arguments = sys.argv or [""]
    line = shlex.join([Path(name).name or "python", *arguments])
    return line if len(line) <= _COMMAND else f"{line[: _COMMAND - 3]}..."
