"""A Qdrant server killed while it writes and while it searches: one clear line in bounded time, and
the next run completes.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import count
from typing import Any

import pytest
from conftest import QdrantServer
from fakes import FakeEmbedding
from llama_index.core.schema import TextNode
from sizes import sizes
from warm import texts

from llama_index_rnx import NodeCollection
from llama_index_rnx.candidates import Query
from llama_index_rnx.errors import RNXError

pytestmark = pytest.mark.server
NODES = [TextNode(id_=str(i), text=text) for i, text in enumerate(texts(400))]
SECONDS = 30  # a call that lasts longer hangs: the pauses between retries are 6 s altogether
_names = count()


class SlowEmbedding(FakeEmbedding):
    """Takes its time over each batch, as a model does: the server is killed in the midst of it,
    however fast the machine.
    """

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        time.sleep(0.1)
        return super()._get_text_embeddings(texts)


def opened(server: QdrantServer, name: str) -> NodeCollection:
    return NodeCollection(server.url, name=name, embedding=SlowEmbedding(), ranker=None)


def killed_during(
    server: QdrantServer, work: Callable[[], Any], after: float, stop: threading.Event | None = None
) -> tuple[BaseException | None, bool]:
    """The error of `work` when the server is killed so many seconds after its start, and comes back
    at once or too late; and whether the work was still going on then."""
    with ThreadPoolExecutor(1) as pool:
        future: Future[Any] = pool.submit(work)
        time.sleep(after)
        amid = not future.done()
        server.stop()
        late = threading.Timer(random.Random(after).choice([0.0, 12.0]), server.start)
        late.start()
        try:
            if stop is not None:
                late.join() if late.interval == 0.0 else wait([future], timeout=SECONDS)
                stop.set()
            return future.exception(timeout=SECONDS), amid
        finally:
            late.join()


def is_one_clear_line(error: BaseException | None) -> bool:
    """Nothing, if the work had ended or was still retried when the server came back."""
    return error is None or (
        isinstance(error, RNXError) and "does not answer" in str(error) and "\n" not in str(error)
    )


@pytest.mark.parametrize("kills", sizes(1, 10))
def test_in_mid_upsert(kills: int, qdrant_server: QdrantServer) -> None:
    rng, name = random.Random(kills), f"stress-{next(_names)}"
    failed = hit = 0
    for i in range(kills):
        collection = opened(qdrant_server, f"{name}-{i}")
        error, amid = killed_during(
            qdrant_server,
            partial(collection.add, NODES, show_progress=False),
            rng.uniform(0.0, 1.0),
        )
        hit += amid
        assert is_one_clear_line(error), repr(error)
        failed += error is not None
        collection.add(NODES, show_progress=False)
        assert len(collection) == len(NODES)
        found = collection.get([node.node_id for node in NODES])
        assert [node.get_content() for node in found] == [node.text for node in NODES]
        assert collection.add(NODES, show_progress=False) == 0
        collection.close()
    assert hit > kills // 2
    print(
        f"killed {hit} of {kills} times in mid-upsert, {failed} times the caller was told; "
        "nothing lost, nothing doubled"
    )


@pytest.mark.parametrize("kills", sizes(1, 10))
def test_in_mid_search(kills: int, qdrant_server: QdrantServer) -> None:
    rng, told = random.Random(kills), 0
    collection = opened(qdrant_server, f"stress-{next(_names)}")
    collection.add(NODES, show_progress=False)
    expected = [best(collection, text) for text in texts(20)]
    for _ in range(kills):
        stop = threading.Event()
        error, _ = killed_during(
            qdrant_server,
            partial(search_on, collection, expected, stop),
            rng.uniform(0.0, 0.5),
            stop,
        )
        assert is_one_clear_line(error), repr(error)
        told += error is not None
        assert [best(collection, text) for text in texts(20)] == expected
    collection.close()
    print(f"killed {kills} times in mid-search, {told} times the caller was told; no wrong answer")


def search_on(collection: NodeCollection, expected: list[str], stop: threading.Event) -> None:
    """One search after the other, each checked, until it is stopped."""
    for turn in count():
        assert best(collection, texts(20)[turn % 20]) == expected[turn % 20]
        if stop.is_set():
            return


def best(collection: NodeCollection, text: str) -> str:
    """The first hit; behind it are ties, which a server orders anew when it starts again."""
    return collection.search(Query(text=text), k=10)[0].node_id
