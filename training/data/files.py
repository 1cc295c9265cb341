"""Where the development data lies, and which of its files were read."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_index_rnx.errors import RNXError

Row = dict[str, Any]


def data_folder() -> Path:
    """The folder of RNX_DATA, or a clear error."""
    folder = os.environ.get("RNX_DATA")
    if not folder or not Path(folder).is_dir():
        raise RNXError(f"RNX_DATA is {folder!r}; set it to the folder with the development data")
    return Path(folder)


def files_read() -> list[Path]:
    """Every data file that was read so far in this process: what the record of a run names."""
    return sorted(_read)


_read: set[Path] = set()


def rows(path: Path) -> Iterator[Row]:
    """The rows of a .jsonl or .jsonl.gz file."""
    _read.add(path)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        yield from map(json.loads, lines)
