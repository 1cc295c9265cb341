"""One model, many callers: windows that wait are read together. It knows no model and no order.

Nobody waits for company: who finds the model free reads at once, and whoever comes meanwhile is read together by the next
of them. So a lone query is as fast as without this file, and under load the forwards fill up by themselves.

The model itself runs on a few threads (`_Desk`), however many callers there are.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import ParamSpec, TypeVar

import torch

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.base import Ask, BatchRanker, Ranker, score_windows

WINDOWS_AT_ONCE = 64  # of one read; the ranker itself splits what does not fit its memory
CALLERS = 64  # threads for async callers; all but one of them wait
Found = TypeVar("Found")
Item = TypeVar("Item")
Given = ParamSpec("Given")

_left: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("left", default=None)


class CallerLeftError(BaseException):
    """The caller was cancelled while its windows waited; nobody is there to see this."""


class _Desk:
    """The few threads on which a model works; who brings work waits for it.

    Not the callers' own threads: libraries keep scratch memory for every thread that ever multiplied with them, so that 64
    callers of rnx-mini had cost 273 MiB for good (now 32). And each would have OpenMP threads of its own, which wait for one
    another wherever a core is wanted by others, too: where a model has several threads, they share out what one would have.
    On two cores, one of them busy with other work, a list of 100 took rnx-mini 1,880 ms with two OpenMP threads and 67 with
    one; on idle ones 37 and 55, and 8 callers had 37 answers a second each on its own thread, 46 here.
    """

    def __init__(self, threads: int) -> None:
        self._threads, self._lock = threads, threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def run(self, work: Callable[Given, Found], *args: Given.args, **kwargs: Given.kwargs) -> Found:
        """What the work gives, or raises."""
        if self._threads == 1 and threading.current_thread() is threading.main_thread():
            return work(*args, **kwargs)  # as fast as a program without any threads
        return self._threads_of(os.getpid()).submit(work, *args, **kwargs).result()

    def run_each(self, work: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
        """What the work gives for each, side by side."""
        return list(self._threads_of(os.getpid()).map(work, items))

    def _threads_of(self, process: int) -> ThreadPoolExecutor:
        """A fork has none of its parent's threads: it begins with new ones."""
        with self._lock:
            if self._pool is None or self._process != process:
                self._pool, self._process = self._begun(), process
            return self._pool

    def _begun(self) -> ThreadPoolExecutor:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="rnx-model")
        if self._threads > 1:
            usual, all_here = torch.get_num_threads(), threading.Barrier(self._threads)
            share = max(1, usual // self._threads)
            list(pool.map(lambda _: _take(share, all_here), range(self._threads)))
            torch.set_num_threads(usual)  # what was set there counts for threads to come, too: those are none of ours
        return pool


def _take(share: int, all_here: threading.Barrier) -> None:
    """This thread computes with so many of OpenMP's; each thread of a pool comes here once."""
    all_here.wait()
    torch.get_num_threads()  # at its first question a thread takes the usual number: only then another one stays
    torch.set_num_threads(share)


@dataclass(kw_only=True)
class _Call:
    """The windows of one caller, and what became of them."""

    asks: Sequence[Ask]
    left: threading.Event | None
    scores: list[list[float]] = field(default_factory=list)
    error: BaseException | None = None
    done: bool = False

    def result(self) -> list[list[float]]:
        if self.error is not None:
            raise self.error
        return self.scores


class SharedRanker:
    """A `Ranker` that any number of threads may ask at once; the one inside is asked by one of them at a time.

    Callers are read in the order in which they came, `windows_at_once` windows a read (one caller's windows are never torn
    apart), so no caller starves. If a read of several callers fails, each is read alone: one's fault is not another's.

    Scores are equal to those of a caller alone; only how many windows share a forward differs.

    A ranker that gains nothing by reading windows together may say how many threads can read side by side (`readers`); each
    then reads one caller's windows. For rnx-mini on a CPU that is one a core: read one after the other, eight callers had .42
    of the throughput of `asyncio.to_thread` on two cores.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> from llama_index_rnx import load_ranker
        >>> alone = load_ranker()
        >>> together = SharedRanker(alone)
        >>> memories = together.remember([Candidate(id="a", text="Bees make honey."), Candidate(id="b", text="Rust is red.")])
        >>> queries = [Query(text="what do bees make?"), Query(text="which colour is rust?")]
        >>> with ThreadPoolExecutor() as callers:
        ...     found = list(callers.map(lambda query: together.score(query, memories), queries))
        >>> [scores.index(max(scores)) for scores in found]
        [0, 1]
    """

    def __init__(self, ranker: Ranker, windows_at_once: int = WINDOWS_AT_ONCE) -> None:
        self._ranker, self._windows_at_once = ranker, windows_at_once
        self._waiting: deque[_Call] = deque()
        self._turn = threading.Condition()
        self._reading = 0  # threads that read now
        self._readers = 1 if isinstance(ranker, BatchRanker) else max(1, int(getattr(ranker, "readers", 1)))
        if self._readers > 1:
            self._windows_at_once = 1
        self._score_desk, self._remember_desk = _Desk(self._readers), _Desk(1)
        self._remembering = threading.Lock()

    @classmethod
    def of(cls, ranker: Ranker) -> SharedRanker:
        """The one of this ranker, whoever asks for it, for as long as somebody has it."""
        with _sharing:
            found = _shared_rankers.get(id(ranker))
            if found is None:
                found = _shared_rankers[id(ranker)] = cls(ranker)
            return found

    def run(self, work: Callable[Given, Found], *args: Given.args, **kwargs: Given.kwargs) -> Found:
        """Other work of the model for a query, on the threads that score."""
        return self._score_desk.run(work, *args, **kwargs)

    @property
    def name(self) -> str:
        return self._ranker.name

    @property
    def fingerprint(self) -> str:
        return self._ranker.fingerprint

    @property
    def window(self) -> int:
        return self._ranker.window

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """As the ranker does, one caller at a time; scoring goes on meanwhile."""
        with self._remembering:
            return self._remember_desk.run(self._ranker.remember, candidates)

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """One score a memory."""
        return self.score_many([(query, memories)])[0]

    def score_many(self, asks: Sequence[Ask]) -> list[list[float]]:
        """The scores of several windows, read together with those of other callers."""
        call = _Call(asks=asks, left=_left.get())
        with self._turn:
            self._waiting.append(call)
        while not call.done:
            batch = self._wait(call)
            if batch:
                self._read_batch(batch)
        return call.result()

    def _wait(self, call: _Call) -> list[_Call]:
        """Until the call is done, or it is this thread's turn to read: the calls that it then reads."""
        with self._turn:
            while not call.done and (self._reading >= self._readers or not self._waiting):
                self._turn.wait()
            if call.done:
                return []
            self._reading += 1
            return self._next_batch()

    def _next_batch(self) -> list[_Call]:
        batch, windows = list[_Call](), 0
        while self._waiting and (not batch or windows + len(self._waiting[0].asks) <= self._windows_at_once):
            call = self._waiting.popleft()
            if call.left is not None and call.left.is_set():
                call.error, call.done = CallerLeftError(), True
                continue
            batch.append(call)
            windows += len(call.asks)
        return batch

    def _read_batch(self, batch: Sequence[_Call]) -> None:
        """Whatever happens, the turn is given on, and a call that was not read (Ctrl-C) stands first in the queue again."""
        try:
            self._read(batch)
        finally:
            with self._turn:
                self._waiting.extendleft(call for call in reversed(batch) if not call.done)
                self._reading -= 1
                self._turn.notify_all()

    def _read(self, batch: Sequence[_Call]) -> None:
        try:
            found = self._scores([ask for call in batch for ask in call.asks])
        except Exception as error:
            if len(batch) > 1:
                for call in batch:
                    self._read([call])
            else:
                batch[0].error, batch[0].done = error, True
            return
        start = 0
        for call in batch:
            call.scores, call.done = found[start : start + len(call.asks)], True
            start += len(call.asks)

    def _scores(self, asks: Sequence[Ask]) -> list[list[float]]:
        """Together, or a window a thread where the model has several."""
        if self._readers == 1 or len(asks) == 1:
            return self._score_desk.run(score_windows, self._ranker, asks)
        return [scores for (scores,) in self._score_desk.run_each(lambda ask: score_windows(self._ranker, [ask]), asks)]


def shared(ranker: Ranker) -> Ranker:
    """The ranker for many threads: itself if it is made for them (a service), otherwise its `SharedRanker`.

    There is one for a ranker, however many instances of `RNXRerank` in the process have it (rnx-mini is loaded once for all):
    their callers are read in one order, on the same few threads.
    """
    return ranker if getattr(ranker, "takes_threads", False) else SharedRanker.of(ranker)


_sharing = threading.Lock()
_shared_rankers = weakref.WeakValueDictionary[int, SharedRanker]()  # each holds its ranker, so no other has that id meanwhile


async def in_thread(work: Callable[[], Found], ended: Callable[[], None] | None = None) -> Found:
    """Runs blocking work beside the event loop; `ended` is called when its thread is free again.

    When the caller is cancelled, its windows that still wait are not read.
    """
    left, context, loop = threading.Event(), contextvars.copy_context(), asyncio.get_running_loop()
    context.run(_left.set, left)
    future = _callers(os.getpid()).submit(context.run, work)
    if ended is not None:
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(ended))
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        left.set()
        raise


@cache
def _callers(process: int) -> ThreadPoolExecutor:
    """More threads than asyncio's own pool has: those that wait cost nothing, and only who waits can be read together.

    By process, as a fork has none of its parent's threads.
    """
    return ThreadPoolExecutor(max_workers=CALLERS, thread_name_prefix="rnx")
