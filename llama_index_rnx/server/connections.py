"""Limits on open connections: uvicorn itself waits for the head of a request, or for a slow reader,
as long as the other side likes. It knows no request.

Here a connection has some seconds to send a head. A connection whose other side does not read its
answer is cut off. When there are too many connections, the one that has waited longest for a head
is closed. An honest caller sends a head within milliseconds.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# The longest time from the start of a connection, or from the first byte of a request, to the end
# of the request's head.
HEAD_SECONDS = 10.0
# The longest time within which the other side must take what was sent.
WRITE_SECONDS = 60.0
# Well below the 1,024 open files that a process usually may have.
MAX_CONNECTIONS = 512


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with these limits; pass it as `uvicorn.Config(http=GuardedProtocol)`."""

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    waits_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.waits_for_head:
            self._stop_head_timer()
        elif self._head_timer is None:
            self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    @property
    def waits_for_head(self) -> bool:
        """Whether no request is at work here; the rest of a refused body counts as none."""
        is_answered = self.cycle is not None and self.cycle.response_complete
        return self.conn.their_state is h11.IDLE or is_answered

    def _watch_head(self) -> None:
        self.waits_since = self.loop.time()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_overdue)

    def _close_overdue(self) -> None:
        self._head_timer = None
        if self.waits_for_head:
            self.transport.abort()

    def _make_room(self) -> None:
        """If there are too many connections, close the one that waits longest for a head; it may be
        this one.
        """
        if len(self.connections) <= MAX_CONNECTIONS:
            return

        open_connections: list[Any] = [
            connection for connection in self.connections if not connection.transport.is_closing()
        ]
        if len(open_connections) <= MAX_CONNECTIONS:
            return

        waiting = [connection for connection in open_connections if connection.waits_for_head]
        oldest = min(waiting, key=lambda connection: connection.waits_since)
        oldest.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._write_timer = None
