"""Two queues and a few threads on which a model works, and callers who may cancel. It knows no
ranker.

The invariant: a task enters a queue together with one job of the thread pool, and a job that begins
takes at least one task unless all queues are empty. So there are never fewer jobs to begin than
tasks that wait, and every task is reached. A job belongs to nobody: it holds no lock while it
works, puts every outcome into the futures of its tasks, and ends.

A caller waits for a future. A caller who leaves cancels it: a task that has not begun is then
skipped, as `concurrent.futures` does by itself.
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
from types import ModuleType
from typing import Any, TypeVar

from llama_index_rnx.memory import imported_torch

# Errors of a model that would mean something else to a caller: a StopIteration in a future makes
# asyncio wait for ever, and a CancelledError says that the caller itself has left.
MISLEADING_ERRORS = (StopIteration, CancelledError, asyncio.CancelledError)

# Errors that would end the event loop if a future handed them on.
LOOP_ENDING_ERRORS = (SystemExit, KeyboardInterrupt)

# Threads for async callers; they wait, and compute nothing.
CALLER_THREADS = 64

Result = TypeVar("Result")
BatchFunction = Callable[[Sequence[Any]], Sequence[Any]]


class RequestCancelledError(BaseException):
    """The caller was cancelled while its work waited; nobody is there to see this."""


class Caller:
    """Waits for one future after the other, and may be cancelled at any time, from any thread."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._future: Future[Any] | None = None

    def cancel(self) -> None:
        """Cancel what the caller waits for: the task at work is finished, and no other is begun."""
        self._cancelled.set()
        future = self._future
        if future is not None:
            future.cancel()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def result(self, future: Future[Result]) -> Result:
        """Wait for a future.

        Raises:
            RequestCancelledError: the caller was cancelled. Besides, whatever the work raised.
        """
        # The future is stored before the flag is read, and `cancel` does the two the other way
        # round: so one of them cancels it.
        self._future = future
        if self._cancelled.is_set():
            future.cancel()

        try:
            result = future.result()
        except CancelledError as error:
            raise RequestCancelledError from error

        if self._cancelled.is_set():
            raise RequestCancelledError
        return result


_caller: contextvars.ContextVar[Caller | None] = contextvars.ContextVar("caller", default=None)

# In a thread of a pool, the `pool_token` of the process state that the pool belongs to.
_pool_token: contextvars.ContextVar[object] = contextvars.ContextVar("pool_token", default=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One argument of a function that is called with several of them, and the future of its result.

    Attributes:
        function: returns one result for each argument; waiting tasks with the same function may
            share a call of it.
        weight: how much the task adds to a shared call.
    """

    function: BatchFunction
    argument: Any
    weight: int
    future: Future[Any] = field(default_factory=Future)


@dataclass(kw_only=True)
class _ProcessState:
    """The threads and queues of one process: a fork has none of its parent's threads, so it starts
    with a state of its own.

    Attributes:
        pool_token: what `_pool_token` holds in the threads of the pool.
        next_queue: the queue that is served first by the next job.
        moved: see `ModelExecutor.moved`.
    """

    pid: int
    pool: ThreadPoolExecutor
    queues: tuple[deque[Task], ...]
    pool_token: object
    lock: threading.Lock = field(default_factory=threading.Lock)
    unfinished: set[Future[Any]] = field(default_factory=set)
    next_queue: int = 0
    moved: float = 0.0


_creation_lock = threading.Lock()


def _renew_creation_lock() -> None:
    """Replace the lock in a fork, which must not inherit one that another thread of its parent
    holds.
    """
    global _creation_lock
    _creation_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_creation_lock)


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
        self._queues = queues
        self._batch_weight = batch_weight
        self._process: _ProcessState | None = None

    def submit(self, work: Callable[[], Result], *, queue: int = 0) -> Future[Result]:
        """Queue work that is done by itself; the future gets what it returns or raises."""
        return self.submit_batched(lambda _: [work()], None, queue=queue)

    def submit_batched(
        self, function: BatchFunction, argument: Any, *, queue: int = 0, weight: int = 1
    ) -> Future[Any]:
        """Queue one argument of `function`; the future gets its result, or what a call for it alone
        raises.
        """
        process = self._current_process()
        task = Task(function=function, argument=argument, weight=weight)

        # Work that asks its own model would wait for the thread that it keeps busy.
        if _pool_token.get() is process.pool_token:
            _run_tasks([task])
            return task.future

        task.future.add_done_callback(lambda future: self._finish(process, future))
        try:
            with process.lock:
                if not process.unfinished:
                    process.moved = time.monotonic()
                process.unfinished.add(task.future)
                process.queues[queue].append(task)
            process.pool.submit(self._work, process)
        except BaseException:
            # The interpreter ends, no thread can be had, Ctrl-C: perhaps no job comes for the task.
            task.future.cancel()
            raise
        return task.future

    @property
    def unfinished(self) -> int:
        """How many tasks wait or are at work."""
        process = self._process
        if process is None or process.pid != os.getpid():
            return 0
        return len(process.unfinished)

    @property
    def moved(self) -> float:
        """When (`time.monotonic`) a task was last finished, or began while there was no other."""
        process = self._process
        if process is None or process.pid != os.getpid():
            return 0.0
        return process.moved

    def _current_process(self) -> _ProcessState:
        """Return the state of this process; make it at the first call, and again after a fork."""
        process = self._process
        if process is not None and process.pid == os.getpid():
            return process

        with _creation_lock:
            if self._process is process:
                token = object()
                self._process = _ProcessState(
                    pid=os.getpid(),
                    pool=_create_pool(self.threads, token),
                    queues=tuple(deque[Task]() for _ in range(self._queues)),
                    pool_token=token,
                )
        return self._current_process()

    def _finish(self, process: _ProcessState, future: Future[Any]) -> None:
        with process.lock:
            process.unfinished.discard(future)
            if not future.cancelled():
                process.moved = time.monotonic()

    def _work(self, process: _ProcessState) -> None:
        """Do one job: take the tasks of one call, if any are waiting, and run them."""
        tasks = self._take_tasks(process)
        if tasks:
            _run_tasks(tasks)

    def _take_tasks(self, process: _ProcessState) -> list[Task]:
        """Take the tasks of one call from the queue whose turn it is."""
        with process.lock:
            for step in range(self._queues):
                index = (process.next_queue + step) % self._queues
                tasks = self._next_batch(process.queues[index])
                if tasks:
                    process.next_queue = index + 1
                    return tasks
        return []

    def _next_batch(self, queue: deque[Task]) -> list[Task]:
        """Take the first tasks of a queue that share a call; drop those whose callers left."""
        tasks: list[Task] = []
        weight = 0
        while queue and (not tasks or self._shares_call(tasks[0], queue[0], weight)):
            task = queue.popleft()
            if task.future.set_running_or_notify_cancel():
                tasks.append(task)
                weight += task.weight
        return tasks

    def _shares_call(self, first: Task, task: Task, weight: int) -> bool:
        return task.function == first.function and weight + task.weight <= self._batch_weight


def _run_tasks(tasks: Sequence[Task]) -> None:
    """Call the function once for all tasks; if that fails, once for each, so that one's fault is
    not another's.
    """
    arguments = [task.argument for task in tasks]
    try:
        results = _without_misleading_errors(partial(tasks[0].function, arguments))
        for task, result in zip(tasks, results, strict=True):
            task.future.set_result(result)
    except BaseException as error:
        unresolved = [task for task in tasks if not task.future.done()]
        for task in unresolved:
            if len(tasks) == 1:
                task.future.set_exception(error)
            else:
                _run_tasks([task])


def _without_misleading_errors(
    work: Callable[[], Result],
    kinds: tuple[type[BaseException], ...] = MISLEADING_ERRORS,
) -> Result:
    """Return what the work returns. An error of these kinds, which would mean something else to the
    caller, becomes a RuntimeError.
    """
    try:
        return work()
    except kinds as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise RuntimeError(f"a model or a service gave no answer, it raised {reason}.") from error


def _create_pool(threads: int, token: object) -> ThreadPoolExecutor:
    """Create a pool. In a process that has torch its threads share out those of OpenMP, and all are
    started here, as torch's setting counts for later threads as well.
    """
    pool = ThreadPoolExecutor(threads, "rnx-model", initializer=_pool_token.set, initargs=(token,))
    torch = imported_torch()
    if threads > 1 and torch is not None:
        usual_count = torch.get_num_threads()
        share = max(1, usual_count // threads)
        all_started = threading.Barrier(threads)
        list(pool.map(lambda _: _set_intra_op_threads(torch, share, all_started), range(threads)))
        torch.set_num_threads(usual_count)
    return pool


def _set_intra_op_threads(torch: ModuleType, count: int, all_started: threading.Barrier) -> None:
    """Let this thread use `count` of OpenMP's. Each thread of a pool comes here once, as the
    barrier holds it until all have come.

    OpenMP keeps the number for each thread, so nobody else's changes:
    `test_threads_of_a_model_share_out_the_processors_threads_and_nobody_elses_change` holds it.
    """
    all_started.wait()
    # At its first question a thread takes the usual number: only after that another one stays.
    torch.get_num_threads()
    torch.set_num_threads(count)


def wait_for(future: Future[Result]) -> Result:
    """Return the result of a future, for a caller who may be cancelled meanwhile.

    Raises:
        RequestCancelledError: the caller was cancelled. Besides, whatever the work raised.
    """
    caller = _caller.get()
    return caller.result(future) if caller is not None else future.result()


def check_caller() -> None:
    """Raise RequestCancelledError when nobody waits any more for what this thread does."""
    caller = _caller.get()
    if caller is not None and caller.is_cancelled:
        raise RequestCancelledError


async def run_in_executor(
    work: Callable[[], Result], ended: Callable[[], None] | None = None
) -> Result:
    """Run blocking work beside the event loop.

    When the caller is cancelled, what it waits for is cancelled too.

    Args:
        ended: called, from any thread, when nothing of the work is left.
    """
    caller = Caller()
    context = contextvars.copy_context()
    context.run(_caller.set, caller)
    kinds = (*MISLEADING_ERRORS, *LOOP_ENDING_ERRORS)
    try:
        future = _caller_threads(os.getpid()).submit(
            context.run, _without_misleading_errors, work, kinds
        )
    except BaseException:
        # No thread can be had.
        caller.cancel()
        if ended is not None:
            ended()
        raise
    if ended is not None:
        future.add_done_callback(lambda _: ended())

    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        caller.cancel()
        raise


@cache
def _caller_threads(pid: int) -> ThreadPoolExecutor:
    """Return the threads in which the async callers of a process wait; a fork has none of its
    parent's threads.

    They are more than asyncio's own pool has: a thread that waits costs nothing, and only windows
    that wait can be scored together.
    """
    return ThreadPoolExecutor(max_workers=CALLER_THREADS, thread_name_prefix="rnx")
