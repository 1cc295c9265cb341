"""Finds the type of an uploaded file by its content, and a name for it. It knows no index.

A name is only shown: it never becomes a path.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llama_index_rnx.candidates import file_source
from llama_index_rnx.errors import RNXError, SettingsError
from llama_index_rnx.pdf import count_pages
from llama_index_rnx.text import clean

MAX_PAGES = 2_000  # of a PDF; half an hour of one core
MAX_NAME = 120  # characters
HEAD_BYTES = 1_024  # A PDF may begin a little later than its file.
CHECKED_PIXELS = 64 * 64  # An image is read this small, to see whether it can be.


def display_name(name: str) -> str:
    """Return a name that is only shown: no folders, nothing invisible, at most `MAX_NAME`
    characters.

    Example:
        >>> display_name("../../etc/pass\\x00wd.pdf"), display_name("C:\\\\docs\\\\a.pdf")
        ('pass wd.pdf', 'a.pdf')
        >>> display_name("..")
        'upload'
    """
    base_name = name.replace("\\", "/").rsplit("/", 1)[-1]
    return clean(base_name).strip(". ")[-MAX_NAME:] or "upload"


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """Return the name, with a number where another file has it.

    Example:
        >>> free_name("a.pdf", {"a.pdf", "a (2).pdf"}.__contains__)
        'a (3).pdf'
    """
    stem, dot, suffix = name.rpartition(".")
    candidate = name
    number = 1
    while is_taken(candidate):
        number += 1
        candidate = f"{stem} ({number}){dot}{suffix}"
    return candidate


def with_suffix(name: str, suffix: str) -> str:
    """Return the name with the suffix of its content, so that no image has a name that reads like
    the page of a PDF.
    """
    own_suffix = Path(name).suffix.lower().replace("jpeg", "jpg")
    return name if own_suffix == suffix else name + suffix


def checked_suffix(path: Path, name: str) -> str:
    """Return the suffix that fits the content of a file, whatever its name says. All of the file is
    read, not only its head.

    Raises:
        SettingsError: it is empty, broken, too large, or neither a PDF nor an image.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not head:
        raise SettingsError(f"{name}: is empty (0 bytes); choose another file.")

    suffix = _suffix_of(head)
    if suffix is None:
        raise SettingsError(
            f"{name}: is neither a PDF nor an image (PNG, JPEG, WebP); choose another file."
        )
    try:
        _check_readable(path, suffix, name)
    except RNXError as error:
        raise SettingsError(str(error).replace(str(path), name)) from error
    return suffix


def _suffix_of(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    if head.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    return ".pdf" if b"%PDF-" in head else None


def _check_readable(path: Path, suffix: str, name: str) -> None:
    if suffix != ".pdf":
        file_source(path).load(max_pixels=CHECKED_PIXELS)
        return
    pages = count_pages(path)
    if not 0 < pages <= MAX_PAGES:
        raise SettingsError(f"{name}: has {pages:,} pages; from 1 to {MAX_PAGES:,} are taken.")
