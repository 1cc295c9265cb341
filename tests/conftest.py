"""Fixtures that many tests share. A Qdrant server is started once a session, on loopback, where its
binary is found.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

# Read when the hub's client is imported: no test asks a network, where five retries of an unknown
# hub id take two minutes.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import httpx
import hypothesis
import pytest
import torch

from llama_index_rnx import NodeCollection
from llama_index_rnx.cli import entry_point as cli
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.rankers.mini import MiniRanker

ROOT = Path(__file__).parents[1]

# Fixtures of one folder: a second conftest.py would hide this one from `from conftest import`.
pytest_plugins = ["fakes.bi_encoder"]

torch.set_num_threads(1)

# A machine that is busy otherwise draws examples slowly, which says nothing about what is tested.
hypothesis.settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any-machine")


class QdrantServer:
    """A real Qdrant server of our own, which a test may kill and start again; with `first` a node
    of that one's cluster.
    """

    def __init__(
        self, binary: Path, folder: Path, cluster: bool = False, first: QdrantServer | None = None
    ) -> None:
        self.binary, self.folder, self.cluster, self.first = binary, folder, cluster, first
        self.port, self.grpc, self.p2p = free_ports(3)
        self.url, self.uri = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.p2p}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        settings = {
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(self.port),
            "QDRANT__SERVICE__GRPC_PORT": str(self.grpc),
            "QDRANT__TELEMETRY_DISABLED": "true",
            "QDRANT__STORAGE__STORAGE_PATH": str(self.folder / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(self.folder / "snapshots"),
            "QDRANT__LOG_LEVEL": "ERROR",
            "QDRANT__CLUSTER__ENABLED": str(self.cluster).lower(),
            "QDRANT__CLUSTER__P2P__PORT": str(self.p2p),
        }
        arguments = ["--uri", self.uri] if self.cluster else []
        arguments += ["--bootstrap", self.first.uri] if self.first else []
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.binary), *arguments],
                cwd=self.folder,
                env={**os.environ, **settings},
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=30)
            self._process = None

    def wait(self) -> None:
        for _ in range(300):
            try:
                if httpx.get(f"{self.url}/readyz", timeout=1, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise RuntimeError(
            f"the Qdrant server did not start; {(self.folder / 'log.txt').read_text()[-500:]}"
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Ports that follow one another: gRPC is looked for on the one after REST."""
    while True:
        first = free_port()
        with ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):
                continue
            return list(range(first, first + count))


def qdrant_binary() -> Path | None:
    named = os.environ.get("RNX_QDRANT_SERVER")
    found = Path(named) if named else ROOT / ".cache" / "qdrant" / "qdrant"
    return found if found.is_file() else None


def chromium() -> str | None:
    """The browser for the tests of the page; none is downloaded."""
    return (
        os.environ.get("RNX_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )


def pytest_report_header() -> list[str]:
    """Say at the top what this machine lacks, and which command brings it."""
    missing = {
        "with a Qdrant server": (
            "`make qdrant`, or RNX_QDRANT_SERVER=PATH of its binary",
            qdrant_binary(),
        ),
        "in a browser": ("`apt-get install chromium`, or RNX_CHROMIUM=PATH", chromium()),
    }
    lines = [
        f"left out: tests {kind}; wanted: {remedy}"
        for kind, (remedy, there) in missing.items()
        if not there
    ]
    return lines or ["left out: nothing, a Qdrant server and a browser are there"]


@pytest.fixture(scope="session")
def qdrant_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    binary = qdrant_binary()
    if binary is None:
        pytest.skip("no Qdrant server: set RNX_QDRANT_SERVER to its binary, or run `make qdrant`")
    server = QdrantServer(binary, tmp_path_factory.mktemp("qdrant"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mini() -> MiniRanker:
    """The shipped model, loaded once."""
    ranker = load_ranker("rnx-mini", dtype="float32")
    assert isinstance(ranker, MiniRanker)
    return ranker


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Rnx = Callable[..., Result]


@pytest.fixture
def rnx(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Rnx]:
    """The command line, in this process, by its own `main`."""

    def call(*arguments: Any) -> Result:
        monkeypatch.setattr(sys, "argv", ["rnx", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Result(code, out, err)

    show, factory, hook = warnings.showwarning, logging.getLogRecordFactory(), sys.excepthook
    with warnings.catch_warnings():
        yield call
    warnings.showwarning, sys.excepthook = show, hook
    logging.setLogRecordFactory(factory)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random checkpoint of each vision-language family, by family; for reading only."""
    from llama_index_rnx.rankers.vlm import save_tiny
    from llama_index_rnx.rankers.vlm.tiny import FAMILIES

    return {family: save_tiny(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written into the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture
def own_loop() -> Iterator[None]:
    """LlamaIndex's blocking calls open an event loop and leave it open; here they find one, which
    is closed.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def closing() -> Iterator[list[NodeCollection]]:
    """Collections put here are closed when the test ends."""
    opened: list[NodeCollection] = []
    yield opened
    for collection in opened:
        collection.close()
