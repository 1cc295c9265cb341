"""Points on their way to a server: parts of a size that it takes, several at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from qdrant_client import QdrantClient, models

from llama_index_rnx.collection.metadata import json_text
from llama_index_rnx.errors import RNXError

REQUEST_BYTES = (
    16 * 2**20
)  # a server takes 32 MiB at once, some gateways less: then parts are halved


FLOAT_BYTES = 25  # of a vector's number as JSON, at most


T = TypeVar("T")


def upsert_points(client: QdrantClient, name: str, points: list[models.PointStruct]) -> None:
    client.upsert(name, points=points, wait=True)


def split_by_size(points: Sequence[models.PointStruct]) -> Iterator[list[models.PointStruct]]:
    """Parts that a server takes at once: it refuses requests above 32 MiB, and photographs as
    base64 are large.
    """
    part: list[models.PointStruct] = []
    size = 0
    for point in points:
        own = _request_bytes(point)
        if part and size + own > REQUEST_BYTES:
            yield part
            part, size = [], 0
        part.append(point)
        size += own
    if part:
        yield part


def _request_bytes(point: models.PointStruct) -> int:
    """What a point takes in a request: its payload as JSON, and its vectors."""
    vectors: Iterable[Any] = point.vector.values() if isinstance(point.vector, dict) else []
    numbers = sum(
        2 * len(one.values) if isinstance(one, models.SparseVector) else len(one) for one in vectors
    )
    return len(json_text(point.payload).encode()) + FLOAT_BYTES * numbers


def too_large_error(point: models.PointStruct, error: Exception) -> RNXError:
    return RNXError(
        f"it takes {_request_bytes(point):,} bytes, more than the server accepts at once; shorten its text, picture or "
        f"metadata ({error})."
    )


@contextmanager
def background_writes(at_once: int) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yields `submit(work)`: at most so many are under way, and a fault comes out of a later submit
    or of the end.

    With 0 the work is done on the spot.
    """
    if at_once == 0:
        yield lambda work: work()
        return
    under_way: deque[Future[None]] = deque()

    def submit(work: Callable[[], None]) -> None:
        while len(under_way) >= at_once:
            under_way.popleft().result()
        under_way.append(pool.submit(work))

    with ThreadPoolExecutor(at_once, thread_name_prefix="rnx-write") as pool:
        yield submit
        while under_way:
            under_way.popleft().result()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
