"""A clock for one input: what takes longer than it may is a failure with its place, not a hang of
the whole run.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class HungError(BaseException):
    """No `except Exception` on the way catches it."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """In the main thread; a call into C is stopped when it returns."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise HungError(f"still at work after {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
