"""Runs the server: in the foreground until it is stopped, or in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fastapi import FastAPI

from llama_index_rnx.errors import RNXError
from llama_index_rnx.ranking import Ranker
from llama_index_rnx.server.app import create_app
from llama_index_rnx.server.connections import GuardedProtocol
from llama_index_rnx.server.limits import Limits
from llama_index_rnx.system import run_until_stopped


@contextmanager
def serving(
    ranker: Ranker,
    *,
    limits: Limits = Limits(),
    api_key: str | None = None,
    allow_urls: bool = False,
    cors_origins: Sequence[str] = (),
) -> Iterator[str]:
    """A server in a thread of this process, on a free port of this machine, for as long as the
    block lasts: yields its URL.

    For notebooks and tests; people are served by `rnx serve`.

    Example:
        >>> from llama_index_rnx import RNXRerank, load_ranker
        >>> with serving(load_ranker("rnx-mini")) as url:
        ...     reranker = RNXRerank(model=url)
        >>> url.startswith("http://127.0.0.1:")
        True
    """
    import uvicorn

    app = create_app(
        lambda: ranker,
        limits=limits,
        api_key=api_key,
        allow_urls=allow_urls,
        cors_origins=cors_origins,
        loopback_only=api_key is None,
    )
    with socket.socket() as door:
        door.bind(
            ("127.0.0.1", 0)
        )  # bound here and handed over, so that nobody else can take the port in between
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", ws="none", http=GuardedProtocol)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            if not server.started:
                raise RNXError("the server did not start; its error stands above.")
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def run_server(app: FastAPI, host: str, port: int) -> None:
    """Serves until it is stopped: Ctrl-C ends it within five seconds, SIGTERM finishes what is at
    work, 30 seconds at most.

    Raises:
        RNXError: the address or the port cannot be had.
    """
    import uvicorn

    with warn_of_open_server(host, port) as door:
        config = uvicorn.Config(
            app, log_level="info", server_header=False, ws="none", http=GuardedProtocol
        )
        run_until_stopped(config, door)


def warn_of_open_server(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        RNXError: the address or the port cannot be had.
    """
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        reason = str(error.strerror).split(" (")[0]  # behind it Python names the address once more
        raise RNXError(
            f"port {port} of {host} cannot be had ({reason}); choose another --port."
        ) from error
