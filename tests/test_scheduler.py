"""Many callers of one ranker: they are read together, in order, apart from each other's faults, and may leave."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from llama_index_rnx import RNXRerank
from llama_index_rnx.candidates import Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.base import BatchRanker, Ranker
from llama_index_rnx.scheduler import CallerLeftError, SharedRanker, in_thread, shared

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


def busy(inner: GatedRanker, pool: ThreadPoolExecutor, **options: Any) -> tuple[SharedRanker, Any]:
    """A shared ranker that reads "a" and is held there."""
    shared = SharedRanker(inner, **options)
    first = pool.submit(shared.score, TEXTS["a"], [{}])
    wait_for(lambda: inner.reads == ["a"])
    return shared, first


def queue(shared: SharedRanker, pool: ThreadPoolExecutor, *names: str) -> list[Any]:
    """Callers that come one after the other."""
    futures = []
    for name in names:
        before = len(shared._waiting)
        futures.append(pool.submit(shared.score, TEXTS[name], [{}, {}]))
        wait_for(lambda before=before: len(shared._waiting) > before)
    return futures


def test_it_is_a_ranker() -> None:
    assert isinstance(SharedRanker(GatedRanker()), Ranker)
    assert isinstance(SharedRanker(GatedRanker()), BatchRanker)


def test_rerankers_of_a_process_share_the_one_model_and_it_goes_with_the_last() -> None:
    first, second = RNXRerank(top_n=1), RNXRerank(top_n=2)
    assert first._open() is second._open()
    inner, other = GatedRanker(), GatedRanker()
    one = shared(inner)
    assert shared(inner) is one
    assert shared(other) is not one
    gone = weakref.ref(one)
    del one, inner
    gc.collect()
    assert gone() is None


def test_a_lone_caller_waits_for_nobody() -> None:
    inner = GatedRanker()
    inner.gate.release(1)
    assert SharedRanker(inner).score(TEXTS["b"], [{}, {}]) == [98.0, 98.0]


def test_who_waits_is_read_together_in_the_order_of_coming() -> None:
    inner = GatedRanker()
    with ThreadPoolExecutor(8) as pool:
        shared, first = busy(inner, pool)
        others = queue(shared, pool, "c", "b", "d")
        inner.gate.release(9)
        assert first.result() == [97.0]
        assert [one.result() for one in others] == [[99.0] * 2, [98.0] * 2, [100.0] * 2]
    assert inner.reads == ["a", "cbd"]


def test_a_read_is_bounded_and_nobody_starves() -> None:
    inner = GatedRanker()
    with ThreadPoolExecutor(8) as pool:
        shared, _ = busy(inner, pool, windows_at_once=2)
        queue(shared, pool, "b", "c", "d", "e")
        inner.gate.release(9)
    assert inner.reads == ["a", "bc", "de"]


def test_a_call_of_more_windows_than_a_read_is_not_torn() -> None:
    inner = GatedRanker()
    inner.gate.release(1)
    found = SharedRanker(inner, windows_at_once=1).score_many([(TEXTS["a"], [{}]), (TEXTS["b"], [{}])])
    assert found == [[97.0], [98.0]]
    assert inner.reads == ["ab"]


def test_ones_fault_is_not_anothers() -> None:
    inner = GatedRanker()
    with ThreadPoolExecutor(8) as pool:
        shared, _ = busy(inner, pool)
        good, bad, other = queue(shared, pool, "b", "bad", "c")
        inner.gate.release(9)
        assert good.result() == [98.0] * 2
        assert other.result() == [99.0] * 2
        with pytest.raises(RNXError, match="bad query"):
            bad.result()
    assert inner.reads == ["a", "bbadc", "b", "bad", "c"]


def test_a_reader_that_is_killed_gives_its_turn_on() -> None:
    inner = GatedRanker()
    with ThreadPoolExecutor(8) as pool:
        shared, _ = busy(inner, pool)
        (other,) = queue(shared, pool, "b")
        original, inner.score_many = inner.score_many, _interrupted  # type: ignore[method-assign]
        shared._reading = 0  # as if the first had ended
        with pytest.raises(KeyboardInterrupt):
            shared.score(TEXTS["c"], [{}])
        inner.score_many = original  # type: ignore[method-assign]
        inner.gate.release(9)
        assert other.result() == [98.0] * 2


def _interrupted(asks: Any) -> Any:
    raise KeyboardInterrupt


async def test_a_cancelled_caller_frees_its_place() -> None:
    inner = GatedRanker()
    shared = SharedRanker(inner)
    first = asyncio.create_task(in_thread(lambda: shared.score(TEXTS["a"], [{}])))
    await _until(lambda: inner.reads == ["a"])
    second = asyncio.create_task(in_thread(lambda: shared.score(TEXTS["b"], [{}])))
    await _until(lambda: len(shared._waiting) == 1)
    third = asyncio.create_task(in_thread(lambda: shared.score(TEXTS["c"], [{}])))
    await _until(lambda: len(shared._waiting) == 2)
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
    left = threading.Event()
    left.set()
    inner = GatedRanker()
    shared = SharedRanker(inner)
    from llama_index_rnx import scheduler

    token = scheduler._left.set(left)
    try:
        with pytest.raises(CallerLeftError):
            shared.score(TEXTS["a"], [{}])
    finally:
        scheduler._left.reset(token)
    assert inner.reads == []


class SideBySide:
    """Reads a window at a time, in as many threads as it says."""

    name, fingerprint, window, readers = "beside", "beside", 20, 2

    def __init__(self, inner: GatedRanker) -> None:
        self.inner = inner
        self.remember = inner.remember

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        return self.inner.score(query, memories)


def test_a_ranker_may_be_read_side_by_side() -> None:
    inner = GatedRanker()
    with ThreadPoolExecutor(8) as pool:
        shared = SharedRanker(SideBySide(inner))
        found = [pool.submit(shared.score, TEXTS[name], [{}]) for name in "abcd"]
        wait_for(lambda: len(inner.reads) == 2)
        time.sleep(0.05)
        assert len(inner.reads) == 2, "no more than it says"
        inner.gate.release(9)
        assert [one.result() for one in found] == [[97.0], [98.0], [99.0], [100.0]]
    assert sorted(inner.reads) == ["a", "b", "c", "d"]


def test_the_windows_of_one_caller_are_read_side_by_side_too() -> None:
    inner = GatedRanker()
    shared = SharedRanker(SideBySide(inner))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(shared.score_many, [(TEXTS[name], [{}]) for name in "abc"])
        wait_for(lambda: len(inner.reads) == 2)
        inner.gate.release(9)
        assert found.result() == [[97.0], [98.0], [99.0]]
    assert sorted(inner.reads) == ["a", "b", "c"]


class Threads:
    """Notes on which thread it works."""

    name, fingerprint, window, readers = "threads", "threads", 20, 2

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
    shared = SharedRanker(inner)
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: shared.score(TEXTS["a"], shared.remember([object()])), range(64)))  # type: ignore[list-item]
    assert len(inner.remembered) == 1
    assert 1 <= len(inner.scored) <= Threads.readers


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork is a matter of Unix")
def test_a_fork_of_a_process_that_has_ranked_ranks_too() -> None:
    """As servers do that load first and fork then: none of the parent's threads are there."""
    shared = SharedRanker(Threads())
    assert shared.score(TEXTS["a"], shared.remember([object()])) == [0.0]  # type: ignore[list-item]
    asyncio.run(in_thread(lambda: None))
    child = os.fork()
    if child == 0:
        _exit_after(lambda: asyncio.run(in_thread(lambda: shared.score(TEXTS["b"], shared.remember([object()])))))  # type: ignore[list-item]
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
        shared = SharedRanker(Counting())
        return list(callers.map(lambda _: shared.score(TEXTS["a"], [{}]), range(8)))

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with ThreadPoolExecutor(4) as callers, ThreadPoolExecutor(1) as others:
            assert asked(callers) == [[2.0]] * 8
            assert others.submit(torch.get_num_threads).result() == torch.get_num_threads() == 4
        assert SharedRanker(Counting()).score(TEXTS["a"], [{}]) == [2.0]
        assert SharedRanker(GatedRanker()).run(torch.get_num_threads) == 4  # one that works alone may have all of them
    finally:
        torch.set_num_threads(before)
