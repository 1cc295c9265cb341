"""How much the page of `rnx ui` accepts. It imports nothing, so that a help page can name its
defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_UPLOAD_BYTES = 64 * 2**20  # of one file


@dataclass(frozen=True, kw_only=True)
class PageLimits:
    """How much the page accepts.

    question: bytes of a request.
    waiting: questions that are at work or waiting.
    uploads: files that are being received.
    silence: seconds in an answer without an event.
    pause: seconds in an upload without a byte.
    """

    question: int = 64 * 2**10
    waiting: int = 16
    uploads: int = 4
    silence: float = 300.0
    pause: float = 60.0
