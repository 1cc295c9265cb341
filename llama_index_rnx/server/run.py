"""Runs the server: in the foreground until it is stopped, or in a thread. It knows no route."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from llama_index_rnx.errors import ConnectionFailedError, SettingsError
from llama_index_rnx.ranking import Ranker
from llama_index_rnx.server.app import create_app
from llama_index_rnx.server.connections import GuardedProtocol
from llama_index_rnx.server.limits import Limits
from llama_index_rnx.system import run_until_stopped

LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.01


@contextmanager
def serving(
    ranker: Ranker,
    *,
    limits: Limits = Limits(),
    api_key: str | None = None,
    allow_urls: bool = False,
    cors_origins: Sequence[str] = (),
) -> Iterator[str]:
    """Run a server in a thread of this process, on a free port of this machine, for as long as the
    block lasts; yield its URL.

    It is meant for notebooks and tests; `rnx serve` is the server for people.

    Raises:
        SettingsError: see `create_app`.
        ConnectionFailedError: the server did not start.

    Example:
        >>> from llama_index_rnx import RNXRerank, load_ranker
        >>> with serving(load_ranker("rnx-mini")) as url:
        ...     reranker = RNXRerank(model=url)
        >>> url.startswith("http://127.0.0.1:")
        True
    """
    app = create_app(
        lambda: ranker,
        limits=limits,
        api_key=api_key,
        allow_urls=allow_urls,
        cors_origins=cors_origins,
        loopback_only=api_key is None,
    )
    config = uvicorn.Config(app, log_level="error", ws="none", http=GuardedProtocol)
    server = uvicorn.Server(config)

    with socket.socket() as listener:
        # Bind here and hand the socket over, so that nobody else can take the port in between.
        listener.bind((LOOPBACK, 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(POLL_SECONDS)
            if not server.started:
                raise ConnectionFailedError("the server did not start; its error stands above.")
            yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def run_server(app: FastAPI, host: str, port: int) -> None:
    """Serve until the process is told to stop: Ctrl-C ends it within five seconds; SIGTERM lets it
    finish what is at work, for 30 seconds at most.

    Raises:
        SettingsError: the address or the port cannot be had.
    """
    with create_listener(host, port) as listener:
        config = uvicorn.Config(
            app, log_level="info", server_header=False, ws="none", http=GuardedProtocol
        )
        run_until_stopped(config, listener)


def create_listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens at this address.

    Raises:
        SettingsError: the address or the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # Python repeats the address in brackets behind the reason.
        reason = str(error.strerror).split(" (")[0]
        raise SettingsError(
            f"port {port} of {host} cannot be had ({reason}); choose another --port."
        ) from error
