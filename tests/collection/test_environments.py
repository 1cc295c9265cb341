"""Proxies, read-only places and old servers: what stands around an index."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import QdrantServer, Rnx, free_port
from fakes import FakeEmbedding, FakeRanker, text_hits
from llama_index.core.schema import TextNode

from llama_index_rnx import NodeCollection, RNXError, RNXRerank
from llama_index_rnx.candidates import Query, candidate_of
from llama_index_rnx.collection import Storage, folders
from llama_index_rnx.memory import RAM, MemoryStore, sqlite_backend
from llama_index_rnx.network import is_loopback_url
from llama_index_rnx.rankers.remote import RemoteRanker

NODES = [TextNode(id_="a", text="iron rusts"), TextNode(id_="b", text="bees hum")]


class Service:
    """Answers on loopback with what `answers` has for a path; `calls` holds the requests."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.calls = answers, list[str]()
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers.get("content-length") or 0))
        self.calls.append(f"{request.command} {request.path}")
        found = self.answers.get(request.path)
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        request.send_response(404 if found is None else 200)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def serving(answers: dict[str, Any]) -> Iterator[Service]:
    service = Service(answers)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            service.answer(self)

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        service.url = f"http://127.0.0.1:{server.server_port}"
        yield service
        server.shutdown()
        thread.join()


# --- proxies

DEAD = "http://127.0.0.1:9"
PROXIES: list[dict[str, str]] = [
    {"HTTP_PROXY": DEAD},
    {"http_proxy": DEAD, "no_proxy": "localhost"},
    {"ALL_PROXY": DEAD, "HTTPS_PROXY": DEAD, "grpc_proxy": DEAD},
    {"ALL_PROXY": "socks5://127.0.0.1:9"},
    {"HTTP_PROXY": "http://proxy:port"},
    {"HTTP_PROXY": "gopher://proxy"},
    {"HTTP_PROXY": DEAD, "NO_PROXY": "[::1"},
]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture(
    params=PROXIES, ids=lambda found: " ".join(f"{name}={value}" for name, value in found.items())
)
def proxies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found: dict[str, str] = request.param
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_service_on_this_machine_is_reached_without_the_proxy(
    proxies: dict[str, str], host: str
) -> None:
    results = [{"index": 0, "relevance_score": 0.1}, {"index": 1, "relevance_score": 0.9}]
    with serving({"/rerank": {"results": results}}) as service:
        url = service.url.replace("127.0.0.1", host)
        hits = RNXRerank(model=url).postprocess_nodes(text_hits("one", "two"), query_str="two")
    assert [hit.node_id for hit in hits] == ["n1", "n0"]


def test_a_qdrant_on_this_machine_is_reached_without_the_proxy(proxies: dict[str, str]) -> None:
    with serving(
        {
            "/": {"title": "q", "version": "1.16.0"},
            "/collections/rnx/exists": {"result": {"exists": False}},
        }
    ) as found:
        assert len(NodeCollection(found.url, embedding=FakeEmbedding())) == 0
    with pytest.raises(RNXError, match="does not answer"):
        NodeCollection(
            f"http://127.0.0.1:{free_port()}", embedding=FakeEmbedding(), storage=Storage(retries=0)
        )


@pytest.mark.server
@pytest.mark.parametrize("grpc", [False, True])
def test_rest_and_grpc_go_past_the_proxy(
    qdrant_server: QdrantServer, monkeypatch: pytest.MonkeyPatch, grpc: bool
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "grpc_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, DEAD)
    collection = NodeCollection(
        qdrant_server.url,
        name=f"proxy-{grpc}",
        embedding=FakeEmbedding(),
        storage=Storage(grpc=grpc, retries=0),
    )
    assert collection.add(NODES) == 2
    collection.close()


@pytest.mark.parametrize(
    "proxy",
    [
        pytest.param(
            "socks5://127.0.0.1:9",
            marks=pytest.mark.skipif(find_spec("socksio") is not None, reason="socksio is there"),
        ),
        "http://proxy:port",
        "gopher://proxy",
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_line_elsewhere(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    for work in (
        lambda: RemoteRanker("http://rerank.example"),
        lambda: NodeCollection("http://qdrant.example", embedding=FakeEmbedding()),
    ):
        with pytest.raises(RNXError, match="through the proxies of the environment") as caught:
            work()
        assert "\n" not in str(caught.value)


def test_other_hosts_use_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"http://rerank.example/rerank": {"results": [{"index": 0, "relevance_score": 0.5}]}}
    with serving(answers) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        RNXRerank(model="http://rerank.example").postprocess_nodes(
            text_hits("one"), query_str="one"
        )
    assert proxy.calls == ["POST http://rerank.example/rerank"]


def test_which_hosts_are_this_machine() -> None:
    here = [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "127.0.0.1",
        "127.8.8.8",
        "127.1",
        "[::1]",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
    ]
    there = ["qdrant.example", "localhost.example", "10.0.0.1", "[2001:db8::1]", "128.0.0.1", ""]
    assert [is_loopback_url(f"http://{host}:6333/rerank") for host in here] == [True] * len(here)
    assert [is_loopback_url(f"http://{host}") for host in there] == [False] * len(there)


# --- read-only places


def make_index(folder: Path) -> None:
    ranker = FakeRanker(fingerprint="fake/read-only")
    collection = NodeCollection(folder, embedding=FakeEmbedding(), ranker=ranker)
    collection.add(NODES)
    collection.close()


def searched(folder: Path) -> None:
    """What a read-only index must do: everything but writing."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    RAM.clear()
    collection = NodeCollection(folder, embedding=FakeEmbedding(), ranker=None)
    assert len(collection) == 2
    assert next(hit.node_id for hit in collection.search(Query(text="iron"))) == "a"
    assert collection.get(["b"])[0].get_content() == "bees hum"
    digests = [candidate_of(node).digest for node in NODES]
    assert len(collection.memories.find("fake/read-only", digests)) == 2, (
        "what was remembered is there"
    )
    works = [
        lambda: collection.add([TextNode(text="new")]),
        lambda: collection.add(NODES),
        lambda: collection.delete(["a"]),
        lambda: collection.remove_file("x"),
    ]
    for work in works:
        with pytest.raises(RNXError, match="read-only") as caught:
            work()
        assert "free the disk" not in str(caught.value).lower()
    collection.close()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_read_only_index_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_index(tmp_path / "index")
    monkeypatch.setattr(folders, "is_read_only", lambda folder: True)
    searched(tmp_path / "index")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_searched(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    make_index(folder)
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        searched(folder)
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


MOUNTED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_environments import searched
searched(Path(sys.argv[1]))
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None or os.geteuid() != 0, reason="a mount needs root and unshare"
)
def test_a_read_only_mount_is_searched(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    make_index(folder)
    mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no mounts are allowed here")
    here = Path(__file__).parents[1]
    call = f'{mount} && exec "$@"'
    arguments = [
        sys.executable,
        "-W",
        "error::RuntimeWarning",
        "-c",
        MOUNTED,
        str(folder),
        str(here / "collection"),
        str(here),
        str(here.parent),
    ]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", call, "sh", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_command_line_searches_a_read_only_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rnx: Rnx
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "iron.txt").write_text("Iron turns to rust.")
    assert rnx("index", tmp_path / "docs", "--to", tmp_path / "index").code == 0
    monkeypatch.setattr(folders, "is_read_only", lambda folder: True)
    found = rnx("search", "rust", "--from", tmp_path / "index", "--format", "json")
    assert found.code == 0, found.err
    assert "iron.txt" in found.out
    (tmp_path / "docs" / "new.txt").write_text("New.")
    again = rnx("index", tmp_path / "docs", "--to", tmp_path / "index")
    assert again.code == 2
    assert "read-only" in again.err


def test_a_memory_folder_without_the_right_to_write_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sqlite_backend, "_connect", forbidden)
    with pytest.warns(RuntimeWarning, match="Make the folder writable"):
        MemoryStore(tmp_path / "memories")


# --- old servers


def qdrant_answers(root: Any) -> dict[str, Any]:
    return {"/": root, "/collections/rnx/exists": {"result": {"exists": False}}}


@pytest.mark.parametrize("version", ["1.15.5", "1.9.2", "0.11.0", "v1.15.0-dev"])
def test_a_server_that_is_too_old_is_said_before_anything_is_made(version: str) -> None:
    answers = qdrant_answers({"title": "qdrant", "version": version})
    with (
        serving(answers) as service,
        pytest.raises(RNXError, match=rf"is {version}; 1\.16 or newer is needed"),
    ):
        NodeCollection(service.url, embedding=FakeEmbedding())
    assert service.calls == ["GET /"]


@pytest.mark.parametrize(
    "root",
    [
        None,
        b"<html>",
        [],
        {"title": "gateway"},
        {"title": "q", "version": "unknown"},
        {"title": "q", "version": "1.16.0"},
        {"title": "q", "version": "2.0.1-rc1"},
    ],
    ids=repr,
)
def test_a_version_that_is_new_or_hidden_is_no_hindrance(root: Any) -> None:
    with serving(qdrant_answers(root)) as service:
        assert (
            len(NodeCollection(service.url, embedding=FakeEmbedding(), storage=Storage(retries=0)))
            == 0
        )


def test_a_server_that_hides_its_version_and_keeps_no_metadata(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    client = collection._index._connection._client
    create = client.create_collection

    def older(name: str, **settings: Any) -> bool:
        return create(name, **{**settings, "metadata": None})

    monkeypatch.setattr(client, "create_collection", older)
    with pytest.raises(
        RNXError, match=r"keeps no metadata of collections; Qdrant 1\.16 or newer is needed"
    ):
        collection.add(NODES)
    assert not client.collection_exists("rnx")
