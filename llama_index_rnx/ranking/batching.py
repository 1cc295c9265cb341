"""How much goes through a model at once, and what happens when its memory runs out. It knows
neither models nor rankers.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class TooLargeError(Exception):
    """A single item does not fit into memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine ran out of memory; only CUDA has an exception of its own for
    it.
    """
    known = ("can't allocate memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in known)
    )


def release_memory() -> None:
    """What was let go of, now: a ranker's caches refer to it, so that only a collection ends it,
    and CUDA keeps what it had.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halve_on_oom(
    items: Sequence[T], work: Callable[[Sequence[T]], list[R]], fewer: Callable[[], None]
) -> list[R]:
    """`work` over all items; over halves of them, and halves of halves, where memory runs out.

    `fewer` is called before each halving: it may free something, and make later batches smaller.

    Raises:
        TooLargeError: a single item does not fit.
    """
    try:
        return work(items)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if len(items) == 1:  # outside of the handler, which would keep the failed frame's tensors alive
        raise TooLargeError
    fewer()
    release_memory()
    middle = len(items) // 2
    return halve_on_oom(items[:middle], work, fewer) + halve_on_oom(items[middle:], work, fewer)


def batches_by_token_budget(
    lengths: Sequence[int], budget: Callable[[], int], shared: int = 0
) -> Iterator[list[int]]:
    """Indices of rows, the longest first, in batches whose padded places stay within the budget;
    one row at least.

    `shared` places precede every row. The budget is asked for each batch, since it may have shrunk.

    Example:
        >>> list(batches_by_token_budget([2, 5, 4, 1], lambda: 10))
        [[1, 2], [0, 3]]
    """
    part: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if part and (len(part) + 1) * (lengths[part[0]] + shared) > budget():
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def pad_to_multiple(length: int) -> int:
    """The next of eight lengths an octave, a multiple of 64: at most an eighth longer, so that few
    lengths occur.

    Example:
        >>> [rounded(length) for length in (1, 513, 640, 3500)]
        [64, 576, 640, 3584]
    """
    step = max(64, 1 << max(0, (length - 1).bit_length() - 4))
    return -(-length // step) * step


def batches_of_equal_shape(
    items: Iterable[T], size: Callable[[T], int], budget: Callable[[], int]
) -> Iterator[list[T]]:
    """The items in order, in groups whose sizes together stay within the budget; one item at least.

    Example:
        >>> list(batches_of_equal_shape([2, 3, 9, 1], lambda item: item, lambda: 5))
        [[2, 3], [9], [1]]
    """
    group: list[T] = []
    for item in items:
        if group and sum(map(size, group)) + size(item) > budget():
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def prefetch(
    workers: Executor, work: Callable[[T], R], items: Iterable[T], depth: int
) -> Iterator[R]:
    """The results in order, made by workers who are at most `depth` items ahead of whoever takes
    them.
    """
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(workers.submit(work, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
