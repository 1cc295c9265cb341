"""Batches and what happens when memory runs out, without a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama_index_rnx.ranking import (
    TooLargeError,
    batches_by_token_budget,
    batches_of_equal_shape,
    halve_on_oom,
    is_out_of_memory,
    prefetch,
)


def test_halves_of_halves_keep_the_order() -> None:
    sizes, fewer = [], []

    def work(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [item * 10 for item in items]

    assert halve_on_oom([1, 2, 3, 4, 5], work, lambda: fewer.append(1)) == [10, 20, 30, 40, 50]
    assert sizes == [5, 2, 3, 1, 2]
    assert len(fewer) == 2


def test_a_single_item_that_does_not_fit_is_named() -> None:
    def full(_: Sequence[int]) -> list[int]:
        raise MemoryError

    with pytest.raises(TooLargeError):
        halve_on_oom([1, 2], full, lambda: None)


def test_only_memory_counts_as_memory() -> None:
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(OSError("out of memory"))


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200), st.integers(0, 40))
def test_batches_hold_every_row_once_and_keep_the_budget(
    lengths: list[int], budget: int, shared: int
) -> None:
    parts = list(batches_by_token_budget(lengths, lambda: budget, shared))
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or len(part) * (max(lengths[i] for i in part) + shared) <= budget


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 100))
def test_groups_keep_order_and_budget(sizes: list[int], budget: int) -> None:
    groups = list(batches_of_equal_shape(sizes, lambda size: size, lambda: budget))
    assert [size for group in groups for size in group] == sizes
    assert all(len(group) == 1 or sum(group) <= budget for group in groups)


def test_workers_stay_a_few_items_ahead() -> None:
    started, lock = [], threading.Lock()

    def work(item: int) -> int:
        with lock:
            started.append(item)
        return item * 2

    with ThreadPoolExecutor(4) as workers:
        results = prefetch(workers, work, range(100), depth=5)
        assert next(results) == 0
        time.sleep(0.05)
        assert len(started) <= 6
        assert list(results) == [item * 2 for item in range(1, 100)]


def test_an_error_of_a_worker_arrives() -> None:
    with ThreadPoolExecutor(2) as workers, pytest.raises(ZeroDivisionError):
        list(prefetch(workers, lambda item: 1 // item, [1, 0, 1], depth=1))
