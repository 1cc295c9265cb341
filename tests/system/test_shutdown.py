"""How a server ends and says that it is stuck: Ctrl-C in five seconds, SIGTERM after what is at
work, a truthful /health.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.server import Limits, serving

SERVER = """
import sys, time
from llama_index_rnx.server import create_app, run_server

class Sleeper:
    name, fingerprint, window = "sleeper", "sleeper", 20

    def remember(self, candidates):
        return [{} for _ in candidates]

    def score(self, query, memories):
        print("scoring", flush=True)
        time.sleep(float(query.text))
        return [0.5 for _ in memories]

run_server(create_app(Sleeper), "127.0.0.1", int(sys.argv[1]))
"""


class GatedRanker:
    """Scores when its gate is opened."""

    name, fingerprint, window = "gated", "gated", 20

    def __init__(self) -> None:
        self.gate = threading.Event()

    def remember(self, candidates: Sequence[Candidate]) -> list[Any]:
        return [{} for _ in candidates]

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        assert self.gate.wait(30)
        return [0.5 for _ in memories]


def ask(url: str, query: str = "query") -> httpx.Response:
    return httpx.post(
        f"{url}/rerank", json={"query": query, "documents": ["a"]}, timeout=60, trust_env=False
    )


def health(url: str) -> httpx.Response:
    return httpx.get(f"{url}/health", trust_env=False)


def eventually(status: int, url: str) -> httpx.Response:
    for _ in range(100):
        response = health(url)
        if response.status_code == status:
            return response
        time.sleep(0.1)
    raise AssertionError(f"/health did not become {status} within ten seconds: {response.text}")


def test_health_says_when_nothing_moves_and_when_it_moves_again() -> None:
    ranker = GatedRanker()
    with serving(ranker, limits=Limits(at_once=2, seconds=0.3)) as url:
        assert health(url).json() == {"status": "ok", "model": "gated"}
        assert [ask(url).status_code, ask(url).status_code] == [503, 503], (
            "too slow, and their places stay taken"
        )
        assert ask(url).status_code == 503

        stalled = eventually(503, url)
        assert stalled.json()["status"] == "stalled"
        assert "restart" in stalled.json()["message"]

        ranker.gate.set()
        eventually(200, url)
        assert ask(url).status_code == 200


def test_a_server_is_stalled_although_requests_that_are_given_up_come_and_go() -> None:
    ranker = GatedRanker()
    with serving(ranker, limits=Limits(at_once=4, seconds=0.3)) as url:
        stuck = [ask(url).status_code for _ in range(3)]
        assert stuck == [503] * 3
        assert [(ask(url).status_code, health(url).status_code) for _ in range(2)] == [
            (503, 503)
        ] * 2
        ranker.gate.set()
        eventually(200, url)


def test_a_timeout_of_the_ranker_is_not_the_servers() -> None:
    class Late(GatedRanker):
        def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
            raise TimeoutError("the model's own")

    with serving(Late()) as url:
        assert ask(url).status_code == 500


def test_an_idle_server_is_never_stalled() -> None:
    with serving(GatedRanker(), limits=Limits(seconds=0.1)) as url:
        time.sleep(0.3)
        assert health(url).status_code == 200


@contextmanager
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                health(url)
                break
            except httpx.TransportError:
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.2)
        yield process, url
    finally:
        process.kill()
        process.communicate()


def wait_until_scoring(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert any(line == "scoring\n" for line in process.stdout), "the server ended"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a matter of Unix")
def test_ctrl_c_ends_a_server_within_five_seconds_whatever_is_at_work() -> None:
    with server() as (process, url), ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(ask, url, "40") for _ in range(2)]
        wait_until_scoring(process)

        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        assert time.monotonic() - begin < 5
        for call in calls:
            error = call.exception()
            assert isinstance(error, httpx.TransportError) or call.result().status_code >= 500
        assert process.stdout is not None
        assert "Exception in ASGI application" not in process.stdout.read()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a matter of Unix")
def test_sigterm_finishes_what_is_at_work() -> None:
    with server() as (process, url), ThreadPoolExecutor(1) as pool:
        call = pool.submit(ask, url, "2")
        wait_until_scoring(process)
        process.send_signal(signal.SIGTERM)
        assert call.result().status_code == 200
        process.wait(timeout=20)
