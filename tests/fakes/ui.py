"""The page's server on a free port, and files that are put into its library."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from fakes.rankers import FakeRanker
from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.chat import RNXChatEngine
from llama_index_rnx.chat.engine import chat_engine
from llama_index_rnx.ui.app import PageLimits, create_page
from llama_index_rnx.ui.library import Entry, Library


@contextmanager
def page(
    collection: NodeCollection,
    library: Library,
    begin: Callable[[], RNXChatEngine] | None = None,
    limits: PageLimits = PageLimits(),
) -> Iterator[str]:
    """The page on a free port, served by a thread: yields its address."""
    begin = begin or (lambda: engine_of(collection))
    with socket.create_server(("127.0.0.1", 0)) as door:
        config = uvicorn.Config(
            create_page(collection, library, begin, limits), log_level="error", ws="none"
        )
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def engine_of(collection: NodeCollection, llm: Any = None) -> RNXChatEngine:
    reranker = RNXRerank(ranker=FakeRanker(), top_n=3)
    return chat_engine(RNXRetriever(collection), reranker, llm, extractor=FakeRanker(window=1_000))


def put(library: Library, name: str, data: bytes) -> tuple[Entry, bool]:
    with library.receive(name) as upload:
        for start in range(0, len(data), 1_000):
            upload.write(data[start : start + 1_000])
        return upload.finish()


def settled(library: Library, done: Callable[[list[Entry]], bool] | None = None) -> list[Entry]:
    """The entries once nothing waits any more."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        entries = library.entries()
        if done(entries) if done else all(entry.state in ("ready", "failed") for entry in entries):
            return entries
        time.sleep(0.01)
    raise AssertionError(library.entries())
