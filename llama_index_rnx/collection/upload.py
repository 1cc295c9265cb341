"""Points on their way to a server: requests of a size that it takes, several at once. It knows no
nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from pydantic_core import to_json
from qdrant_client import QdrantClient, models

from llama_index_rnx.errors import RNXError, SettingsError

# A server takes 32 MiB at once. Some gateways take less: then requests are halved.
REQUEST_BYTES = 16 * 2**20

FLOAT_BYTES = 25  # of a vector's number as JSON, at most
T = TypeVar("T")


def upsert_points(client: QdrantClient, name: str, points: list[models.PointStruct]) -> None:
    """Write points, and wait until they can be found."""
    client.upsert(name, points=points, wait=True)


def split_by_size(points: Sequence[models.PointStruct]) -> Iterator[list[models.PointStruct]]:
    """Yield the points in requests of `REQUEST_BYTES` at most; a larger point makes a request of
    its own. Servers refuse requests above 32 MiB, and photographs as base64 are large.
    """
    request: list[models.PointStruct] = []
    total = 0
    for point in points:
        size = _request_bytes(point)
        if request and total + size > REQUEST_BYTES:
            yield request
            request = []
            total = 0
        request.append(point)
        total += size
    if request:
        yield request


def _request_bytes(point: models.PointStruct) -> int:
    """Return the size of a point in a request: its payload as JSON, and its vectors."""
    vectors: Iterable[Any] = point.vector.values() if isinstance(point.vector, dict) else []
    numbers = 0
    for vector in vectors:
        is_sparse = isinstance(vector, models.SparseVector)
        numbers += 2 * len(vector.values) if is_sparse else len(vector)
    return len(to_json(point.payload)) + FLOAT_BYTES * numbers


def too_large_error(point: models.PointStruct, error: Exception) -> RNXError:
    """Return the error for a point that a server finds too large."""
    return SettingsError(
        f"it takes {_request_bytes(point):,} bytes, more than the server accepts at once; "
        f"shorten its text, image or metadata ({error})."
    )


@contextmanager
def background_writes(
    at_once: int, on_result: Callable[[T], None]
) -> Iterator[Callable[[Callable[[], T]], None]]:
    """Yield `submit(work)`, which runs the work in another thread; at most `at_once` are under way.

    An error that a work raises comes out of a later `submit`, or at the end.

    Args:
        at_once: with 0 the work is done on the spot.
        on_result: gets what each work returns, in the caller's thread.
    """
    if at_once == 0:
        yield lambda work: on_result(work())
        return

    running: deque[Future[T]] = deque()

    def submit(work: Callable[[], T]) -> None:
        while len(running) >= at_once:
            on_result(running.popleft().result())
        running.append(pool.submit(work))

    with ThreadPoolExecutor(at_once, thread_name_prefix="rnx-write") as pool:
        yield submit
        while running:
            on_result(running.popleft().result())


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
