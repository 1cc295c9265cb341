"""How much goes through a model at once, and what happens when its memory runs out. It knows
neither models nor rankers.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

from llama_index_rnx.memory import imported_torch

T = TypeVar("T")
R = TypeVar("R")


class TooLargeError(Exception):
    """A single item does not fit into memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine ran out of memory; only torch's CUDA has an exception of its
    own for it.
    """
    torch = imported_torch()
    if isinstance(error, MemoryError):
        return True
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    phrases = ("can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(phrase in message for phrase in phrases)


def release_memory() -> None:
    """Free released memory now. Rankers hold reference cycles through their caches, so only the
    garbage collector frees them; afterwards the CUDA allocator returns its cached blocks.
    """
    gc.collect()
    torch = imported_torch()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def halve_on_oom(
    items: Sequence[T], work: Callable[[Sequence[T]], list[R]], fewer: Callable[[], None]
) -> list[R]:
    """Run `work` over all items; over halves of them, and halves of halves, where memory runs out.

    Args:
        work: returns one result for each item.
        fewer: called before each halving: it may free something, and make later batches smaller.

    Raises:
        TooLargeError: a single item does not fit.
    """
    try:
        return work(items)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise

    # This stands outside of the handler, which would keep the tensors of the failed frame alive.
    if len(items) == 1:
        raise TooLargeError
    fewer()
    release_memory()
    middle = len(items) // 2
    return halve_on_oom(items[:middle], work, fewer) + halve_on_oom(items[middle:], work, fewer)


def batches_by_token_budget(
    lengths: Sequence[int], budget: Callable[[], int], shared: int = 0
) -> Iterator[list[int]]:
    """Yield the indices of rows, the longest first, in batches whose padded tokens stay within the
    budget; each has one row at least.

    Args:
        lengths: of the rows, in tokens.
        budget: asked before each batch, since it may have shrunk.
        shared: tokens that precede every row.

    Example:
        >>> list(batches_by_token_budget([2, 5, 4, 1], lambda: 10))
        [[1, 2], [0, 3]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * (lengths[batch[0]] + shared) > budget():
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pad_to_multiple(length: int) -> int:
    """Return the next of eight lengths an octave, a multiple of 64: at most an eighth longer, so
    that few lengths occur.

    Example:
        >>> [pad_to_multiple(length) for length in (1, 513, 640, 3500)]
        [64, 576, 640, 3584]
    """
    step = max(64, 1 << max(0, (length - 1).bit_length() - 4))
    return -(-length // step) * step


def batches_of_equal_shape(
    items: Iterable[T], size: Callable[[T], int], budget: Callable[[], int]
) -> Iterator[list[T]]:
    """Yield the items in order, in batches whose sizes together stay within the budget; each has
    one item at least.

    Example:
        >>> list(batches_of_equal_shape([2, 3, 9, 1], lambda item: item, lambda: 5))
        [[2, 3], [9], [1]]
    """
    batch: list[T] = []
    for item in items:
        if batch and sum(map(size, batch)) + size(item) > budget():
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def prefetch(
    workers: Executor, work: Callable[[T], R], items: Iterable[T], depth: int
) -> Iterator[R]:
    """Yield the results in order; the workers are at most `depth` items ahead of the consumer."""
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(workers.submit(work, item))
        if len(pending) > depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
