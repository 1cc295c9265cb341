"""Strangers on the network: keys in every spelling, foreign hosts and pages, packed and endless
bodies, idle connections.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from conftest import Rnx
from fakes import FakeRanker
from fastapi import FastAPI
from fastapi.testclient import TestClient

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.mini import MiniRanker
from llama_index_rnx.server import Limits, connections, create_app, serving

BODY = {"query": "rust", "documents": ["bees", "rust"]}
PACKED = json.dumps(BODY).encode()


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.fixture(scope="module")
def keyed() -> Iterator[TestClient]:
    with TestClient(create_app(FakeRanker, api_key=" se cret\n")) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer se cret"},
        {"authorization": "bearer se cret"},
        {"authorization": "BEARER   se cret "},
        {"authorization": "Token se cret"},
        {"authorization": "se cret"},
        {"api-key": "se cret"},
        {"X-API-Key": "se cret"},
        {"authorization": "Bearer other", "x-api-key": "se cret"},
    ],
)
def test_a_key_in_any_spelling(keyed: TestClient, headers: dict[str, str]) -> None:
    assert keyed.post("/rerank", json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer Bearer se cret"},
        {"authorization": "Bearer se cret2"},
        {"authorization": "Bearer se cre"},
        {"authorization": "cret"},
        {"x-api-key": ""},
        {"authorization": b"Bearer \xff\xfe"},
    ],
)
@pytest.mark.parametrize(
    "path",
    ["/rerank", "/metrics", "/openapi.json", "/", "/info", "/v1/models", "/nothing", "//health"],
)
def test_a_wrong_key_on_all_paths_but_health(keyed: TestClient, headers: Any, path: str) -> None:
    assert keyed.post(path, json=BODY, headers=headers).status_code == 401
    assert keyed.get(path, headers=headers).status_code == 401
    assert keyed.get("/health", headers=headers).status_code == 200


@pytest.mark.parametrize("key", ["", " ", "\n\t"])
def test_an_empty_key_starts_no_server(rnx: Rnx, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr("llama_index_rnx.server.run_server", pytest.fail)
    with pytest.raises(RNXError, match="the API key is empty"):
        create_app(FakeRanker, api_key=key)
    by_option = rnx("serve", "--api-key", key)
    monkeypatch.setenv("RNX_SERVER_KEY", key)
    by_variable = rnx("serve")
    for result in (by_option, by_variable):
        assert result.code == 2
        assert "the API key is empty" in result.err
        assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:80", 200),
        ("localhost:8787", 200),
        ("LOCALHOST.", 200),
        ("[::1]:8787", 200),
        ("evil.example", 403),
        ("evil.example:8787", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("0.0.0.0", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_without_a_key_only_names_of_this_machine_are_answered(host: str, status: int) -> None:
    app = create_app(FakeRanker, loopback_only=True)
    with TestClient(app, base_url="http://127.0.0.1:8787") as client:
        for path in ("/rerank", "/rerank/", "/v1/reranking"):
            assert client.post(path, json=BODY, headers={"host": host}).status_code == status
        assert client.get("/health", headers={"host": host}).status_code == status


def test_serving_answers_to_this_machine_and_with_a_key_to_any_host() -> None:
    with serving(FakeRanker()) as url:
        assert (
            httpx.post(f"{url}/rerank", json=BODY, headers={"host": "evil.example"}).status_code
            == 403
        )
        assert httpx.post(f"{url}/rerank", json=BODY).status_code == 200
    with serving(FakeRanker(), api_key="secret") as url:
        headers = {"host": "evil.example", "authorization": "Bearer secret"}
        assert httpx.post(f"{url}/rerank", json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("options", "warned", "status"),
    [
        ([], False, 403),
        (["--host", "::1"], False, 403),
        (["--host", "0.0.0.0"], True, 200),
        (["--host", "::"], True, 200),
        (["--host", "0.0.0.0", "--api-key", "secret"], False, 200),
    ],
)
def test_the_command_warns_of_an_open_door(
    rnx: Rnx,
    mini: MiniRanker,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    warned: bool,
    status: int,
) -> None:
    served: list[FastAPI] = []
    monkeypatch.setattr("llama_index_rnx.load_ranker", lambda *_, **__: mini)
    monkeypatch.setattr(
        "llama_index_rnx.server.run_server", lambda app, host, port: served.append(app)
    )
    result = rnx("serve", *options)
    assert ("anybody" in result.err) == warned
    assert len(result.err.splitlines()) == warned
    headers = {"host": "evil.example", "authorization": "Bearer secret"}
    with TestClient(served[0], base_url="http://127.0.0.1:8787") as client:
        assert client.get("/v1/models", headers=headers).status_code == status


ORIGIN = "https://app.example"
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


def test_pages_of_other_origins_ask_by_option_only() -> None:
    with TestClient(create_app(FakeRanker, api_key="secret")) as client:
        answer = client.options("/rerank", headers=PREFLIGHT)
        assert answer.status_code == 401
        assert "access-control-allow-origin" not in answer.headers
    with TestClient(
        create_app(FakeRanker, api_key="secret", cors_origins=[ORIGIN, "http://localhost:3000"])
    ) as client:
        answer = client.options("/rerank", headers=PREFLIGHT)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        headers = {"origin": ORIGIN, "authorization": "Bearer secret"}
        assert (
            client.post("/rerank", json=BODY, headers=headers).headers[
                "access-control-allow-origin"
            ]
            == ORIGIN
        )
        refused = client.post("/rerank", json=BODY, headers={"origin": ORIGIN})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == ORIGIN
        other = client.options("/rerank", headers=PREFLIGHT | {"origin": "https://evil.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers


def test_without_a_key_no_foreign_page_may_ask() -> None:
    def status_of(client: TestClient, origin: str) -> int:
        return client.post(
            "/rerank", content=PACKED, headers={"origin": origin, "content-type": "text/plain"}
        ).status_code

    url = "http://127.0.0.1:8787"
    with TestClient(create_app(FakeRanker, loopback_only=True), base_url=url) as client:
        assert [
            status_of(client, origin) for origin in (url, ORIGIN, "null", "http://127.0.0.1:3000")
        ] == [200, 403, 403, 403]
    for allowed in (ORIGIN, "*"):
        app = create_app(FakeRanker, loopback_only=True, cors_origins=[allowed])
        with TestClient(app, base_url=url) as client:
            assert status_of(client, ORIGIN) == 200


@pytest.mark.parametrize(
    "origin", ["example.com", "https://example.com/", "https://example.com/page", "", "https://"]
)
def test_what_is_no_origin(origin: str) -> None:
    with pytest.raises(RNXError, match="an origin"):
        create_app(FakeRanker, cors_origins=[origin])


@pytest.fixture(scope="module")
def small() -> Iterator[TestClient]:
    with TestClient(create_app(FakeRanker, limits=Limits(body=10_000))) as client:
        yield client


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(PACKED, mtime=0)),
        ("GZIP", gzip.compress(PACKED, mtime=0)),
        ("x-gzip", gzip.compress(PACKED, mtime=0)),
        ("deflate", zlib.compress(PACKED)),
        ("deflate", bare_deflate(PACKED)),
        ("identity", PACKED),
        ("", PACKED),
    ],
)
def test_packed_bodies(small: TestClient, encoding: str, body: bytes) -> None:
    for content in (body, iter([body[:1], body[1:5], body[5:]])):
        answer = small.post("/rerank", content=content, headers={"content-encoding": encoding})
        assert answer.json()["results"][0]["index"] == 1


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", PACKED, 415),
        ("zstd", PACKED, 415),
        ("gzip, gzip", gzip.compress(gzip.compress(PACKED, mtime=0), mtime=0), 415),
        ("x" * 5_000, PACKED, 415),
        ("gzip", PACKED, 400),
        ("gzip", b"", 400),
        ("gzip", gzip.compress(PACKED, mtime=0)[:-10], 400),
        ("gzip", gzip.compress(PACKED, mtime=0) + b"more", 400),
        ("deflate", b"\xff" * 50, 400),
        ("gzip", gzip.compress(b"x" * 10_001, mtime=0), 413),
        ("deflate", zlib.compress(b" " * 1_000_000), 413),
    ],
)
def test_packed_bodies_that_are_refused(
    small: TestClient, encoding: str, body: bytes, status: int
) -> None:
    answer = small.post("/rerank", content=body, headers={"content-encoding": encoding})
    assert answer.status_code == status
    assert len(answer.json()["message"]) < 200


class Wire:
    """A request to an application without a server: what is sent when, and the status that comes
    back.
    """

    def __init__(self, app: FastAPI, *, headers: dict[str, str] | None = None) -> None:
        self._app, self._messages = app, asyncio.Queue[dict[str, Any]]()
        self._headers = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self.status = 0
        self.task = asyncio.ensure_future(self._run())

    def send(self, body: bytes, more: bool = True) -> None:
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def _run(self) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/rerank",
            "raw_path": b"/rerank",
            "query_string": b"",
            "headers": self._headers,
            "server": None,
        }
        await self._app(scope, self._messages.get, self._receive_answer)

    async def _receive_answer(self, message: Any) -> None:
        self.status = message.get("status", self.status)


async def test_a_bomb_is_seen_while_it_is_unpacked() -> None:
    """A gigabyte in a megabyte: the answer comes after the first piece, long before its end."""
    packer = zlib.compressobj(wbits=31)
    piece = b"".join(packer.compress(b"\0" * 2**20) for _ in range(20))
    app = create_app(FakeRanker, limits=Limits(body=2**20))
    async with app.router.lifespan_context(app):
        wire = Wire(app, headers={"content-encoding": "gzip"})
        wire.send(piece)
        await asyncio.wait_for(wire.task, 5)
    assert wire.status == 413


async def test_bodies_that_stand_still_share_one_budget_and_count_as_waiting() -> None:
    limits = Limits(body=1_000, bodies=2_500, at_once=4, idle=0.3)
    app = create_app(FakeRanker, limits=limits)
    async with app.router.lifespan_context(app):
        stalled = [Wire(app) for _ in range(3)]
        for wire in stalled:
            wire.send(b" " * 900)
        await wait_for(lambda: any(wire.status for wire in stalled))
        # The third was too much for all.
        assert sorted(wire.status for wire in stalled) == [
            0,
            0,
            503,
        ]

        more = [Wire(app) for _ in range(3)]
        await wait_for(lambda: any(wire.status for wire in more))
        # Four stand still: no place is free.
        assert sorted(wire.status for wire in more) == [
            0,
            0,
            503,
        ]

        await asyncio.gather(*(wire.task for wire in [*stalled, *more]))
        assert sorted(wire.status for wire in [*stalled, *more]) == [408] * 4 + [503] * 2

        good = Wire(app)
        good.send(PACKED, more=False)
        await wait_for(lambda: good.status != 0)
    assert good.status == 200


async def test_a_caller_that_leaves_amid_its_body_is_gone() -> None:
    app = create_app(FakeRanker, limits=Limits(bodies=1_000, body=1_000))
    async with app.router.lifespan_context(app):
        for _ in range(3):
            wire = Wire(app)
            wire.send(b" " * 900)
            wire._messages.put_nowait({"type": "http.disconnect"})
            await asyncio.wait_for(wire.task, 5)
            assert wire.status == 499


async def wait_for(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.01)


def test_bodies_are_given_back_when_they_are_answered() -> None:
    with TestClient(create_app(FakeRanker, limits=Limits(body=200, bodies=200))) as client:
        for _ in range(5):
            assert client.post("/rerank", json=BODY).status_code == 200
            assert client.post("/rerank", content=b" " * 150).status_code == 422


def connected(url: str, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 0))
    connection.settimeout(5)
    connection.sendall(data)
    return connection


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


def test_heads_that_are_never_finished_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with serving(FakeRanker()) as url, ExitStack() as open_ones:
        starts = [
            b"",
            b"P",
            b"POST /rerank HTTP/1.1\r\nhost: localhost\r\n",
            b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGE",
        ]
        waiting = [open_ones.enter_context(connected(url, start)) for start in starts]
        dripping = open_ones.enter_context(connected(url))
        for byte in b"GET /health HTTP/1.1\r\nx: ":
            try:
                dripping.send(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
        else:
            pytest.fail("a head of a second was not closed")
        assert b"200 OK" in waiting[3].recv(1_000)
        waiting[3].sendall(b"T")
        assert all(is_closed(each) for each in waiting)
        assert httpx.post(f"{url}/rerank", json=BODY).status_code == 200


def test_of_too_many_connections_the_one_that_waits_longest_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    with serving(FakeRanker()) as url, ExitStack() as open_ones:
        waiting = []
        for _ in range(4):
            waiting.append(open_ones.enter_context(connected(url, b"POST /re")))
            time.sleep(0.05)
        assert is_closed(waiting[0])
        assert httpx.post(f"{url}/rerank", json=BODY).status_code == 200
        assert is_closed(waiting[1])
        waiting[3].sendall(b"rank HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}")
        assert b" 422 " in waiting[3].recv(100)


def test_who_does_not_read_the_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.3)
    documents = ["a" * 2**20 for _ in range(20)]
    body = json.dumps({"query": "a", "documents": documents, "return_documents": True}).encode()
    head = (
        f"POST /rerank HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    )
    with serving(FakeRanker()) as url, connected(url, head + body) as connection:
        assert connection.recv(10) == b"HTTP/1.1 2"
        time.sleep(1)
        received = 0
        try:
            while chunk := connection.recv(2**20):
                received += len(chunk)
        except ConnectionResetError:
            received = 0
    assert received < len(body)
