"""Starts the processes that read PDFs, reuses them, kills those that hang. It knows no pages."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from llama_index_rnx.errors import RNXError
from llama_index_rnx.pdf.worker import OUT_OF_MEMORY, OUT_OF_TIME

# Processes at once: one bad document keeps one of them busy, the others go on.
PROCESSES = 4
START_SECONDS = 60.0
_ABANDONED_BY_FORK: list[Child] = []

Ending = Literal["time", "memory", "late", "crash", "stopped"]


class EndedError(Exception):
    """The process ended before it answered; `how` says what ended it."""

    def __init__(self, how: Ending) -> None:
        super().__init__(how)
        self.how: Ending = how


class _PipeBrokenError(Exception):
    """The other end of a pipe is closed."""


class Child:
    """One process and the pipes to it. Not for two threads at once."""

    def __init__(self) -> None:
        # The path of the last request; the process probably holds it open.
        self.document = ""

        # False from a request to its answer: the pipe may hold half of one.
        self.is_reusable = True
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Ctrl-C reaches the parent alone.
                start_new_session=True,
            )
        except OSError as error:
            raise RNXError(f"no process to read PDFs can be started ({error}).") from error
        self._send_paths()

    def _send_paths(self) -> None:
        """Send where the libraries are; `-I -S` saves the time to look for them."""
        paths = [path for path in sys.path if isinstance(path, str) and path]
        try:
            self.ask({"paths": paths}, START_SECONDS)
        except EndedError as error:
            self.kill()
            raise RNXError(
                f"{sys.executable} cannot be started to read PDFs; is pypdfium2 installed?"
            ) from error

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], timeout: float) -> tuple[dict[str, Any], bytes]:
        """Return the header and the data of the answer to a request.

        Args:
            timeout: seconds after which the process is killed.

        Raises:
            EndedError: the process ended instead.
        """
        is_late = threading.Event()

        def kill() -> None:
            is_late.set()
            self._process.kill()

        timer = threading.Timer(timeout, kill)
        timer.daemon = True
        timer.start()
        self.is_reusable = False
        try:
            self._write(request)
            header, data = self._read()
        except _PipeBrokenError as error:
            code = self._process.wait()
            raise EndedError("late" if is_late.is_set() else _ending(code)) from error
        finally:
            timer.cancel()
        self.is_reusable = not header.get("last", False)
        return header, data

    def kill(self) -> None:
        """End the process, whatever it does, and close the pipes to it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def disown(self) -> None:
        """Wait for it no more: after a fork it is the child of another process, which does."""
        self._process.returncode = 0

    def _write(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise _PipeBrokenError from error

    def _read(self) -> tuple[dict[str, Any], bytes]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise _PipeBrokenError

        header = json.loads(line)
        data = self._process.stdout.read(header.get("size", 0))
        if len(data) < header.get("size", 0):
            raise _PipeBrokenError
        return header, data


def _ending(code: int) -> Ending:
    """Return what ended a process with this exit code."""
    if code == OUT_OF_TIME:
        return "time"
    if code == OUT_OF_MEMORY:
        return "memory"

    # Something outside killed it, or it saw the pipe closed.
    return "stopped" if code in (0, 1, -9, -15) else "crash"


class Pool:
    """Processes, one for each document that is read at the moment, `size` at most."""

    def __init__(self, size: int = PROCESSES) -> None:
        self.size = size
        self._changed = threading.Condition()
        self._reading: set[str] = set()
        self._at_work: list[Child] = []
        self._idle: list[Child] = []
        self._closed = False

    @contextmanager
    def child(self, document: str) -> Iterator[Child]:
        """Reserve a process for a document, once no other thread reads it and a process is free.

        Raises:
            RNXError: the pool is closed, or no process can be started.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._has_room_for(document))
            if self._closed:
                raise RNXError("PDFs are no longer read: the program ends.")
            self._reading.add(document)
            child = self._idle_for(document)
        try:
            child = child or Child()
            child.document = document
            self._at_work.append(child)
            yield child
        finally:
            self._release(document, child)

    def children(self) -> list[Child]:
        """Return all processes, idle or at work."""
        with self._changed:
            return [*self._idle, *self._at_work]

    def close(self) -> None:
        """Kill all processes and start no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for child in self.children():
            child.kill()

    def _has_room_for(self, document: str) -> bool:
        is_free = document not in self._reading and len(self._reading) < self.size
        return is_free or self._closed

    def _idle_for(self, document: str) -> Child | None:
        """Take an idle process, if possible the one that has this document open; or None."""
        for child in [child for child in self._idle if not child.is_alive]:
            self._idle.remove(child)
            # It is dead already: this closes the pipes to it.
            child.kill()
        if not self._idle:
            return None
        best = max(self._idle, key=lambda child: child.document == document)
        self._idle.remove(best)
        return best

    def _release(self, document: str, child: Child | None) -> None:
        with self._changed:
            self._reading.discard(document)
            self._changed.notify_all()
            if child is None:
                return
            if child in self._at_work:
                self._at_work.remove(child)
            if child.is_reusable and not self._closed:
                self._idle.append(child)
                return
        child.kill()


_pool = Pool()


def shared_pool() -> Pool:
    """Return the pool of this process."""
    return _pool


def _after_fork() -> None:
    """Begin a new pool: the processes belong to the parent, and threads that a fork does not copy
    may hold the locks.
    """
    global _pool
    abandoned = [*_pool._idle, *_pool._at_work]
    for child in abandoned:
        child.disown()
    _ABANDONED_BY_FORK.extend(abandoned)
    _pool = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: _pool.close())
