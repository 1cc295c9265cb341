"""One model, many callers: windows that wait are scored together, and candidates are remembered in
small batches, in turn.

There is no batching delay: if the model is idle, a request runs at once. Requests that arrive
meanwhile are batched into the next forward (dynamic batching). So a lone query is as fast as
without this file, and under load the forwards fill up by themselves. This file knows no model and
no order; the threads are those of `executor.py`.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.memory import Framework, Memory
from llama_index_rnx.ranking.executor import ModelExecutor, wait_for
from llama_index_rnx.ranking.ranker import (
    BatchRanker,
    PlanningRanker,
    Ranker,
    ScoringRequest,
    checked_results,
    checked_scores,
    framework_of,
    prompted,
    prompts_of,
    score_on_this_thread,
)

# Windows of one forward; the ranker itself splits what does not fit its memory.
WINDOWS_AT_ONCE = 64

# Candidates that are remembered in one batch.
REMEMBER_AT_ONCE = 8

# Letters of one batch: about a second of rnx-mini on one core.
REMEMBER_CHARACTERS = 8_000

# The two queues of the executor.
SCORING = 0
REMEMBERING = 1

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class BatchingRanker:
    """A `Ranker` that any number of threads may call at once; the one inside works on a few threads
    of its own.

    Callers are scored in the order in which they came, up to `windows_at_once` windows together
    (the windows of one caller are never separated), so no caller starves. If a call for several
    callers fails, it is repeated for each alone: one's fault is not another's. Scores are equal to
    those of a caller alone; only how many windows share a forward differs.

    Candidates are remembered in batches of a few. A caller has no more batches in the queue than
    there are threads, so several callers take turns, a scoring never waits for more than one batch,
    and a caller who leaves (a cancelled task, a closed connection) costs the rest of one batch. A
    batch holds eight candidates, or as many as the ranker says (`remember_at_once`).

    A ranker that gains nothing by scoring windows together may say how many threads can work side
    by side (`max_concurrency`). For rnx-mini on a CPU that is one a core: scored one after the
    other, eight callers had .42 of the throughput of `asyncio.to_thread` on two cores.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> from llama_index_rnx import load_ranker
        >>> ranker = BatchingRanker(load_ranker())
        >>> texts = ("Bees make honey.", "Rust is red.")
        >>> memories = ranker.remember([Candidate(id=text, text=text) for text in texts])
        >>> queries = [Query(text="what do bees make?"), Query(text="which colour is rust?")]
        >>> with ThreadPoolExecutor() as callers:
        ...     results = list(callers.map(lambda query: ranker.score(query, memories), queries))
        >>> [scores.index(max(scores)) for scores in results]
        [0, 1]
    """

    def __init__(self, ranker: Ranker, windows_at_once: int = WINDOWS_AT_ONCE) -> None:
        self._ranker = ranker
        self._scores_together = isinstance(ranker, BatchRanker)
        self._remember_at_once = int(getattr(ranker, "remember_at_once", REMEMBER_AT_ONCE))

        threads = 1
        if not self._scores_together:
            threads = max(1, int(getattr(ranker, "max_concurrency", 1)))
        self._executor = ModelExecutor(
            threads, queues=2, batch_weight=windows_at_once if threads == 1 else 1
        )

    @classmethod
    def of(cls, ranker: Ranker) -> BatchingRanker:
        """Return the one of this ranker, the same for all callers as long as somebody holds it."""
        with _lock:
            batching = _batching_rankers.get(id(ranker))
            if batching is None:
                batching = _batching_rankers[id(ranker)] = cls(ranker)
            return batching

    @property
    def name(self) -> str:
        return self._ranker.name

    @property
    def fingerprint(self) -> str:
        return self._ranker.fingerprint

    @property
    def window(self) -> int:
        return self._ranker.window

    @property
    def framework(self) -> Framework:
        """What the memories are made of: arrays of numpy ("np") or tensors of torch ("pt")."""
        return framework_of(self._ranker)

    @property
    def prompts(self) -> dict[str, str]:
        """The templates of the model's prompt, by name; none for a model without a prompt."""
        return prompts_of(self._ranker)

    def with_prompts(self, templates: Mapping[str, str]) -> BatchingRanker:
        """Return the same model under other templates, with a queue of its own."""
        return BatchingRanker.of(prompted(self._ranker, templates))

    @property
    def unfinished(self) -> int:
        """How many tasks of the model wait or are at work."""
        return self._executor.unfinished

    @property
    def moved(self) -> float:
        """When (`time.monotonic`) the model last finished a task, or began one after a rest."""
        return self._executor.moved

    def run(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Do other work of the model for a query, on the threads that score."""
        task = partial(work, *args, **kwargs)
        return _result_or_cancel(self._executor.submit(task, queue=SCORING), [])

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """Remember as the ranker does, in batches; scoring goes on meanwhile."""
        lengths = [len(candidate.text) for candidate in candidates]

        # Each of several batches has texts of similar length, as their padding is wasted work.
        order = list(range(len(candidates)))
        if len(order) > self._remember_at_once:
            order.sort(key=lengths.__getitem__)

        batches = list(_batches(order, lengths, self._remember_at_once))
        tasks = [
            partial(self._remember_batch, [candidates[index] for index in batch])
            for batch in batches
        ]

        memories: dict[int, Memory] = {}
        for batch, results in zip(batches, self._run_all(REMEMBERING, tasks), strict=True):
            memories.update(zip(batch, results, strict=True))
        return [memories[index] for index in range(len(candidates))]

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """Return one score for each memory."""
        return self.score_many([(query, memories)])[0]

    def score_many(self, asks: Sequence[ScoringRequest]) -> list[list[float]]:
        """Score several windows: together with those of other callers, or side by side.

        Raises:
            RNXError: the ranker gave no finite score for each memory, or raised it itself.
        """
        if self._executor.threads > 1:
            return self._score_side_by_side(asks)

        future = self._executor.submit_batched(
            self._score_calls, asks, queue=SCORING, weight=len(asks)
        )
        return _result_or_cancel(future, [])

    def _score_side_by_side(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        """Score one window a thread; a lone window is shared out among them where the ranker can
        plan it.
        """
        if len(requests) == 1 and isinstance(self._ranker, PlanningRanker):
            query, memories = requests[0]
            if memories:
                return [self._score_by_plan(self._ranker, query, memories)]

        tasks = [partial(self._score, [request]) for request in requests]
        return [scores for (scores,) in self._run_all(SCORING, tasks)]

    def _score_by_plan(
        self, ranker: PlanningRanker, query: Query, memories: Sequence[Memory]
    ) -> list[float]:
        plan = self.run(ranker.plan, query, memories)
        results = self._run_all(SCORING, plan.steps)
        scores = self.run(plan.finish, results)
        return checked_scores(ranker, scores, len(memories))

    def _score_calls(self, calls: Sequence[Sequence[ScoringRequest]]) -> list[list[list[float]]]:
        """Score the windows of several callers together; return one list of windows a caller."""
        windows = iter(self._score([request for requests in calls for request in requests]))
        return [[next(windows) for _ in requests] for requests in calls]

    def _score(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        return score_on_this_thread(self._ranker, requests)

    def _remember_batch(self, candidates: Sequence[Candidate]) -> list[Memory]:
        memories = self._ranker.remember(candidates)
        return checked_results(self._ranker, memories, len(candidates), "memories")

    def _run_all(self, queue: int, tasks: Iterable[Callable[[], Any]]) -> list[Any]:
        """Run the tasks and return their results; at most as many are queued at a time as there are
        threads, so that other callers come between.
        """
        results: list[Any] = []
        pending: deque[Future[Any]] = deque()
        for task in tasks:
            if len(pending) == self._executor.threads:
                results.append(_result_or_cancel(pending.popleft(), pending))
            pending.append(self._executor.submit(task, queue=queue))

        while pending:
            results.append(_result_or_cancel(pending.popleft(), pending))
        return results


def score_batch(ranker: Ranker, requests: Sequence[ScoringRequest]) -> list[list[float]]:
    """Score several windows with any ranker: a `BatchingRanker` on its own threads, which check
    what its model gives; any other ranker on this thread.

    Returns:
        One list of finite scores for each request, as long as its memories.

    Raises:
        RNXError: a score is no number, or there are not as many as memories.
    """
    if isinstance(ranker, BatchingRanker):
        return ranker.score_many(requests)
    return score_on_this_thread(ranker, requests)


def with_dynamic_batching(ranker: Ranker) -> Ranker:
    """Return the ranker for many threads: itself if it is made for them (a service says
    `is_thread_safe`), otherwise its `BatchingRanker`.

    There is one for a ranker, however many instances of `RNXRerank` in the process have it
    (rnx-mini is loaded once for all): their callers are scored in one order, on the same few
    threads.
    """
    if isinstance(ranker, BatchingRanker) or getattr(ranker, "is_thread_safe", False):
        return ranker
    return BatchingRanker.of(ranker)


def _result_or_cancel(future: Future[Result], others: Iterable[Future[Any]]) -> Result:
    """Wait for a future. Whatever ends the wait early (a fault, Ctrl-C, a caller who left), leave
    nothing in the queue.
    """
    try:
        return wait_for(future)
    except BaseException:
        for unwanted in (future, *others):
            unwanted.cancel()
        raise


def _batches(order: Sequence[int], lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Divide an order into batches of at most `limit` candidates and about `REMEMBER_CHARACTERS`
    letters, one candidate at least.
    """
    batch: list[int] = []
    characters = 0
    for index in order:
        is_full = len(batch) == limit or characters + lengths[index] > REMEMBER_CHARACTERS
        if batch and is_full:
            yield batch
            batch = []
            characters = 0
        batch.append(index)
        characters += lengths[index]

    if batch:
        yield batch


_lock = threading.Lock()

# By the id of the ranker inside: each value holds it, so no other object has that id meanwhile.
_batching_rankers = weakref.WeakValueDictionary[int, BatchingRanker]()
