"""`rnx serve` under callers who hang up, time out and fail: afterwards it answers, is healthy,
counts nobody, and ends.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from sizes import sizes

WORDS = (
    "valve",
    "pump",
    "bar",
    "oil",
    "brake",
    "pad",
    "chain",
    "gear",
    "wheel",
    "tyre",
    "frame",
    "lamp",
    "bolt",
    "seal",
)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are a matter of Unix")


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def visit(url: str, seed: int) -> str:
    """One caller: a list of fresh or common texts, some with too little patience, some with a query
    that is none.
    """
    rng = random.Random(seed)
    kind = rng.choice(["patient", "patient", "hangs up", "too much", "bad"])
    count, words = {"too much": (400, 150), "hangs up": (40, 60)}.get(kind, (rng.randint(1, 4), 20))
    documents = [text(rng, words) for _ in range(count)]
    query = " " if kind == "bad" else text(rng, 5)
    patience = rng.uniform(0.05, 1.0) if kind == "hangs up" else 60.0

    try:
        body = {"query": query, "documents": documents}
        return str(
            httpx.post(f"{url}/rerank", json=body, timeout=patience, trust_env=False).status_code
        )
    except httpx.TimeoutException:
        return "hung up"


@contextmanager
def server(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "llama_index_rnx.cli", "serve", "--port", port, *options]
    environment = {name: value for name, value in os.environ.items() if name != "RNX_SERVER_KEY"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        wait_for_health(process, f"http://127.0.0.1:{port}")
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def wait_for_health(process: subprocess.Popen[bytes], url: str) -> None:
    for _ in range(1_200):
        assert process.poll() is None, "the server ended"
        try:
            assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("no answer within two minutes")


def at_work(url: str) -> float:
    metrics = httpx.get(f"{url}/metrics", trust_env=False).text
    (count,) = re.findall(r"^rnx_requests_at_work (\S+)$", metrics, flags=re.MULTILINE)
    return float(count)


@pytest.mark.parametrize("callers", sizes(24, 1_000))
def test_callers_who_leave_do_not_wedge_a_server(callers: int) -> None:
    with server("--max-seconds", "8", "--max-waiting", "16") as (process, url):
        with ThreadPoolExecutor(12) as pool:
            outcomes = Counter(pool.map(lambda seed: visit(url, seed), range(callers)))
        print(f"{callers} callers: {dict(sorted(outcomes.items()))}")
        assert set(outcomes) <= {"200", "422", "503", "hung up"}, outcomes
        assert outcomes["200"], "nobody was answered"

        for _ in range(200):
            if at_work(url) == 0:
                break
            time.sleep(0.1)
        assert at_work(url) == 0, "nobody waits any more"
        assert httpx.get(f"{url}/health", trust_env=False).json()["status"] == "ok"
        body = {"query": "pump", "documents": ["the pump", "a lamp"]}
        assert (
            httpx.post(f"{url}/rerank", json=body, timeout=30, trust_env=False).status_code == 200
        )

        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        assert time.monotonic() - begin < 5
