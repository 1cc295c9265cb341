"""Which pages outran their limits, remembered on disk: the next start does not try them again.

A record is a file of its own, named by the content of the PDF. One that cannot be read or written
is not there: the page is tried again then.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from llama_index_rnx.system import atomic_write

GIVEN_UP_AFTER = 4  # pages of a document; a file of 2,000 such pages would take a day

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a page may take: seconds of processor time, and bytes of memory beyond an idle process.

    The dearest of 819 pages of papers, manuals and slides took less than 2 s and 100 MiB.
    """

    seconds: float = 15.0
    memory: int = 2**30

    @property
    def patience(self) -> float:
        """Seconds by the clock that an answer is waited for; a busy machine needs more of them."""
        return 4 * self.seconds + 5


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a page outran (`time`, `memory`, or PDFium itself by a `crash`), and what it had."""

    how: str
    seconds: float
    memory: int
    reader: str

    def stands(self, limits: Limits) -> bool:
        """Whether it would happen again: the limits are no higher now, and PDFium is the same."""
        if self.how == "time":
            return self.seconds >= limits.seconds
        if self.how == "memory":
            return self.memory >= limits.memory
        return self.reader == reader_version()


def recorded(path: str, task: str, page: int, limits: Limits) -> str | None:
    """How a page outran these limits, if it did; `"pages"` when too many others of its file did."""
    records = _records(path, task)
    standing = {number: found for number, found in records.items() if found.stands(limits)}
    if page in standing:
        return standing[page].how
    return "pages" if len(standing) >= GIVEN_UP_AFTER else None


def record(path: str, task: str, page: int, how: str, limits: Limits) -> None:
    """Remember that a page outran its limits."""
    fields = {"how": how, "seconds": limits.seconds, "memory": limits.memory}
    try:
        target = _folder() / f"{_content(path)}-{task}-{page}.json"
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_write(target, concurrent=True) as part:
            part.write_text(json.dumps(fields | {"reader": reader_version()}), encoding="utf-8")
    except OSError as error:
        log.debug("what outran its limits cannot be remembered (%s)", error)


@lru_cache(maxsize=1)
def reader_version() -> str:
    """PDFium's, by the package that brings it."""
    return version("pypdfium2")


def _folder() -> Path:
    return user_cache_path("llama-index-rnx") / "pdf"


def _records(path: str, task: str) -> dict[int, Record]:
    """The records of a file, by page."""
    try:
        size = os.stat(path).st_size
        if not any(_folder().glob(f"{size}-*")):  # then its content need not be read
            return {}
        files = list(_folder().glob(f"{_content(path)}-{task}-*.json"))
    except (OSError, ValueError) as error:  # the latter: a path that the system cannot write
        log.debug("what outran its limits cannot be read (%s)", error)
        return {}
    read = {file: _read(file) for file in files}
    return {_page_of(file): found for file, found in read.items() if found is not None}


def _page_of(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def _read(file: Path) -> Record | None:
    try:
        fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return Record(
            how=str(fields["how"]),
            seconds=float(fields["seconds"]),
            memory=int(fields["memory"]),
            reader=str(fields["reader"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.debug("%s is no record (%s)", file, error)
        return None


def _content(path: str) -> str:
    found = os.stat(path)
    return _digest(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    """Size and SHA-256 of a file; the time is here to tell its versions apart."""
    with open(path, "rb") as stream:
        return f"{size}-{hashlib.file_digest(stream, 'sha256').hexdigest()}"
