"""Many callers of one ranker: they are read together, in order, apart from each other's faults, and
may leave.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.schema import NodeWithScore, TextNode

from llama_index_rnx import RNXRerank
from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.ranking import BatchingRanker, Ranker, run_in_executor, with_dynamic_batching
from llama_index_rnx.ranking.executor import Caller, RequestCancelledError
from llama_index_rnx.ranking.ranker import BatchRanker

TEXT = Candidate(id="t", text="t")
TEXTS = {name: Query(text=name) for name in ("a", "b", "c", "d", "e", "bad")}


class GatedRanker:
    """Scores a window by its query's letter; each read waits at the gate, and is noted."""

    name, fingerprint, window = "gated", "gated", 20

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.reads: list[str] = []

    def remember(self, candidates: Sequence[Any]) -> list[Any]:
        return [{} for _ in candidates]

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        return self.score_many([(query, memories)])[0]

    def score_many(self, asks: Sequence[tuple[Query, Sequence[Any]]]) -> list[list[float]]:
        self.reads.append("".join(query.text for query, _ in asks))
        assert self.gate.acquire(timeout=10)
        if any(query.text == "bad" for query, _ in asks):
            raise RNXError("bad query")
        return [[float(ord(query.text))] * len(memories) for query, memories in asks]


def wait_for(true: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("it did not come true within 5 seconds")


def busy(
    inner: GatedRanker, pool: ThreadPoolExecutor, **options: Any
) -> tuple[BatchingRanker, Any]:
    """A shared ranker that reads "a" and is held there."""
    batching = BatchingRanker(inner, **options)
    first = pool.submit(batching.score, TEXTS["a"], [{}])
    wait_for(lambda: inner.reads == ["a"])
    return batching, first


def queue(batching: BatchingRanker, pool: ThreadPoolExecutor, *names: str) -> list[Any]:
    """Callers that come one after the other."""
    futures = []
    for name in names:
        before = batching.unfinished
        futures.append(pool.submit(batching.score, TEXTS[name], [{}, {}]))
        wait_for(lambda before=before: batching.unfinished > before)
    return futures


def test_it_is_a_ranker() -> None:
    assert isinstance(BatchingRanker(GatedRanker()), Ranker)
    assert isinstance(BatchingRanker(GatedRanker()), BatchRanker)


def test_rerankers_of_a_process_share_the_one_model_and_it_goes_with_the_last() -> None:
    first, second = RNXRerank(top_n=1), RNXRerank(top_n=2)
    assert first._load() is second._load()
    inner, other = GatedRanker(), GatedRanker()
    one = with_dynamic_batching(inner)
    assert with_dynamic_batching(inner) is one
    assert with_dynamic_batching(other) is not one
    gone = weakref.ref(one)
    del one, inner
    gc.collect()
    assert gone() is None


def test_a_lone_caller_waits_for_nobody() -> None:
    inner = GatedRanker()
    inner.gate.release(1)
    assert BatchingRanker(inner).score(TEXTS["b"], [{}, {}]) == [98.0, 98.0]


def test_who_waits_is_read_together_in_the_order_of_coming() -> None:
    inner = GatedRanker()
    with ThreadPoolExecutor(8) as pool:
        batching, first = busy(inner, pool)
        others = queue(batching, pool, "c", "b", "d")
        inner.gate.release(9)
        assert first.result() == [97.0]
        assert [one.result() for one in others] == [[99.0] * 2, [98.0] * 2, [100.0] * 2]
    assert inner.reads == ["a", "cbd"]


def test_a_read_is_bounded_and_nobody_starves() -> None:
    inner = GatedRanker()
    with ThreadPoolExecutor(8) as pool:
        batching, _ = busy(inner, pool, windows_at_once=2)
        queue(batching, pool, "b", "c", "d", "e")
        inner.gate.release(9)
    assert inner.reads == ["a", "bc", "de"]


def test_a_call_of_more_windows_than_a_read_is_not_torn() -> None:
    inner = GatedRanker()
    inner.gate.release(1)
    found = BatchingRanker(inner, windows_at_once=1).score_many(
        [(TEXTS["a"], [{}]), (TEXTS["b"], [{}])]
    )
    assert found == [[97.0], [98.0]]
    assert inner.reads == ["ab"]


def test_ones_fault_is_not_anothers() -> None:
    inner = GatedRanker()
    with ThreadPoolExecutor(8) as pool:
        batching, _ = busy(inner, pool)
        good, bad, other = queue(batching, pool, "b", "bad", "c")
        inner.gate.release(9)
        assert good.result() == [98.0] * 2
        assert other.result() == [99.0] * 2
        with pytest.raises(RNXError, match="bad query"):
            bad.result()
    assert inner.reads == ["a", "bbadc", "b", "bad", "c"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RNXError])
def test_whatever_ends_a_forward_the_next_caller_is_answered(error: type[BaseException]) -> None:
    inner = GatedRanker()
    with ThreadPoolExecutor(8) as pool:
        batching, _ = busy(inner, pool)
        (other,) = queue(batching, pool, "b")
        original = inner.score_many

        def fails_once(asks: Any) -> Any:
            inner.score_many = original  # type: ignore[method-assign]
            raise error

        inner.score_many = fails_once  # type: ignore[method-assign]
        inner.gate.release(9)
        with pytest.raises(error):
            other.result()
        assert batching.score(TEXTS["c"], [{}]) == [99.0]
    assert batching.unfinished == 0


async def test_a_cancelled_caller_frees_its_place() -> None:
    inner = GatedRanker()
    batching = BatchingRanker(inner)
    first = asyncio.create_task(run_in_executor(lambda: batching.score(TEXTS["a"], [{}])))
    await _until(lambda: inner.reads == ["a"])
    second = asyncio.create_task(run_in_executor(lambda: batching.score(TEXTS["b"], [{}])))
    await _until(lambda: batching.unfinished == 2)
    third = asyncio.create_task(run_in_executor(lambda: batching.score(TEXTS["c"], [{}])))
    await _until(lambda: batching.unfinished == 3)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    inner.gate.release(9)
    assert await first == [97.0]
    assert await third == [99.0]
    assert inner.reads == ["a", "c"]


async def _until(true: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true within 5 seconds")


def test_a_caller_that_left_is_told_so() -> None:
    inner = GatedRanker()
    with ThreadPoolExecutor(1) as pool:
        batching, first = busy(inner, pool)
        caller = Caller()
        caller.cancel()
        with pytest.raises(RequestCancelledError):
            caller.result(batching._executor.submit(lambda: inner.reads.append("never")))
        inner.gate.release(1)
        assert first.result() == [97.0]
    assert inner.reads == ["a"]
    assert batching.unfinished == 0


class SideBySide:
    """Reads a window at a time, in as many threads as it says."""

    name, fingerprint, window, max_concurrency = "beside", "beside", 20, 2

    def __init__(self, inner: GatedRanker) -> None:
        self.inner = inner
        self.remember = inner.remember

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        return self.inner.score(query, memories)


def test_a_ranker_may_be_read_side_by_side() -> None:
    inner = GatedRanker()
    with ThreadPoolExecutor(8) as pool:
        batching = BatchingRanker(SideBySide(inner))
        found = [pool.submit(batching.score, TEXTS[name], [{}]) for name in "abcd"]
        wait_for(lambda: len(inner.reads) == 2)
        time.sleep(0.05)
        assert len(inner.reads) == 2, "no more than it says"
        inner.gate.release(9)
        assert [one.result() for one in found] == [[97.0], [98.0], [99.0], [100.0]]
    assert sorted(inner.reads) == ["a", "b", "c", "d"]


def test_the_windows_of_one_caller_are_read_side_by_side_too() -> None:
    inner = GatedRanker()
    batching = BatchingRanker(SideBySide(inner))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(batching.score_many, [(TEXTS[name], [{}]) for name in "abc"])
        wait_for(lambda: len(inner.reads) == 2)
        inner.gate.release(9)
        assert found.result() == [[97.0], [98.0], [99.0]]
    assert sorted(inner.reads) == ["a", "b", "c"]


class Threads:
    """Notes on which thread it works."""

    name, fingerprint, window, max_concurrency = "threads", "threads", 20, 2

    def __init__(self) -> None:
        self.remembered: set[int] = set()
        self.scored: set[int] = set()

    def remember(self, candidates: Sequence[Any]) -> list[Any]:
        self.remembered.add(threading.get_ident())
        return [{} for _ in candidates]

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        time.sleep(0.001)
        self.scored.add(threading.get_ident())
        return [0.0] * len(memories)


def test_the_model_works_on_few_threads_however_many_callers_there_are() -> None:
    inner = Threads()
    batching = BatchingRanker(inner)
    with ThreadPoolExecutor(32) as pool:
        list(
            pool.map(
                lambda _: batching.score(TEXTS["a"], batching.remember([TEXT])),
                range(64),
            )
        )
    assert 1 <= len(inner.remembered) <= Threads.max_concurrency
    assert 1 <= len(inner.scored) <= Threads.max_concurrency


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork is a matter of Unix")
def test_a_fork_of_a_process_that_has_ranked_ranks_too() -> None:
    """As servers do that load first and fork then: none of the parent's threads are there."""
    batching = BatchingRanker(Threads())
    assert batching.score(TEXTS["a"], batching.remember([TEXT])) == [0.0]
    asyncio.run(run_in_executor(lambda: None))
    child = os.fork()
    if child == 0:
        _exit_after(
            lambda: asyncio.run(
                run_in_executor(lambda: batching.score(TEXTS["b"], batching.remember([TEXT])))
            )
        )
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _exit_after(work: Callable[[], Any]) -> None:
    """Whatever happens, the child never goes on with the tests."""
    signal.alarm(20)
    try:
        os._exit(0 if work() == [0.0] else 1)
    finally:
        os._exit(2)


def test_threads_of_a_model_share_out_the_processors_threads_and_nobody_elses_change() -> None:
    class Counting(Threads):
        def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
            return [float(torch.get_num_threads())]

    def asked(callers: ThreadPoolExecutor) -> list[list[float]]:
        batching = BatchingRanker(Counting())
        return list(callers.map(lambda _: batching.score(TEXTS["a"], [{}]), range(8)))

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with ThreadPoolExecutor(4) as callers, ThreadPoolExecutor(1) as others:
            assert asked(callers) == [[2.0]] * 8
            assert others.submit(torch.get_num_threads).result() == torch.get_num_threads() == 4
        assert BatchingRanker(Counting()).score(TEXTS["a"], [{}]) == [2.0]
        # One that works alone may have all of them.
        assert BatchingRanker(GatedRanker()).run(torch.get_num_threads) == 4
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One caller of a random schedule: when it comes, what it brings, how long it has patience, and
    where it fails.
    """

    after: float  # milliseconds
    texts: int
    patience: float | None  # milliseconds; None: it waits
    fault: Literal["", "remembering", "scoring"]


class Slow:
    """Takes a moment for everything and fails where a caller's texts or query say so."""

    name, fingerprint, window = "slow", "slow", 20

    def __init__(self, max_concurrency: int) -> None:
        self.max_concurrency = max_concurrency

    def remember(self, candidates: Sequence[Candidate]) -> list[Any]:
        time.sleep(0.002)
        if any("remembering" in candidate.text for candidate in candidates):
            raise RNXError("remembering")
        return [{"length": torch.tensor(len(candidate.text))} for candidate in candidates]

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        time.sleep(0.001)
        if query.text == "scoring":
            raise RNXError("scoring")
        return [float(memory["length"]) / 1_000 for memory in memories]


class SlowBatch(Slow):
    """The same, for several windows at once."""

    def score_many(self, asks: Sequence[tuple[Query, Sequence[Any]]]) -> list[list[float]]:
        return [self.score(*ask) for ask in asks]


visits = st.lists(
    st.builds(
        Visit,
        after=st.floats(0, 10),
        texts=st.integers(0, 30),
        patience=st.none() | st.floats(0, 15),
        fault=st.sampled_from(["", "", "", "remembering", "scoring"]),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize(
    "make", [lambda: Slow(1), lambda: Slow(2), lambda: SlowBatch(1)], ids=["one", "two", "batch"]
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(visits=visits, loads=st.lists(st.booleans(), max_size=2))
def test_after_any_schedule_of_callers_the_next_is_answered(
    make: Callable[[], Slow], visits: list[Visit], loads: list[bool]
) -> None:
    """Callers come, leave, time out, and fail while the model is loaded, remembers and scores."""
    ranker, failing = make(), [RNXError("loading") for fails in loads if fails]

    def load(*_: Any, **__: Any) -> Slow:
        time.sleep(0.002)
        if failing:
            raise failing.pop()
        return ranker

    async def scene() -> None:
        reranker = RNXRerank(model="somebody/slow", top_n=100)
        outcomes = await asyncio.gather(
            *(come(reranker, visit, number) for number, visit in enumerate(visits))
        )
        for visit, outcome in zip(visits, outcomes, strict=True):
            assert (
                outcome in ("timed out", "loading", visit.fault or visit.texts)
                or outcome == visit.texts == 0
            )
        batching = await until_loaded(reranker)
        await _until(lambda: batching.unfinished == 0)
        assert not any(batching._executor._process.queues), "nothing is left in the queues"
        assert (
            await asyncio.wait_for(
                come(reranker, Visit(after=0, texts=3, patience=None, fault=""), 99), 10
            )
            == 3
        )

    with patch("llama_index_rnx.rerank.load_ranker", load):
        asyncio.run(asyncio.wait_for(scene(), 60))


async def come(reranker: RNXRerank, visit: Visit, number: int) -> object:
    """How many nodes the visitor got, or how it ended."""
    await asyncio.sleep(visit.after / 1e3)
    names = [f"{visit.fault} {number} {i}" for i in range(visit.texts)]
    nodes = [NodeWithScore(node=TextNode(text=name)) for name in names]
    query = visit.fault if visit.texts and visit.fault else "query"
    call = reranker.apostprocess_nodes(nodes, query_str=query)
    try:
        patience = None if visit.patience is None else visit.patience / 1e3
        return len(await asyncio.wait_for(call, patience))
    except TimeoutError:
        return "timed out"
    except RNXError as error:
        return str(error)


async def until_loaded(reranker: RNXRerank) -> BatchingRanker:
    """The model, which is loaded by a last caller where nobody else did."""
    for number in range(3):
        await come(reranker, Visit(after=0, texts=1, patience=None, fault=""), 100 + number)
    loaded = reranker._load()
    assert isinstance(loaded, BatchingRanker)
    return loaded


class GatedMemory(GatedRanker):
    """Each part that is remembered waits at the gate, too."""

    def __init__(self, max_concurrency: int = 1) -> None:
        super().__init__()
        self.max_concurrency = max_concurrency
        self.parts: list[str] = []

    def remember(self, candidates: Sequence[Candidate]) -> list[Any]:
        self.parts.append(candidates[0].text[0])
        assert self.gate.acquire(timeout=10)
        return [{} for _ in candidates]


class GatedMemoryAlone(GatedMemory):
    """One that does not read windows together."""

    score_many = None  # type: ignore[assignment]

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        return [1.0 for _ in memories]


def candidates(letter: str, count: int) -> list[Candidate]:
    return [Candidate(id=f"{letter}{i}", text=f"{letter}{i}") for i in range(count)]


async def test_who_leaves_while_it_remembers_costs_one_part_and_no_more() -> None:
    inner = GatedMemory()
    batching = BatchingRanker(inner)
    call = asyncio.create_task(run_in_executor(lambda: batching.remember(candidates("a", 80))))
    await _until(lambda: inner.parts == ["a"])
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    inner.gate.release(99)
    await _until(lambda: batching.unfinished == 0)
    assert inner.parts == ["a"]


def test_a_fault_while_remembering_takes_the_other_parts_out_of_the_queue() -> None:
    class Failing(GatedMemoryAlone):
        def remember(self, candidates: Sequence[Candidate]) -> list[Any]:
            super().remember(candidates)
            raise RNXError("no")

    inner = Failing(max_concurrency=2)
    batching = BatchingRanker(inner)
    inner.gate.release(99)
    with pytest.raises(RNXError, match="no"):
        batching.remember(candidates("a", 80))
    wait_for(lambda: batching.unfinished == 0)
    assert len(inner.parts) <= 2


def test_callers_remember_in_turn_and_a_scoring_comes_between() -> None:
    inner = GatedMemory()
    batching = BatchingRanker(inner)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(batching.remember, candidates("a", 32))
        wait_for(lambda: inner.parts == ["a"])
        second = pool.submit(batching.remember, candidates("b", 16))
        wait_for(lambda: batching.unfinished == 2)
        (scored,) = queue(batching, pool, "c")
        inner.gate.release(2)
        assert scored.result() == [99.0] * 2, "after the part at work"
        inner.gate.release(99)
        assert len(first.result()) == 32
        assert len(second.result()) == 16
    assert inner.parts[-1] == "a", "who came later with less was not kept waiting to the end"


def test_parts_keep_their_places_whatever_their_length() -> None:
    class Lengths(GatedMemoryAlone):
        def remember(self, candidates: Sequence[Candidate]) -> list[Any]:
            self.parts.append(str(len(candidates)))
            return [candidate.id for candidate in candidates]

    inner = Lengths(max_concurrency=2)
    texts = ["x" * length for length in (1, 9_000, 5, 7_999, 3, *range(2, 40))]
    asked = [Candidate(id=str(i), text=text) for i, text in enumerate(texts)]
    assert BatchingRanker(inner).remember(asked) == [candidate.id for candidate in asked]
    assert sorted(inner.parts)[-1] == "8"
    assert inner.parts.count("1") >= 2, "a long text is a part of its own"


class Faulty:
    """Its verbs, or one of them, give something else than they should."""

    name, window = "faulty", 20

    def __init__(self, verb: str, answer: Callable[[list[Any]], Any]) -> None:
        self._verb, self._answer = verb, answer
        self.fingerprint = f"faulty/{id(self)}"

    def remember(self, candidates: Sequence[Candidate]) -> Any:
        memories = [{"length": torch.tensor(len(candidate.text))} for candidate in candidates]
        return self._answer(memories) if self._verb == "remember" else memories

    def score(self, query: Query, memories: Sequence[Any]) -> Any:
        scores = [float(memory["length"]) for memory in memories]
        return self._answer(scores) if self._verb == "score" else scores


class FaultyBatch(Faulty):
    def score_many(self, asks: Sequence[tuple[Query, Sequence[Any]]]) -> Any:
        scores = [self.score(*ask) for ask in asks]
        return self._answer(scores) if self._verb == "score_many" else scores


def some_nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text="x" * length)) for length in (1, 3, 2)]


def raising(error: BaseException) -> Callable[[list[Any]], Any]:
    def answer(_: list[Any]) -> Any:
        raise error

    return answer


@pytest.mark.parametrize(
    "error",
    [
        StopIteration(),
        CancelledError(),
        asyncio.CancelledError(),
        SystemExit(3),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("verb", ["remember", "score"])
async def test_no_kind_of_exception_hangs_an_async_caller_or_ends_its_loop(
    verb: str, error: BaseException
) -> None:
    reranker = RNXRerank(ranker=Faulty(verb, raising(error)))
    with pytest.raises(RuntimeError, match=type(error).__name__):
        await asyncio.wait_for(reranker.apostprocess_nodes(some_nodes(), query_str="q"), 10)


async def test_an_exception_of_any_kind_is_a_failure_of_the_model() -> None:
    keeping = RNXRerank(ranker=Faulty("score", raising(StopIteration())), on_error="keep_order")
    assert (
        len(await asyncio.wait_for(keeping.apostprocess_nodes(some_nodes(), query_str="q"), 10))
        == 3
    )
    assert keeping.failures == 1


def test_one_callers_system_exit_is_not_another_s() -> None:
    class Exiting(GatedRanker):
        def score_many(self, asks: Sequence[tuple[Query, Sequence[Any]]]) -> list[list[float]]:
            try:
                return super().score_many(asks)
            except RNXError:
                raise SystemExit(3) from None

    inner = Exiting()
    with ThreadPoolExecutor(8) as pool:
        batching, _ = busy(inner, pool)
        good, bad = queue(batching, pool, "b", "bad")
        inner.gate.release(9)
        assert good.result() == [98.0] * 2
        with pytest.raises(SystemExit):
            bad.result()


@pytest.mark.parametrize(
    "make",
    [lambda results: (each for each in results), tuple, iter],
    ids=["generator", "tuple", "iter"],
)
@pytest.mark.parametrize("verb", ["remember", "score", "score_many"])
def test_a_ranker_may_give_anything_that_can_be_listed(
    verb: str, make: Callable[[list[Any]], Any]
) -> None:
    hits = RNXRerank(ranker=FaultyBatch(verb, make)).postprocess_nodes(some_nodes(), query_str="q")
    assert [hit.score for hit in hits] == [3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda results: results[1:], r"gave \d \D+ where \d are needed"),
        (lambda results: results + results[:1], r"gave \d \D+ where \d are needed"),
        (lambda results: None, r"gave NoneType in place of \d"),
        (lambda results: [None] * len(results), "no mapping|no number|NoneType"),
        (lambda results: ["a"] * len(results), "no mapping|no number|where 3 are needed"),
    ],
    ids=["few", "many", "none", "nones", "texts"],
)
@pytest.mark.parametrize("verb", ["remember", "score", "score_many"])
async def test_what_is_no_answer_is_told_in_one_line(
    verb: str, answer: Callable[[list[Any]], Any], message: str
) -> None:
    reranker = RNXRerank(ranker=FaultyBatch(verb, answer))
    with pytest.raises(RNXError, match=message) as caught:
        await asyncio.wait_for(reranker.apostprocess_nodes(some_nodes(), query_str="q"), 10)
    assert "\n" not in str(caught.value)


class Inward(Threads):
    """Asks the shared ranker that it is in, once for each thing it is asked."""

    def __init__(self, max_concurrency: int, is_async: bool) -> None:
        super().__init__()
        self.max_concurrency, self._is_async = max_concurrency, is_async

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        if query.text != "outer":
            return [0.5] * len(memories)
        inner = Query(text="inner")
        if self._is_async:
            return asyncio.run(
                run_in_executor(lambda: with_dynamic_batching(self).score(inner, memories))
            )
        return with_dynamic_batching(self).score(inner, memories)


@pytest.mark.parametrize("max_concurrency", [1, 2])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_ranker_may_ask_itself(max_concurrency: int, is_async: bool) -> None:
    ranker = with_dynamic_batching(Inward(max_concurrency, is_async))
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(ranker.score, Query(text="outer"), [{}]) for _ in range(8)]
        assert [call.result(timeout=10) for call in calls] == [[0.5]] * 8


def test_what_never_reached_a_thread_is_not_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, or no thread to be had, between the queue and the pool: the next call is answered all
    the same.
    """
    ranker = with_dynamic_batching(Threads())
    assert isinstance(ranker, BatchingRanker)
    assert ranker.score(TEXTS["a"], [{}]) == [0.0]

    with monkeypatch.context() as patched:
        patched.setattr(
            ranker._executor._process.pool, "submit", lambda *_: raising(KeyboardInterrupt())([])
        )
        with pytest.raises(KeyboardInterrupt):
            ranker.score(TEXTS["a"], [{}])
    assert ranker.unfinished == 0
    assert ranker.score(TEXTS["a"], [{}]) == [0.0]


def test_a_ready_ranker_that_counts_as_false_is_a_ranker() -> None:
    class Empty(Faulty):
        def __len__(self) -> int:
            return 0

    hits = RNXRerank(ranker=Empty("", list)).postprocess_nodes(some_nodes(), query_str="q")
    assert [hit.score for hit in hits] == [3.0, 2.0, 1.0]
