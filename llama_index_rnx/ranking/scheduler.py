"""One model, many callers: windows that wait are scored together, and candidates are remembered
part by part, in turn.

Nobody waits for company: who finds the model free is scored at once, and whoever comes meanwhile is
scored together by the next of them. So a lone query is as fast as without this file, and under load
the forwards fill up by themselves. It knows no model and no order; the threads are those of
`executor.py`.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from typing import Any, ParamSpec, TypeVar

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.memory import Memory
from llama_index_rnx.ranking.executor import ModelExecutor, wait_for
from llama_index_rnx.ranking.ranker import (
    BatchRanker,
    PlanningRanker,
    Ranker,
    ScoringRequest,
    checked_scores,
    same_number,
    score_batch,
)

WINDOWS_AT_ONCE = 64  # of one read; the ranker itself splits what does not fit its memory
REMEMBER_AT_ONCE = 8  # candidates of one part
REMEMBER_CHARACTERS = 8_000  # of one part: about a second of rnx-mini on one core
SCORING, REMEMBERING = 0, 1  # the two queues
Result = TypeVar("Result")
Given = ParamSpec("Given")


class BatchingRanker:
    """A `Ranker` that any number of threads may ask at once; the one inside works on a few threads
    of its own.

    Callers are scored in the order in which they came, up to `windows_at_once` windows together
    (one caller's windows are never torn apart), so no caller starves. If a call for several callers
    fails, it is repeated for each alone: one's fault is not another's. Scores are equal to those of
    a caller alone; only how many windows share a forward differs.

    Candidates are remembered in parts of a few. A caller has no more parts in the queue than there
    are threads, so several callers take turns, a scoring never waits for more than one part, and
    who leaves (a cancelled task, a closed connection) costs the rest of one part. How many make a
    part is eight, or what the ranker says (`remember_at_once`).

    A ranker that gains nothing by reading windows together may say how many threads can work side
    by side (`readers`). For rnx-mini on a CPU that is one a core: read one after the other, eight
    callers had .42 of the throughput of `asyncio.to_thread` on two cores.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> from llama_index_rnx import load_ranker
        >>> alone = load_ranker()
        >>> together = BatchingRanker(alone)
        >>> memories = together.remember([Candidate(id="a", text="Bees make honey."), Candidate(id="b", text="Rust is red.")])
        >>> queries = [Query(text="what do bees make?"), Query(text="which colour is rust?")]
        >>> with ThreadPoolExecutor() as callers:
        ...     found = list(callers.map(lambda query: together.score(query, memories), queries))
        >>> [scores.index(max(scores)) for scores in found]
        [0, 1]
    """

    def __init__(self, ranker: Ranker, windows_at_once: int = WINDOWS_AT_ONCE) -> None:
        self._ranker = ranker
        self._together = isinstance(ranker, BatchRanker)
        threads = 1 if self._together else max(1, int(getattr(ranker, "readers", 1)))
        weight = windows_at_once if threads == 1 else 1
        self._executor = ModelExecutor(threads, queues=2, batch_weight=weight)
        self._part = int(getattr(ranker, "remember_at_once", REMEMBER_AT_ONCE))

    @classmethod
    def of(cls, ranker: Ranker) -> BatchingRanker:
        """The one of this ranker, whoever asks for it, for as long as somebody has it."""
        with _sharing:
            shared_ranker = _shared_rankers.get(id(ranker))
            if shared_ranker is None:
                shared_ranker = _shared_rankers[id(ranker)] = cls(ranker)
            return shared_ranker

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
    def unfinished(self) -> int:
        """How many tasks of the model wait or are at work."""
        return self._executor.unfinished

    @property
    def moved(self) -> float:
        """When (`time.monotonic`) the model last finished something, or began after a rest."""
        return self._executor.moved

    def run(
        self, work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        """Do other work of the model for a query, on the threads that score."""
        return _result_or_cancel(
            self._executor.submit(partial(work, *args, **kwargs), queue=SCORING), []
        )

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """As the ranker does, in parts; scoring goes on meanwhile."""
        lengths = [len(candidate.text) for candidate in candidates]

        # Of several parts each has texts of like length, as their padding is wasted work.
        order = list(range(len(candidates)))
        if len(order) > self._part:
            order.sort(key=lengths.__getitem__)

        parts = _parts(order, lengths, self._part)
        works = [partial(self._remember_part, [candidates[i] for i in part]) for part in parts]
        memories = dict(
            zip(order, chain.from_iterable(self._each(REMEMBERING, works)), strict=True)
        )
        return [memories[i] for i in range(len(candidates))]

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """One score a memory."""
        return self.score_many([(query, memories)])[0]

    def score_many(self, asks: Sequence[ScoringRequest]) -> list[list[float]]:
        """The scores of several windows: together with those of other callers, or side by side."""
        if not self._together and self._executor.threads > 1:
            return self._score_side_by_side(asks)

        future = self._executor.submit_batched(
            self._score_calls, asks, queue=SCORING, weight=len(asks)
        )
        return _result_or_cancel(future, [])

    def _score_side_by_side(self, asks: Sequence[ScoringRequest]) -> list[list[float]]:
        """A window a thread; a lone one is shared out among them where the ranker can plan it."""
        ranker = self._ranker
        if len(asks) > 1 or not isinstance(ranker, PlanningRanker) or not asks[0][1]:
            return [
                scores
                for (scores,) in self._each(SCORING, [partial(self._scores, [ask]) for ask in asks])
            ]

        plan = self.run(ranker.plan, *asks[0])
        results = self._each(SCORING, plan.parts)
        return [checked_scores(ranker, self.run(plan.finish, results), len(asks[0][1]))]

    def _score_calls(self, calls: Sequence[Sequence[ScoringRequest]]) -> list[list[list[float]]]:
        """The scores of several callers' windows, read together."""
        scores = iter(self._scores([ask for asks in calls for ask in asks]))
        return [[next(scores) for _ in asks] for asks in calls]

    def _scores(self, asks: Sequence[ScoringRequest]) -> list[list[float]]:
        return score_batch(self._ranker, asks)

    def _remember_part(self, candidates: Sequence[Candidate]) -> list[Memory]:
        return same_number(
            self._ranker, self._ranker.remember(candidates), len(candidates), "memories"
        )

    def _each(self, queue: int, works: Iterable[Callable[[], Any]]) -> list[Any]:
        """What each work gives; at most as many at a time as there are threads, so that other
        callers come between.
        """
        results, pending = list[Any](), deque[Future[Any]]()
        for work in works:
            if len(pending) == self._executor.threads:
                results.append(_result_or_cancel(pending.popleft(), pending))
            pending.append(self._executor.submit(work, queue=queue))
        while pending:
            results.append(_result_or_cancel(pending.popleft(), pending))
        return results


def _result_or_cancel(future: Future[Result], others: Iterable[Future[Any]]) -> Result:
    """Wait for a future; whatever ends the waiting (a fault, Ctrl-C, a caller who left), nothing
    stays in the queue.
    """
    try:
        return wait_for(future)
    except BaseException:
        for unwanted in (future, *others):
            unwanted.cancel()
        raise


def _parts(order: Sequence[int], lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Cut an order into parts of at most `most` candidates and about `REMEMBER_CHARACTERS`, one
    candidate at least.
    """
    part, characters = list[int](), 0
    for i in order:
        if part and (len(part) == most or characters + lengths[i] > REMEMBER_CHARACTERS):
            yield part
            part, characters = [], 0
        part.append(i)
        characters += lengths[i]
    if part:
        yield part


def with_dynamic_batching(ranker: Ranker) -> Ranker:
    """The ranker for many threads: itself if it is made for them (a service), otherwise its
    `BatchingRanker`.

    There is one for a ranker, however many instances of `RNXRerank` in the process have it
    (rnx-mini is loaded once for all): their callers are read in one order, on the same few threads.
    """
    made_for_threads = isinstance(ranker, BatchingRanker) or getattr(ranker, "takes_threads", False)
    return ranker if made_for_threads else BatchingRanker.of(ranker)


_sharing = threading.Lock()
_shared_rankers = weakref.WeakValueDictionary[
    int, BatchingRanker
]()  # each holds its ranker, so no other has that id meanwhile
