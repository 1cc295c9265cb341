"""Imports that stay until the process ends. It knows no module."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Import, inside the block, what stays until the process ends: no garbage is looked for
    meanwhile, and never again in what there is at its end.

    Modules and classes refer to one another, and Python looks for garbage among all of them again
    and again, a last time when the process ends. That was 1.0 of the 3.8 seconds of the processor
    that one `rnx search` took. Where all is imported already, nothing changes.
    """
    was_enabled = gc.isenabled()
    count = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > count:
            gc.freeze()
        if was_enabled:
            gc.enable()
