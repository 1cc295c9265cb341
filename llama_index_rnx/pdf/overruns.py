"""Remembers on disk which pages outran their limits, so that no later start tries them again. It
opens no PDF.

A record is a file of its own, named by the content of the PDF. A record that cannot be read or
written counts as missing: the page is tried again.
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

# After so many pages a document is given up: one of 2,000 such pages would take a day.
GIVEN_UP_AFTER = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one page: seconds of processor time, bytes of memory beyond an idle process.

    The most expensive of 819 pages of papers, manuals and slides took less than 2 s and 100 MiB.
    """

    seconds: float = 15.0
    memory: int = 2**30

    @property
    def timeout(self) -> float:
        """Seconds by the clock within which an answer must come; a busy machine needs more."""
        return 4 * self.seconds + 5


@dataclass(frozen=True, kw_only=True)
class Record:
    """How a page outran its limits (`time`, `memory`, or a `crash` of PDFium), and these limits."""

    how: str
    seconds: float
    memory: int
    reader: str

    def stands(self, limits: Limits) -> bool:
        """Return whether it would happen again: no limit is higher now, and PDFium is the same."""
        if self.how == "time":
            return self.seconds >= limits.seconds
        if self.how == "memory":
            return self.memory >= limits.memory
        return self.reader == reader_version()


def recorded(path: str, task: str, page: int, limits: Limits) -> str | None:
    """Return how a page outran these limits; `"pages"` if too many others of its file did; None if
    the page may be tried.

    Args:
        task: `count`, `text` or `draw`.
        page: from 0; -1 for the whole document.
    """
    records = _read_records(path, task)
    valid = {number: record for number, record in records.items() if record.stands(limits)}
    if page in valid:
        return valid[page].how

    return "pages" if len(valid) >= GIVEN_UP_AFTER else None


def record(path: str, task: str, page: int, how: str, limits: Limits) -> None:
    """Remember that a page outran its limits."""
    fields = {
        "how": how,
        "seconds": limits.seconds,
        "memory": limits.memory,
        "reader": reader_version(),
    }
    try:
        target = _folder() / f"{_content_key(path)}-{task}-{page}.json"
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_write(target, concurrent=True) as temporary:
            temporary.write_text(json.dumps(fields), encoding="utf-8")
    except OSError as error:
        log.debug("what outran its limits cannot be remembered (%s)", error)


@lru_cache(maxsize=1)
def reader_version() -> str:
    """Return the version of PDFium, by the package that brings it."""
    return version("pypdfium2")


def _folder() -> Path:
    return user_cache_path("llama-index-rnx") / "pdf"


def _read_records(path: str, task: str) -> dict[int, Record]:
    """Return the records of a file, by page."""
    try:
        # Without a record of a file of this size, its content need not be read.
        size = os.stat(path).st_size
        if not any(_folder().glob(f"{size}-*")):
            return {}
        files = list(_folder().glob(f"{_content_key(path)}-{task}-*.json"))
    # A ValueError: the system cannot write the path.
    except (OSError, ValueError) as error:
        log.debug("what outran its limits cannot be read (%s)", error)
        return {}

    records = {_page_of(file): _read_record(file) for file in files}
    return {page: record for page, record in records.items() if record is not None}


def _page_of(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def _read_record(file: Path) -> Record | None:
    """Return the record in a file; None if it is damaged."""
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


def _content_key(path: str) -> str:
    status = os.stat(path)
    return _digest(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    """Return size and SHA-256 of a file; the time tells its versions apart in the cache."""
    with open(path, "rb") as stream:
        return f"{size}-{hashlib.file_digest(stream, 'sha256').hexdigest()}"
