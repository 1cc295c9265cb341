"""Connections of strangers: uvicorn waits for the head of a request, or for a reader, as long as
the other side likes.

Here a connection has some seconds for a head, another that does not read its answer is cut off, and
when there are too many the one that has waited longest for a head goes. A head takes a caller that
means well milliseconds.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # from the first moment, or the first byte, to the end of a request's head
WRITE_SECONDS = 60.0  # within which the other side must take what was sent
MAX_CONNECTIONS = 512  # well below the 1,024 open files that a process usually may have


class GuardedProtocol(H11Protocol):
    """uvicorn's own protocol with these limits; pass it as `uvicorn.Config(http=GuardedProtocol)`."""

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
        """Whether no request is at work here; the rest of a body that was refused counts as none."""
        answered = self.cycle is not None and self.cycle.response_complete
        return self.conn.their_state is h11.IDLE or answered

    def _watch_head(self) -> None:
        self.waits_since = self.loop.time()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_overdue)

    def _close_overdue(self) -> None:
        self._head_timer = None
        if self.waits_for_head:
            self.transport.abort()

    def _make_room(self) -> None:
        """If there are too many, close the connection that waits longest for a head, perhaps this."""
        if len(self.connections) <= MAX_CONNECTIONS:
            return
        opened: list[Any] = [each for each in self.connections if not each.transport.is_closing()]
        if len(opened) <= MAX_CONNECTIONS:
            return
        waiting = [each for each in opened if each.waits_for_head]
        min(waiting, key=lambda each: each.waits_since).transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._write_timer = None
