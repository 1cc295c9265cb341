"""Ends a process in time, even within a C library, which only a watchdog can interrupt. It knows no
server and no model.

Whatever this package writes to disk is whole at any moment (transactions, files that are renamed
when they are complete), so the watchdog loses nothing that an ordinary end would have kept.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn

# Exit codes after Ctrl-C and SIGTERM, as shells have them.
INTERRUPTED = 130
TERMINATED = 143

# From Ctrl-C to the end of the process; where all cores are busy it is a second more.
INTERRUPT_SECONDS = 3.0

# From SIGTERM to the end of the process, in which requests may finish.
TERMINATE_SECONDS = 30.0

# The share of INTERRUPT_SECONDS after which uvicorn cancels requests.
_CANCEL_SECONDS = 1

# How long before the watchdog uvicorn cancels what SIGTERM let go on.
_TERMINATE_MARGIN_SECONDS = 2


def end_within(seconds: float, code: int) -> None:
    """End this process with an exit code if it still runs after so many seconds."""
    watchdog = threading.Timer(seconds, _end, [code])
    watchdog.daemon = True
    watchdog.start()


def _end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def run_until_stopped(config: uvicorn.Config, listener: socket.socket) -> None:
    """Serve on a listening socket until a signal comes: Ctrl-C cancels requests, SIGTERM lets them
    finish; both in bounded time.
    """
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if sig == signal.SIGINT:
                self.config.timeout_graceful_shutdown = _CANCEL_SECONDS
                end_within(INTERRUPT_SECONDS, INTERRUPTED)
            else:
                self.config.timeout_graceful_shutdown = (
                    int(TERMINATE_SECONDS) - _TERMINATE_MARGIN_SECONDS
                )
                end_within(TERMINATE_SECONDS, TERMINATED)
            super().handle_exit(sig, frame)

    Server(config).run(sockets=[listener])
