"""Two queues and a few threads on which a model works, and callers who may leave. It knows no
ranker.

The invariant: a task enters a queue together with one job of the thread pool, and a job that begins
takes at least one task unless all queues are empty. So there are never fewer jobs to begin than
tasks that wait, and every task is reached. A job belongs to nobody: it holds no lock and no turn
while it works, puts every outcome into the futures of its tasks, and ends.

A caller waits for a future. Who leaves cancels it: a task that was not begun is then passed over,
as `concurrent.futures` does by itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar

import torch

# StopIteration in a future makes asyncio wait for ever, a CancelledError says that the caller had
# left.
MISREAD = (StopIteration, CancelledError, asyncio.CancelledError)
ENDS_THE_LOOP = (SystemExit, KeyboardInterrupt)
CALLERS = 64  # threads for async callers; they wait, and compute nothing
Result = TypeVar("Result")
Batch = Callable[[Sequence[Any]], Sequence[Any]]


class RequestCancelledError(BaseException):
    """The caller was cancelled while its work waited; nobody is there to see this."""


class Caller:
    """Somebody who waits for one future after the other, and may leave at any time, from any
    thread.
    """

    def __init__(self) -> None:
        self._left = threading.Event()
        self._future: Future[Any] | None = None

    def leave(self) -> None:
        """Cancel what the caller waits for; what is at work already is finished, and nothing
        further begun.
        """
        self._left.set()
        future = self._future
        if future is not None:
            future.cancel()

    @property
    def has_left(self) -> bool:
        return self._left.is_set()

    def result(self, future: Future[Result]) -> Result:
        """Wait for a future.

        Raises:
            RequestCancelledError: the caller left. And whatever the work raised.
        """
        # The future is named before the flag is read, and `leave` does the two the other way round:
        # one of them cancels.
        self._future = future
        if self._left.is_set():
            future.cancel()

        try:
            result = future.result()
        except CancelledError as error:
            raise RequestCancelledError from error

        if self._left.is_set():
            raise RequestCancelledError
        return result


_caller: contextvars.ContextVar[Caller | None] = contextvars.ContextVar("caller", default=None)
_inside: contextvars.ContextVar[object] = contextvars.ContextVar(
    "inside", default=None
)  # whose pool is at work here


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One argument of a function that is called with several of them, and what becomes of it.

    Attributes:
        batch: gives one result for each argument; waiting tasks with the same function may share a
            call of it.
        weight: how much the task adds to a shared call.
    """

    batch: Batch
    argument: Any
    weight: int
    future: Future[Any] = field(default_factory=Future)


@dataclass(kw_only=True)
class _Process:
    """What belongs to one process: a fork has none of its parent's threads, so it begins anew.

    Attributes:
        mark: what `_inside` holds in the threads of the pool.
    """

    pid: int
    pool: ThreadPoolExecutor
    queues: tuple[deque[Task], ...]
    mark: object
    lock: threading.Lock = field(default_factory=threading.Lock)
    unfinished: set[Future[Any]] = field(default_factory=set)
    turn: int = 0
    moved: float = 0.0


_beginning = threading.Lock()


def _begin_anew() -> None:
    """A fork must not inherit a lock that another thread of its parent holds."""
    global _beginning
    _beginning = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class ModelExecutor:
    """The threads of one model. Its queues are served in turn, each in the order of arrival.

    The callers' own threads do not compute: libraries keep scratch memory for every thread that
    ever multiplied with them (64 callers of rnx-mini had cost 273 MiB for good, now 32), and each
    would have OpenMP threads of its own, which wait for one another wherever a core is busy with
    something else. Where a model has several threads, they share out what one would have. On two
    cores, one of them busy, a list of 100 took rnx-mini 1,880 ms with two OpenMP threads and 67
    with one.

    Args:
        threads: how many tasks may be at work side by side.
        queues: how many queues there are; a task of one never waits for more than one job a thread
            of another.
        batch_weight: tasks of one function are put together up to this weight; a heavier one is a
            batch of its own.
    """

    def __init__(self, threads: int, queues: int = 1, batch_weight: int = 1) -> None:
        self.threads = threads
        self._queues, self._batch_weight = queues, batch_weight
        self._process: _Process | None = None

    def submit(self, work: Callable[[], Result], *, queue: int = 0) -> Future[Result]:
        """Queue work that is done by itself; the future gets what it returns or raises."""
        return self.submit_batched(lambda _: [work()], None, queue=queue)

    def submit_batched(
        self, batch: Batch, argument: Any, *, queue: int = 0, weight: int = 1
    ) -> Future[Any]:
        """Queue one argument of `batch`; the future gets its result, or what a call for it alone
        raises.
        """
        process = self._here()
        task = Task(batch=batch, argument=argument, weight=weight)

        # Work that asks its own model would wait for the thread that it keeps busy.
        if _inside.get() is process.mark:
            _settle([task])
            return task.future

        task.future.add_done_callback(lambda future: self._finish(process, future))
        try:
            with process.lock:
                if not process.unfinished:
                    process.moved = time.monotonic()
                process.unfinished.add(task.future)
                process.queues[queue].append(task)
            process.pool.submit(self._work, process)
        except (
            BaseException
        ):  # the interpreter ends, no thread can be had, Ctrl-C: perhaps no job comes for this task
            task.future.cancel()
            raise
        return task.future

    @property
    def unfinished(self) -> int:
        """How many tasks wait or are at work."""
        process = self._process
        return len(process.unfinished) if process is not None and process.pid == os.getpid() else 0

    @property
    def moved(self) -> float:
        """When (`time.monotonic`) a task was last finished, or began while there was no other."""
        process = self._process
        return process.moved if process is not None and process.pid == os.getpid() else 0.0

    def _here(self) -> _Process:
        process = self._process
        if process is not None and process.pid == os.getpid():
            return process

        with _beginning:
            if self._process is process:
                mark = object()
                self._process = _Process(
                    pid=os.getpid(),
                    pool=_pool(self.threads, mark),
                    queues=tuple(deque[Task]() for _ in range(self._queues)),
                    mark=mark,
                )
        return self._here()

    def _finish(self, process: _Process, future: Future[Any]) -> None:
        with process.lock:
            process.unfinished.discard(future)
            if not future.cancelled():
                process.moved = time.monotonic()

    def _work(self, process: _Process) -> None:
        """One job: take some tasks, if there are any, and settle them."""
        tasks = self._take(process)
        if tasks:
            _settle(tasks)

    def _take(self, process: _Process) -> list[Task]:
        """The tasks of one call, from the queue whose turn it is; those whose callers left are
        dropped.
        """
        with process.lock:
            for step in range(self._queues):
                turn = (process.turn + step) % self._queues
                tasks = self._next_batch(process.queues[turn])
                if tasks:
                    process.turn = turn + 1
                    return tasks
        return []

    def _next_batch(self, queue: deque[Task]) -> list[Task]:
        tasks, weight = list[Task](), 0

        while queue and (not tasks or self._shares_call(tasks[0], queue[0], weight)):
            task = queue.popleft()
            if task.future.set_running_or_notify_cancel():
                tasks.append(task)
                weight += task.weight
        return tasks

    def _shares_call(self, first: Task, task: Task, weight: int) -> bool:
        return task.batch == first.batch and weight + task.weight <= self._batch_weight


def _settle(tasks: Sequence[Task]) -> None:
    """Call the function once for all tasks; if that fails, once for each, so that one's fault is
    not another's.
    """
    try:
        results = _plainly(partial(tasks[0].batch, [task.argument for task in tasks]))
        for task, result in zip(tasks, results, strict=True):
            task.future.set_result(result)
    except BaseException as error:
        waiting = [task for task in tasks if not task.future.done()]
        for task in waiting:
            if len(tasks) == 1:
                task.future.set_exception(error)
            else:
                _settle([task])


def _plainly(
    work: Callable[[], Result], misread: tuple[type[BaseException], ...] = MISREAD
) -> Result:
    """What the work gives. What it raises of kinds that would mean something else to the caller
    becomes a RuntimeError.
    """
    try:
        return work()
    except misread as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise RuntimeError(f"a model or a service gave no answer, it raised {reason}.") from error


def _pool(threads: int, mark: object) -> ThreadPoolExecutor:
    """A pool whose threads share out OpenMP's; all are started here, as torch's setting counts for
    later threads as well.
    """
    pool = ThreadPoolExecutor(threads, "rnx-model", initializer=_inside.set, initargs=(mark,))
    if threads > 1:
        usual, started = torch.get_num_threads(), threading.Barrier(threads)
        share = max(1, usual // threads)
        list(pool.map(lambda _: _set_share(share, started), range(threads)))
        torch.set_num_threads(usual)
    return pool


def _set_share(share: int, started: threading.Barrier) -> None:
    """Let this thread use so many of OpenMP's; each thread of a pool comes here once."""
    started.wait()
    # A thread takes the usual number at its first question: only then another one stays.
    torch.get_num_threads()
    torch.set_num_threads(share)


def wait_for(future: Future[Result]) -> Result:
    """The result of a future, for a caller who may leave meanwhile.

    Raises:
        RequestCancelledError: the caller left. And whatever the work raised.
    """
    caller = _caller.get()
    return caller.result(future) if caller is not None else future.result()


def check_caller() -> None:
    """Raises RequestCancelledError when nobody waits any more for what this thread does."""
    caller = _caller.get()
    if caller is not None and caller.has_left:
        raise RequestCancelledError


async def run_in_executor(
    work: Callable[[], Result], ended: Callable[[], None] | None = None
) -> Result:
    """Run blocking work beside the event loop; `ended` is called, from any thread, when nothing of
    it is left.

    When the caller is cancelled, what it waits for is cancelled too.
    """
    caller, context = Caller(), contextvars.copy_context()
    context.run(_caller.set, caller)
    try:
        future = _callers(os.getpid()).submit(
            context.run, _plainly, work, (*MISREAD, *ENDS_THE_LOOP)
        )
    except BaseException:  # no thread can be had
        caller.leave()
        if ended is not None:
            ended()
        raise
    if ended is not None:
        future.add_done_callback(lambda _: ended())

    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        caller.leave()
        raise


@cache
def _callers(process: int) -> ThreadPoolExecutor:
    """More threads than asyncio's own pool has: those that wait cost nothing, and only who waits
    can be read together.

    By process, as a fork has none of its parent's threads.
    """
    return ThreadPoolExecutor(max_workers=CALLERS, thread_name_prefix="rnx")
