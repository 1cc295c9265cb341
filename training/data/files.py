"""The folder of the development data, and which of its files were read. It knows no dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from llama_index_rnx.errors import SettingsError
from training.data.jsonl import Row, read_jsonl


class DataFolder:
    """The folder of the development data; it notes every file that is read through it.

    Every dataset is read through a folder that its caller hands over, so the record of a run can
    name exactly the files that this run depends on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files_read: set[Path] = set()

    @classmethod
    def from_environment(cls) -> DataFolder:
        """Return the folder that the environment variable RNX_DATA names.

        Raises:
            SettingsError: the variable is not set, or names no folder.
        """
        name = os.environ.get("RNX_DATA")
        if not name or not Path(name).is_dir():
            raise SettingsError(
                f"RNX_DATA is {name!r}; set it to the folder with the development data"
            )
        return cls(Path(name))

    @property
    def files_read(self) -> list[Path]:
        """Every file that was read through this folder so far, sorted."""
        return sorted(self._files_read)

    def file(self, name: str) -> Path:
        """Return the path of a file that the caller is about to read, and note it as read."""
        path = self.path / name
        self._files_read.add(path)
        return path

    def rows(self, name: str) -> Iterator[Row]:
        """Yield the rows of a .jsonl or .jsonl.gz file in the folder."""
        yield from read_jsonl(self.file(name))
