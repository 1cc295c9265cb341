"""Counts, reads and draws the pages of PDFs, in other processes. It knows no nodes.

A file that is broken, locked or never ends is an error of one line. Pages that outran their limits
are remembered, so that nobody waits for them twice.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from llama_index_rnx.errors import ImageError, RNXError, SettingsError
from llama_index_rnx.pdf.overruns import GIVEN_UP_AFTER, Limits, record, recorded
from llama_index_rnx.pdf.text_layer import clean_pages
from llama_index_rnx.pdf.worker_pool import EndedError, shared_pool

__all__ = ["PAGE_PIXELS", "READER", "Limits", "PageText", "count_pages", "draw_page", "read_pages"]

# The size of a drawn page.
PAGE_PIXELS = 1_280 * 28 * 28

# The version of the text and the drawing of pages. Raise it when they change, and indexes are
# renewed.
READER = 1

# A file of 600 bytes may say that it has a million pages.
MAX_PAGES = 20_000

# Characters of a document.
MAX_CHARACTERS = 2**26

# The page of a request for the whole document.
WHOLE = -1

# The failures that would happen again; a kill from outside would not.
OUTRUN = ("time", "memory", "crash")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PageText:
    """The text of a page; `has_fields` if some of it was typed into a form."""

    text: str
    has_fields: bool


NO_TEXT = PageText(text="", has_fields=False)


class UnreadableError(RNXError):
    """A PDF or a page of it cannot be read; the message is the reason alone."""


def limits_from(environment: Mapping[str, str] = os.environ) -> Limits:
    """Return the limits of a page: `RNX_PDF_SECONDS` and `RNX_PDF_MIB`, or else the defaults.

    Raises:
        SettingsError: one of them is no number above 0.

    Example:
        >>> limits_from({"RNX_PDF_SECONDS": "90"}).seconds
        90.0
    """
    seconds = _number(environment, "RNX_PDF_SECONDS", Limits.seconds)
    mebibytes = _number(environment, "RNX_PDF_MIB", Limits.memory / 2**20)
    return Limits(seconds=seconds, memory=int(mebibytes * 2**20))


def count_pages(path: str | Path, limits: Limits | None = None) -> int:
    """Return how many pages a PDF has.

    Raises:
        RNXError: it is missing, broken, encrypted, has more than `MAX_PAGES`, or opening it takes
            too much time or memory.
    """
    return _open_and_count(path, limits, keep_open=False)


def read_pages(path: str | Path, limits: Limits | None = None) -> list[PageText]:
    """Return the texts of a PDF's pages: text layer, filled fields, broken words joined.

    The document is opened once: the process that counts its pages keeps it open and reads them.
    A page without a text layer, as of a scan, and one that cannot be read have an empty text.

    Raises:
        RNXError: as `count_pages`.
    """
    pages: list[PageText] = []
    faults: dict[int, str] = {}
    room = MAX_CHARACTERS
    for index in range(_open_and_count(path, limits, keep_open=True)):
        try:
            pages.append(_page_text(path, index, limits) if room > 0 else NO_TEXT)
        except UnreadableError as error:
            pages.append(NO_TEXT)
            faults[index + 1] = str(error)
        room -= len(pages[-1].text)
    _warn(path, faults, has_more=room <= 0)

    texts = clean_pages([page.text for page in pages])
    return [replace(page, text=text) for page, text in zip(pages, texts, strict=True)]


def draw_page(
    path: str | Path, index: int, pixels: int = PAGE_PIXELS, limits: Limits | None = None
) -> Image.Image:
    """Draw a page (index from 0) as an RGB image of about `pixels`, whatever its size on paper.

    Raises:
        ImageError: it is not there or broken, or drawing it takes too much time or memory.
    """
    try:
        header, data = _ask("draw", path, index, limits, pixels=pixels)
        size = (int(header["width"]), int(header["height"]))
        return Image.frombytes("RGB", size, data, "raw", "BGR", int(header["stride"]))
    except (UnreadableError, ValueError) as error:
        raise ImageError(f"{path}#{index + 1}: the page cannot be drawn ({error}).") from error


def _open_and_count(path: str | Path, limits: Limits | None, keep_open: bool) -> int:
    """Return the number of pages.

    Args:
        keep_open: leave the document open for its pages, which are read next.
    """
    try:
        header, _ = _ask("count", path, WHOLE, limits, keep_open=keep_open)
    except UnreadableError as error:
        raise RNXError(
            f"{path}: cannot be opened as a PDF ({error}); mend it or leave it out."
        ) from error

    pages = int(header["pages"])
    if pages > MAX_PAGES:
        raise RNXError(f"{path}: has {pages:,} pages; at most {MAX_PAGES:,} are read, split it.")
    return pages


def _page_text(path: str | Path, index: int, limits: Limits | None) -> PageText:
    """Return the text layer of a page as PDFium reads it."""
    header, _ = _ask("text", path, index, limits)
    return PageText(text=str(header["text"]), has_fields=bool(header["fields"]))


def _warn(path: str | Path, faults: Mapping[int, str], has_more: bool) -> None:
    """Warn of all pages without text in one line: a file of 300 bytes may have 20,000 of them."""
    if faults:
        number, fault = next(iter(faults.items()))
        likewise = f", {len(faults) - 1:,} other pages likewise" if len(faults) > 1 else ""
        log.warning(
            "%s#%d: the page is taken to have no text (%s)%s.", path, number, fault, likewise
        )
    if has_more:
        log.warning("%s: text beyond %d characters is not read.", path, MAX_CHARACTERS)


def _ask(
    task: str, path: str | Path, page: int, limits: Limits | None, **more: int
) -> tuple[dict[str, Any], bytes]:
    """Return the answer of a process; of a second one if something else killed the first.

    Raises:
        UnreadableError: with the reason in a few words.
    """
    limits = limits or limits_from()
    request = {"do": task, "path": os.path.abspath(path), "page": page, **more}
    request |= {"seconds": limits.seconds, "memory": limits.memory}
    for last_attempt in (False, True):
        try:
            return _ask_once(request, limits)
        except EndedError as error:
            if error.how != "stopped" or last_attempt:
                raise UnreadableError(_line(task, error.how, limits)) from error
    raise AssertionError("the last attempt returns or raises")


def _ask_once(request: dict[str, Any], limits: Limits) -> tuple[dict[str, Any], bytes]:
    """Wait for a process and ask it, unless the same request outran its limits before."""
    task = request["do"]
    path = request["path"]
    page = request["page"]

    with shared_pool().child(path) as child:
        overrun = recorded(path, task, page, limits)
        if overrun is not None:
            raise UnreadableError(_line(task, overrun, limits))

        try:
            header, data = child.ask(request, limits.timeout)
        except EndedError as error:
            if error.how in OUTRUN:
                record(path, task, page, error.how, limits)
            raise

    if "error" in header:
        raise UnreadableError(str(header["error"]))
    return header, data


def _line(task: str, how: str, limits: Limits) -> str:
    """Return in a few words how a request outran its limits."""
    verb = {"count": "open", "text": "read", "draw": "draw"}[task]
    lines = {
        "time": f"it takes more than {limits.seconds:g} s to {verb}",
        "late": f"it takes more than {limits.timeout:g} s to {verb}",
        "memory": f"it takes more than {limits.memory >> 20:,} MiB to {verb}",
        "pages": f"{GIVEN_UP_AFTER} of its pages took too much to {verb}, no other is tried",
        "crash": "it breaks PDFium",
    }
    return lines.get(how, "the process that reads it was killed")


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    value = environment.get(name, "")
    try:
        number = float(value) if value else default
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise SettingsError(f"{name} is {value!r}; a number above 0 is allowed.")
    return number
