"""A list of the files of a shard, written when it is closed and taken away when it is opened: what
was cut off, emptied or removed in between is seen before the engine maps it. It opens no shard.

Where the list lies, the last process closed the shard and nobody has opened it since, so all files
must be as they were. After a kill there is none, and nothing is compared.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from llama_index_rnx.system import atomic_write

_SEAL = "closed.json"

# The log of writes is left out: the engine renames its files as it goes.
_PATTERNS = ("*.json", "segments/**/*")

# Bytes of a file up to which its content is compared, too: a second for a gigabyte of vectors would
# be too much at each start.
_CHECKED_BYTES = 2**20


class BrokenSealError(Exception):
    """A file is not as it was when the shard was closed; the message names it."""


def seal(shard: Path) -> None:
    """Write the list of the files of a shard that was closed.

    Raises:
        OSError: a file cannot be read, or the disk is full.
    """
    with atomic_write(shard.with_name(_SEAL), mode=0o600) as temporary:
        temporary.write_text(json.dumps(_files(shard)), encoding="utf-8")


def break_seal(shard: Path) -> None:
    """Compare the files of a shard with the list, if there is one, and take it away.

    Raises:
        BrokenSealError: a file is missing, or has another size or content. The list stays.
        OSError: a file cannot be read.
    """
    file = shard.with_name(_SEAL)
    if not file.is_file():
        return
    try:
        before = json.loads(file.read_bytes())
    except ValueError as error:
        raise BrokenSealError(f"{file} is damaged") from error
    now = _files(shard)
    for name in before:
        if name not in now:
            raise BrokenSealError(f"{shard / name} is missing")
        if before[name] != now[name]:
            raise BrokenSealError(f"{shard / name} is damaged")
    file.unlink()


def _files(shard: Path) -> dict[str, list[int]]:
    """Return by path the size of each file and the checksum of small ones."""
    paths = sorted(path for pattern in _PATTERNS for path in shard.glob(pattern) if path.is_file())
    return {path.relative_to(shard).as_posix(): _fingerprint(path) for path in paths}


def _fingerprint(path: Path) -> list[int]:
    size = path.stat().st_size
    return [size, zlib.crc32(path.read_bytes()) if size <= _CHECKED_BYTES else 0]
