"""Ends a process in time: what runs in a C library cannot be interrupted, so a watchdog ends what
outlasts its time.

It knows no server and no model. Everything written to disk by this package is whole at any moment
(transactions, files that are renamed when they are complete), so an end by the watchdog costs
nothing that an ordinary one would have kept.
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

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
TERMINATED = 143
INTERRUPT_SECONDS = (
    3.0  # from Ctrl-C to the end of the process; where all cores are busy it is a second more
)
TERMINATE_SECONDS = 30.0  # from SIGTERM to the end, for what is at work
_CANCEL_SECONDS = 1  # uvicorn's part of INTERRUPT_SECONDS: then requests at work are cancelled


def end_within(seconds: float, code: int) -> None:
    """End this process with an exit code if it is still there after so many seconds."""
    watchdog = threading.Timer(seconds, _end, [code])
    watchdog.daemon = True
    watchdog.start()


def _end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def run_until_stopped(config: uvicorn.Config, door: socket.socket) -> None:
    """Serve until a signal comes: Ctrl-C cancels what is at work, SIGTERM finishes it; both in
    bounded time.
    """
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if sig == signal.SIGINT:
                self.config.timeout_graceful_shutdown = _CANCEL_SECONDS
                end_within(INTERRUPT_SECONDS, INTERRUPTED)
            else:
                self.config.timeout_graceful_shutdown = int(TERMINATE_SECONDS) - 2
                end_within(TERMINATE_SECONDS, TERMINATED)
            super().handle_exit(sig, frame)

    Server(config).run(sockets=[door])
