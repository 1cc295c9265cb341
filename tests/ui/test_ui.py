"""The page's server over a real socket: who may speak to it, answers as they come, uploads, two
visitors, what goes wrong.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fakes import RED, FakeEmbedding, FakeRanker, image_bytes, pdf_bytes
from fakes.chat import ToldLLM
from fakes.ui import engine_of, page
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import TextNode
from PIL import Image
from typer.testing import CliRunner

from llama_index_rnx import NodeCollection, RNXError, RNXRerank, RNXRetriever
from llama_index_rnx.candidates import nodes
from llama_index_rnx.chat.engine import chat_engine
from llama_index_rnx.cli import entry_point as cli
from llama_index_rnx.ui import PageLimits
from llama_index_rnx.ui import conversations as ui_conversations
from llama_index_rnx.ui import run as ui
from llama_index_rnx.ui.library import Library

# LlamaIndex leaves event loops open.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
ME, YOU = "visitor-number-one", "visitor-number-two"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[NodeCollection, Library]]:
    collection = NodeCollection(tmp_path / "index", embedding=FakeEmbedding())
    library = Library(collection, tmp_path / "index" / "uploads", max_bytes=2**20)
    try:
        yield collection, library
    finally:
        library.close()
        collection.close()


@pytest.fixture
def filled(index: tuple[NodeCollection, Library]) -> tuple[NodeCollection, Library]:
    texts = ["Bees make honey.", "Bees sleep in winter.", "Rust is iron oxide."]
    index[0].add(
        [
            TextNode(id_=f"t{i}", text=text, metadata={"source": f"{i}.md"})
            for i, text in enumerate(texts)
        ]
    )
    return index


def ask(url: str, question: Any, key: str = ME, **headers: str) -> list[dict[str, Any]]:
    body = question if isinstance(question, bytes) else json.dumps({"question": question}).encode()
    answer = httpx.post(
        f"{url}/api/ask",
        content=body,
        headers={"X-Conversation": key} | headers,
        trust_env=False,
        timeout=30,
    )
    if answer.status_code != 200:
        return [answer.json() | {"status": answer.status_code}]
    return [json.loads(line) for line in answer.text.splitlines()]


def said(events: Sequence[dict[str, Any]]) -> str:
    return "".join(event.get("said", "") for event in events)


def put(url: str, name: str, data: bytes, **headers: str) -> httpx.Response:
    return httpx.put(
        f"{url}/api/files",
        content=data,
        headers={"X-File-Name": name} | headers,
        trust_env=False,
        timeout=30,
    )


def get(url: str, path: str, **headers: str) -> httpx.Response:
    return httpx.get(url + path, headers=headers, trust_env=False)


def until_ready(url: str) -> dict[str, Any]:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        state: dict[str, Any] = get(url, "/api/index").json()
        if all(file["state"] in ("ready", "failed") for file in state["files"]):
            return state
        time.sleep(0.02)
    raise AssertionError(state)


def test_an_answer_comes_with_its_sources_before_it(filled: tuple[NodeCollection, Library]) -> None:
    with page(*filled) as url:
        found, *answer, done = ask(url, "what do bees make?")
    assert done == {"done": True}
    assert said(answer).startswith("Bees make honey. [1]")
    first = found["found"]["after"][0]
    assert (first["id"], first["name"], first["was"], first["share"]) == ("t0", "0.md", 1, 1.0)
    assert first["excerpt"] == [["Bees", True], [" ", False], ["make", True], [" honey.", False]]
    assert len(found["found"]["before"]) == 3


def test_two_visitors_have_conversations_of_their_own(
    filled: tuple[NodeCollection, Library],
) -> None:
    with page(*filled) as url:
        ask(url, "what do bees make?")
        mine, yours = ask(url, "and in winter?"), ask(url, "and in winter?", YOU)
        assert mine[0]["found"]["query"] == "what do bees make? and in winter?"
        assert yours[0]["found"]["query"] == "and in winter?"
        turns = get(url, "/api/conversation", **{"X-Conversation": ME}).json()
        assert [turn["question"] for turn in turns] == ["what do bees make?", "and in winter?"]
        assert said(turns[1]["events"]) == said(mine)
        httpx.delete(f"{url}/api/conversation", headers={"X-Conversation": ME}, trust_env=False)
        assert ask(url, "and in winter?")[0]["found"]["query"] == "and in winter?"


class SlowLLM(ToldLLM):
    """Waits in the middle of an answer until it is let go; tells how many answers are at work."""

    gates: dict[str, Any] = {}  # noqa: RUF012

    def pieces(self, messages: Sequence[ChatMessage]) -> Iterator[str]:
        yield "first "
        self.gates["inside"].release()
        assert self.gates["go"].wait(20)
        yield "second"


def test_two_answers_at_once_and_one_that_is_stopped(
    filled: tuple[NodeCollection, Library],
) -> None:
    gates: dict[str, Any] = {"inside": threading.Semaphore(0), "go": threading.Event()}
    llm = SlowLLM(gates=gates)
    begin = lambda: chat_engine(  # noqa: E731
        RNXRetriever(filled[0]), RNXRerank(ranker=FakeRanker(), top_n=3), llm, condense=False
    )
    with page(*filled, begin, PageLimits(waiting=2)) as url:
        body, headers = json.dumps({"question": "bees?"}), {"X-Conversation": ME}
        with httpx.stream(
            "POST", f"{url}/api/ask", content=body, headers=headers, trust_env=False
        ) as mine:
            lines = mine.iter_lines()
            assert "found" in json.loads(next(lines))
            assert json.loads(next(lines)) == {"said": "first "}, "a piece is sent when it is there"
            other = threading.Thread(target=lambda: answers.append(ask(url, "rust?", YOU)))
            answers: list[Any] = []
            other.start()
            assert gates["inside"].acquire(timeout=10)
            assert gates["inside"].acquire(timeout=10), "both are at work"
            assert ask(url, "one more?", "visitor-number-three")[0]["status"] == 503
        # Wait until the server sees that the first visitor left in the middle.
        while ask(url, "")[0]["status"] == 503:
            time.sleep(0.01)
        gates["go"].set()
        other.join(20)
        assert said(answers[0]) == "first second"
        assert get(url, "/api/conversation", **headers).json() == []
        assert said(ask(url, "bees?")) == "first second"


def test_a_dead_language_model_costs_one_line(filled: tuple[NodeCollection, Library]) -> None:
    with page(*filled, lambda: engine_of(filled[0], ToldLLM(dies=1))) as url:
        found, failed, done = ask(url, "what do bees make?")
        assert found["found"]["after"][0]["id"] == "t0"
        assert failed["failed"].startswith(
            "the language model (told) does not answer: nobody is there."
        )
        assert done == {"done": True}
        assert said(ask(url, "what do bees make?")) == "an answer "
        assert get(url, "/api/index").json()["writer"] == "told"


def test_one_that_never_answers(
    filled: tuple[NodeCollection, Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui_conversations, "TIMEOUT_SECONDS", 0.05)
    gates: dict[str, Any] = {"inside": threading.Semaphore(0), "go": threading.Event()}
    with page(
        *filled, lambda: engine_of(filled[0], SlowLLM(gates=gates)), PageLimits(silence=0.5)
    ) as url:
        assert "nothing was heard for 0.5 seconds" in ask(url, "bees?")[-1]["failed"]
        assert "still at work" in ask(url, "bees?")[-1]["failed"]
        gates["go"].set()


def test_a_fault_of_ours_is_a_line_too(
    filled: tuple[NodeCollection, Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    with page(*filled) as url:
        with monkeypatch.context() as broken:
            broken.setattr(RNXRetriever, "_retrieve", lambda *given: 1 / 0)
            assert "ZeroDivisionError" in ask(url, "bees?")[0]["failed"]
            broken.setattr(
                RNXRetriever,
                "_retrieve",
                lambda *given: (_ for _ in ()).throw(RNXError("Qdrant is away.")),
            )
            assert ask(url, "bees?")[0]["failed"] == "Qdrant is away."
        assert said(ask(url, "what do bees make?")).startswith("Bees")


def test_a_question_without_an_index(index: tuple[NodeCollection, Library]) -> None:
    with page(*index) as url:
        assert get(url, "/api/index").json()["nodes"] == 0
        assert said(ask(url, "what do bees make?")) == "Nothing was found: the index is empty."


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (b'{"question": " "}', 422, "is empty"),
        (b'{"question": 3}', 422, "is empty"),
        (b"[]", 422, "send the question as"),
        (b"no json", 422, "send the question as"),
        (b"x" * 70_000, 413, "65,536 bytes"),
    ],
)
def test_questions_that_are_none(
    filled: tuple[NodeCollection, Library], body: bytes, status: int, part: str
) -> None:
    with page(*filled) as url:
        answer = ask(url, body)[0]
        assert answer["status"] == status
        assert part in answer["message"]
        assert "4,001 characters" in ask(url, "x" * 4_001)[0]["failed"]
        assert ask(url, "bees?", key="short")[0]["status"] == 422


def test_an_upload_is_indexed_while_others_ask(
    filled: tuple[NodeCollection, Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, progress = NodeCollection.write, []

    def slow(self: NodeCollection, *given: Any) -> int:
        time.sleep(0.02)
        return original(self, *given)

    monkeypatch.setattr(NodeCollection, "write", slow)
    # To draw 400 pages in full takes a minute.
    monkeypatch.setattr(nodes, "draw_page", lambda *_: Image.new("RGB", (30, 40), RED))
    with page(*filled) as url:
        answer = put(url, "long.pdf", pdf_bytes([f"page {i} about topic{i}" for i in range(200)]))
        assert (answer.status_code, answer.json()["file"]["name"]) == (202, "long.pdf")
        while (file := get(url, "/api/index").json()["files"][0])["state"] != "ready":
            if file["state"] == "indexing":
                progress.append(file["done"])
                assert said(ask(url, "what do bees make?")).startswith("Bees make honey. [1]")
        assert len(set(progress)) > 2
        assert progress == sorted(progress)
        assert ask(url, "topic137", YOU)[0]["found"]["after"][0]["name"] == "long.pdf, page 138"
        again = put(url, "other.pdf", pdf_bytes([f"page {i} about topic{i}" for i in range(200)]))
        assert (again.status_code, again.json()["again"]) == (200, True)


def test_pictures_by_node_and_nothing_else(
    filled: tuple[NodeCollection, Library], tmp_path: Path
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(image_bytes(RED))
    with page(*filled) as url:
        put(url, "red%20cup.png", image_bytes(RED))
        until_ready(url)
        found = get(url, "/api/image?side=300&id=red cup.png")
        assert (found.status_code, found.headers["content-type"]) == (200, "image/jpeg")
        assert found.content.startswith(b"\xff\xd8")
        for other in (str(secret), "../../secret.png", f"file://{secret}", "t0", ""):
            assert get(url, f"/api/image?id={other}").status_code == 404, other
        assert get(url, "/api/image?id=red cup.png&side=100000").status_code == 422
        for path in ("/../app.py", "/page/page.js", "/%2e%2e/app.py", "/docs", "/openapi.json"):
            assert get(url, path).status_code == 404, path


@pytest.mark.parametrize(
    ("data", "status", "part"),
    [
        (b"", 422, "x.pdf: is empty"),
        (b"hello", 422, "neither a PDF nor"),
        (bytes(2**20 + 1), 413, "more than 1 MiB"),
    ],
)
def test_uploads_that_are_refused(
    index: tuple[NodeCollection, Library], data: bytes, status: int, part: str
) -> None:
    with page(*index) as url:
        answer = put(url, "x.pdf", data)
        assert answer.status_code == status
        assert part in answer.json()["message"]
        assert get(url, "/api/index").json()["files"] == []
    assert list(index[1].folder.iterdir()) == []


def test_one_that_does_not_say_how_large_it_is(index: tuple[NodeCollection, Library]) -> None:
    with page(*index) as url:
        parts = (bytes([number % 256]) * 2**16 for number in range(40))
        answer = httpx.put(
            f"{url}/api/files", content=parts, headers={"X-File-Name": "x"}, trust_env=False
        )
        assert answer.status_code == 422
        assert "more than 1 MiB" in answer.json()["message"]
    assert list(index[1].folder.iterdir()) == []


@pytest.mark.parametrize("closes", [True, False])
def test_an_upload_that_stops_half_way(index: tuple[NodeCollection, Library], closes: bool) -> None:
    with page(*index, None, PageLimits(pause=0.3)) as url:
        host = url.removeprefix("http://")
        with socket.create_connection(("127.0.0.1", int(host.split(":")[1]))) as line:
            line.sendall(
                f"PUT /api/files HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5000\r\n\r\n".encode()
            )
            line.sendall(pdf_bytes(["a"])[:200])
            await_files(index[1].folder, 1)
            if not closes:
                assert b"408" in line.recv(1_000).splitlines()[0]
        await_files(index[1].folder, 0)
        assert get(url, "/api/index").json()["files"] == []
        assert put(url, "a.pdf", pdf_bytes(["a"])).status_code == 202


def await_files(folder: Path, count: int) -> None:
    end = time.monotonic() + 10
    while len(list(folder.iterdir())) != count:
        assert time.monotonic() < end, list(folder.iterdir())
        time.sleep(0.01)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_are_not_answered(
    filled: tuple[NodeCollection, Library], headers: dict[str, str]
) -> None:
    with page(*filled) as url:
        assert ask(url, "bees?", ME, **headers)[0]["status"] == 403
        assert put(url, "a.png", image_bytes(RED), **headers).status_code == 403
        assert get(url, "/api/index", **headers).status_code == 403
        assert get(url, "/api/index").json()["files"] == []
        name = url.replace("127.0.0.1", "localhost").removeprefix("http://")
        assert get(url, "/api/index", Host=name, Origin=f"http://{name}").status_code == 200


def test_nothing_that_is_shown_can_run(filled: tuple[NodeCollection, Library]) -> None:
    with page(*filled) as url:
        for path, kind in (
            ("/", "text/html"),
            ("/page.js", "text/javascript"),
            ("/report.css", "text/css"),
            ("/api/index", ""),
        ):
            answer = get(url, path)
            assert answer.headers["content-type"].startswith(kind or "application/json")
            assert (
                "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
            )
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in answer.headers
        script = get(url, "/page.js").text
        assert not [
            word
            for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write")
            if word in script
        ]
        assert get(url, "/", **{"Sec-Fetch-Site": "cross-site"}).status_code == 200, (
            "a link to the page is fine"
        )


def test_only_this_machine_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: told.append(sockets[0].getsockname()[0])
    )
    with ui.open_library(str(tmp_path / "index"), "rnx") as (collection, library):
        ui.run_page(collection, library, lambda: engine_of(collection), 0, told.append)
        assert told[1] == "127.0.0.1"
        assert told[0].startswith("http://127.0.0.1:")
        with (
            socket.create_server(("127.0.0.1", 0)) as taken,
            pytest.raises(RNXError, match="choose another --port"),
        ):
            ui.run_page(
                collection,
                library,
                lambda: engine_of(collection),
                taken.getsockname()[1],
                told.append,
            )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--llm", "nope"], "--llm got 'nope'"),
        (["--llm-options", "x"], "no JSON"),
        (["--from", "."], "holds other things than an index"),
    ],
)
def test_the_command(
    arguments: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("mine")
    result = CliRunner().invoke(cli.app, ["ui", *arguments])
    assert isinstance(result.exception, RNXError)
    assert part in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
