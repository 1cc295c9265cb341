"""Prints on a terminal, clean and in its encoding: all output of the command line leaves here. It
knows no nodes.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
import warnings
from types import TracebackType
from typing import IO, Any

from llama_index_rnx.text import encodable, json_text, lines, one_line


def print_note(text: object) -> None:
    """Print one line on stderr: an error, a warning, a report."""
    _write(sys.stderr, one_line(str(text)))


def print_text(text: object) -> None:
    """Print a result on stdout, with its lines."""
    _write(sys.stdout, lines(str(text)))


def print_html(page: str) -> None:
    """Print an HTML page on stdout; its texts are clean already."""
    _write(sys.stdout, page, errors="xmlcharrefreplace")


def print_json(value: Any) -> None:
    """Print JSON on stdout, readable; in ASCII if the encoding is not Unicode."""
    ascii_only = not is_unicode(_encoding_of(sys.stdout))
    _write(sys.stdout, json_text(value, ensure_ascii=ascii_only))


def print_json_line(value: Any) -> None:
    """Print JSON on one line of stdout, at once and in ASCII, for a program that watches."""
    print(json.dumps(value), flush=True)


def is_unicode(encoding: str) -> bool:
    """Return whether an encoding can show any character.

    Example:
        >>> is_unicode("UTF-8"), is_unicode("latin-1")
        (True, False)
    """
    return encoding.lower().startswith("utf")


def clean_what_python_prints() -> None:
    """Clean warnings, log records and tracebacks, too, of whatever library they are."""
    warnings.showwarning = lambda message, *_: print_note(f"warning: {message}")
    logging.setLogRecordFactory(CleanRecord)
    sys.excepthook = _print_traceback


class CleanRecord(logging.LogRecord):
    """A log record whose message and traceback may hold foreign text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info:
            self.exc_text = lines(logging.Formatter().formatException(self.exc_info))

    # The name is that of `logging`.
    def getMessage(self) -> str:  # noqa: N802
        return lines(super().getMessage())


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    _write(sys.stderr, lines("".join(traceback.format_exception(kind, error, trace))))


def _write(stream: IO[str], text: str, errors: str = "replace") -> None:
    print(encodable(text, _encoding_of(stream), errors), file=stream)


def _encoding_of(stream: IO[str]) -> str:
    """Return the encoding of a stream; one in memory has none, and accepts anything."""
    return getattr(stream, "encoding", None) or "utf-8"
