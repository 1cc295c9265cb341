"""The server and the client, against each other over a real socket; limits, keys, overload, and
what the client refuses.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Rnx
from fakes import BLUE, RED, FakeRanker, image_base64, write_image
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode

from llama_index_rnx import RNXRerank, load_ranker
from llama_index_rnx.candidates import Candidate, Query, file_source
from llama_index_rnx.errors import ConnectionFailedError, ImageError, RNXError, StorageError
from llama_index_rnx.memory.sqlite_backend import FILE_NAME
from llama_index_rnx.rankers.mini import MiniRanker
from llama_index_rnx.rankers.remote import RemoteRanker, endpoint
from llama_index_rnx.rankers.service_formats import scores_of
from llama_index_rnx.ranking import Ranker
from llama_index_rnx.server import Limits, create_app, create_listener, serving

DOCUMENTS = ["Bees make honey.", "Rust is iron oxide.", "The moon has craters."]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeRanker()) as address:
        yield address


@pytest.fixture(scope="module")
def mini_url(mini: MiniRanker) -> Iterator[str]:
    with serving(mini) as address:
        yield address


def ask(url: str, path: str = "/rerank", **body: Any) -> httpx.Response:
    return httpx.post(
        url + path, json={"query": "rust iron", "documents": DOCUMENTS} | body, trust_env=False
    )


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_shape_of_an_answer(url: str, path: str) -> None:
    answer = ask(
        url, path, top_n=2, return_documents=True, model="whatever", max_tokens_per_doc=100
    ).json()
    assert answer["object"] == "list"
    assert answer["model"] == "fake"
    first, second = answer["results"]
    assert first["index"] == 1
    assert first["relevance_score"] >= second["relevance_score"]
    assert first["document"] == {"text": DOCUMENTS[1]}
    assert "document" not in ask(url, path).json()["results"][0]


def test_images_as_base64_and_data_uri(url: str) -> None:
    documents = [
        {"image": image_base64(RED)},
        {"image": "data:image/png;base64," + image_base64(BLUE)},
        "red herring",
    ]
    answer = ask(url, query="blue", documents=documents).json()
    assert answer["results"][0]["index"] == 1
    by_picture = ask(url, query={"image": image_base64(RED)}, documents=documents)
    assert by_picture.status_code == 200


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"query": ""}, "body.query: String should have at least 1 character"),
        ({"query": {"text": " "}}, "body.query.text: String should match"),
        ({"query": "a" * 200_001}, "body.query: String should have at most 200000 characters"),
        ({"query": None}, "body.query: Input should be"),
        ({"documents": "one"}, "documents"),
        ({"documents": None}, "needs documents"),
        ({"documents": ["a"] * 1_001}, "documents"),
        ({"top_n": -1}, "top_n"),
        ({"top_n": "many"}, "top_n"),
    ],
)
def test_wrong_requests_get_one_line(url: str, body: dict[str, Any], part: str) -> None:
    answer = ask(url, **body)
    assert answer.status_code == 422
    assert part in answer.json()["message"]
    assert len(answer.json()["message"]) < 300


@pytest.mark.parametrize(
    "image", ["/etc/passwd", "file:///etc/passwd", "../../secret.png", "bm9waWN0dXJl"]
)
def test_a_path_is_no_image(url: str, image: str) -> None:
    refused = ask(url, query={"image": image})
    assert refused.status_code == 400
    assert "image of the query" in refused.json()["message"]

    answer = ask(url, documents=[{"image": image}, "rust"]).json()
    assert [result["index"] for result in answer["results"]] == [1, 0]
    assert answer["results"][1]["relevance_score"] == 0.0
    (warning,) = answer["meta"]["warnings"]
    assert "image of document 0" in warning


def test_urls_are_fetched_only_when_allowed_and_do_not_reach_inwards(url: str) -> None:
    body = {"query": {"image": "http://127.0.0.1:1/a.png"}}
    refused = ask(url, **body)
    assert "fetches no URLs" in refused.json()["message"]
    with serving(FakeRanker(), allow_urls=True) as address:
        answer = ask(address, **body)
        documents = ask(address, documents=[{"image": "http://127.0.0.1:1/a.png"}, "rust"])
    assert answer.status_code == 400
    assert "no public address" in answer.json()["message"]
    assert [result["index"] for result in documents.json()["results"]] == [1, 0]


def test_no_documents(url: str) -> None:
    assert ask(url, documents=[]).json()["results"] == []


def test_what_is_no_json(url: str) -> None:
    answer = httpx.post(
        f"{url}/rerank", content=b"{", headers={"content-type": "application/json"}, trust_env=False
    )
    assert answer.status_code == 422
    assert "JSON" in answer.json()["message"]


def test_health_metrics_and_schema(url: str) -> None:
    assert httpx.get(f"{url}/health", trust_env=False).json() == {"status": "ok", "model": "fake"}
    ask(url)
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    assert 'rnx_requests_total{status="200"}' in text
    assert "rnx_request_seconds_bucket" in text
    assert {"/rerank", "/v1/rerank", "/v2/rerank"} <= set(
        httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"]
    )


def test_a_key_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeRanker(), api_key="secret") as address:
        assert ask(address).status_code == 401
        assert httpx.get(f"{address}/metrics", trust_env=False).status_code == 401
        assert httpx.get(f"{address}/health", trust_env=False).status_code == 200
        with pytest.raises(RNXError, match=r"refused \(401\).*RNX_API_KEY"):
            ranked(load_ranker(address), DOCUMENTS)
        monkeypatch.setenv("RNX_API_KEY", "secret")
        assert len(ranked(load_ranker(address), DOCUMENTS)) == 3


def test_a_body_that_is_too_large_is_not_read() -> None:
    with serving(FakeRanker(), limits=Limits(body=1_000)) as address:
        assert ask(address, documents=["a" * 2_000]).status_code == 413
        chunked = httpx.post(
            f"{address}/rerank", content=(b"x" * 100 for _ in range(1_000)), trust_env=False
        )
        assert chunked.status_code == 413
        assert ask(address).status_code == 200


class SlowRanker(FakeRanker):
    """Scores when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()

    def score(self, query: Query, memories: Any) -> list[float]:
        assert self.may.wait(timeout=10)
        return super().score(query, memories)


def test_overload_is_answered_at_once_and_passes() -> None:
    slow = SlowRanker()
    with serving(slow, limits=Limits(at_once=2)) as address, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, address) for _ in range(2)]
        wait_for(
            lambda: (
                "rnx_requests_at_work 2.0" in httpx.get(f"{address}/metrics", trust_env=False).text
            )
        )
        refused = ask(address)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        slow.may.set()
        assert [one.result().status_code for one in waiting] == [200, 200]
        assert ask(address).status_code == 200
    assert slow.most_busy <= 1


def test_a_ranking_that_takes_too_long_frees_its_place_when_it_ends() -> None:
    slow = SlowRanker()
    with serving(slow, limits=Limits(at_once=1, seconds=0.2)) as address:
        assert "0.2 seconds" in ask(address).json()["message"]
        assert ask(address).status_code == 503  # the model is still at work on the first
        slow.may.set()
        wait_for(lambda: ask(address).status_code == 200)


def test_a_caller_that_hangs_up_frees_its_place() -> None:
    slow = SlowRanker()
    with serving(slow, limits=Limits(at_once=3)) as address, ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, address)
        wait_for(
            lambda: (
                "rnx_requests_at_work 1.0" in httpx.get(f"{address}/metrics", trust_env=False).text
            )
        )
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                address + "/rerank",
                json={"query": "a", "documents": DOCUMENTS},
                timeout=0.3,
                trust_env=False,
            )
        wait_for(lambda: 'status="499"' in httpx.get(f"{address}/metrics", trust_env=False).text)
        slow.may.set()
        assert first.result().status_code == 200
        wait_for(
            lambda: (
                "rnx_requests_at_work 0.0" in httpx.get(f"{address}/metrics", trust_env=False).text
            )
        )
    assert len(slow.reads) == 1


def wait_for(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come true within 5 seconds")


def ranked(ranker: Ranker, texts: list[str], query: str = "rust iron") -> list[float]:
    return ranker.score(
        Query(text=query), ranker.remember([Candidate(id=text, text=text) for text in texts])
    )


def test_client_and_server_give_what_the_model_gives(
    mini_url: str, mini: MiniRanker, tmp_path: Path
) -> None:
    picture = write_image(tmp_path / "red.png", RED)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS]
    nodes.append(NodeWithScore(node=ImageNode(image_path=str(picture))))
    nodes.append(NodeWithScore(node=ImageNode(text="A red wall", image_path=str(picture))))
    for bundle in (QueryBundle("What is rust?"), QueryBundle("", image_path=str(picture))):
        near = RNXRerank(ranker=mini).postprocess_nodes(nodes, bundle)
        far = RNXRerank(model=mini_url).postprocess_nodes(nodes, bundle)
        assert [hit.node_id for hit in far] == [hit.node_id for hit in near]
        # Images go as JPEG.
        assert [hit.score for hit in far] == pytest.approx([hit.score for hit in near], abs=0.02)


async def test_the_client_from_async_code(mini_url: str) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS]
    found = await RNXRerank(model=mini_url, top_n=1).apostprocess_nodes(
        nodes, query_str="What is rust?"
    )
    assert found[0].text == DOCUMENTS[1]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted, not slept."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def replying(*replies: httpx.Response | Exception) -> tuple[RemoteRanker, list[httpx.Request]]:
    left, seen = list(replies), list[httpx.Request]()

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        reply = left.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    return RemoteRanker("http://host:1#name", transport=httpx.MockTransport(handle)), seen


RESULTS = {
    "results": [
        {"index": 2, "relevance_score": 0.9},
        {"index": 0, "relevance_score": 0.5},
        {"index": 1, "relevance_score": -1},
    ]
}


def test_the_order_of_an_answer_does_not_matter(quick: list[float]) -> None:
    ranker, seen = replying(httpx.Response(200, json=RESULTS))
    assert ranked(ranker, DOCUMENTS) == [0.5, -1.0, 0.9]
    assert b'"model":"name"' in seen[0].content
    assert str(seen[0].url) == "http://host:1/rerank"


def test_a_busy_service_is_asked_again(quick: list[float]) -> None:
    busy = httpx.Response(429, headers={"retry-after": "3"})
    ranker, seen = replying(
        busy, httpx.ConnectError("refused"), httpx.Response(503), httpx.Response(200, json=RESULTS)
    )
    assert ranked(ranker, DOCUMENTS) == [0.5, -1.0, 0.9]
    assert len(seen) == 4
    assert quick == [3.0, 1.0, 2.0]


def test_a_dead_service_is_one_line(quick: list[float]) -> None:
    ranker, _ = replying(*[httpx.ConnectError("connection refused")] * 4)
    with pytest.raises(
        RNXError, match=r"http://host:1/rerank#name: no answer in 4 tries \(connection refused\)"
    ):
        ranked(ranker, DOCUMENTS)
    ranker, seen = replying(httpx.Response(400, text="no\nsuch model"))
    with pytest.raises(RNXError, match="answered 400: no such model"):
        ranked(ranker, DOCUMENTS)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ({"error": "x"}, "no list of results"),
        ("text", "no list of results"),
        (
            {"results": [{"index": 0, "relevance_score": 1.0}]},
            "sent 2 documents, 1 of them came back",
        ),
        (
            {"results": [{"index": 0, "score": 1.0}, {"index": 0, "score": 1.0}]},
            "sent 2 documents, 1 of them",
        ),
        (
            {"results": [{"index": 0, "score": 1.0}, {"index": 2, "score": 1.0}]},
            "each is needed once",
        ),
        (
            {"results": [{"index": 0, "relevance_score": None}, {"index": 1, "score": 1.0}]},
            "finite relevance_score",
        ),
        ([{"index": 0, "score": float("nan")}, {"index": 1, "score": 1.0}], "finite"),
    ],
)
def test_answers_that_are_no_ranking(answer: Any, part: str) -> None:
    with pytest.raises(RNXError, match=part):
        scores_of(answer, 2, "here")


def test_the_bare_list_of_text_embeddings_inference() -> None:
    assert scores_of([{"index": 1, "score": 0.5}, {"index": 0, "score": 0.25}], 2, "tei") == [
        0.25,
        0.5,
    ]


def test_no_json(quick: list[float]) -> None:
    ranker, _ = replying(httpx.Response(200, text="<html>hello</html>"))
    with pytest.raises(RNXError, match=r"answered no JSON: <html>.*is this a /rerank endpoint"):
        ranked(ranker, DOCUMENTS)


def test_a_broken_image_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    ranker, seen = replying()
    with pytest.raises(ImageError, match=r"broken\.png"):
        ranker.remember([Candidate(id="1", image=file_source(broken))])
    assert seen == []
    assert ranker.score(Query(text="nothing"), []) == []


def test_endpoints() -> None:
    assert endpoint("http://host:1/") == ("http://host:1/rerank", "")
    assert endpoint("https://host/v2/rerank#m") == ("https://host/v2/rerank", "m")
    with pytest.raises(RNXError, match="has no host"):
        endpoint("http:///rerank")
    with pytest.raises(RNXError, match="a service computes where it runs"):
        load_ranker("http://host", device="cuda")


def test_the_clients_of_others(mini_url: str) -> None:
    import cohere
    from llama_index.postprocessor.cohere_rerank import CohereRerank
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    with httpx.Client(trust_env=False) as connection:
        client = cohere.ClientV2(api_key="none", base_url=mini_url, httpx_client=connection)
        best = client.rerank(
            model="rnx-mini", query="What is rust?", documents=DOCUMENTS, top_n=2
        ).results
    assert [best[0].index, len(best)] == [1, 2]
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS]
    jina = JinaRerank(api_key="none", base_url=f"{mini_url}/v1", top_n=1)
    assert jina.postprocess_nodes(nodes, query_str="What is rust?")[0].text == DOCUMENTS[1]
    jina._session.close()  # it would leave that to the garbage collector
    theirs = CohereRerank(api_key="none", base_url=mini_url, top_n=2, model="rnx-mini")
    best = theirs.postprocess_nodes(nodes, query_str="What is rust?")
    assert [len(best), best[0].text] == [2, DOCUMENTS[1]]
    theirs._client._client_wrapper.httpx_client.httpx_client.close()  # as above


def test_the_command_passes_on_what_was_asked(
    rnx: Rnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranker's budgets, the limits, and the place of the memories, which the next server finds
    there.
    """
    from fastapi.testclient import TestClient

    served: list[Any] = []
    monkeypatch.setattr(
        "llama_index_rnx.server.run_server", lambda app, host, port: served.append(app)
    )
    place = str(tmp_path / "memories")
    assert (
        rnx(
            "serve",
            "--max-text-tokens",
            254,
            "--dtype",
            "float32",
            "--memory-path",
            place,
            "--max-body",
            1,
        ).code
        == 0
    )
    with TestClient(served[0]) as client:
        assert (
            client.post("/rerank", json={"query": "rust", "documents": DOCUMENTS}).status_code
            == 200
        )
        assert (
            client.post("/rerank", json={"query": "a" * 2**21, "documents": []}).status_code == 413
        )
        # A chunk has 254 word pieces.
        assert served[0].state.service.ranker.fingerprint.split("/")[2] == "1"
    assert (tmp_path / "memories" / FILE_NAME).is_file()
    refused = rnx("serve", "--max-pixels", 0)
    assert refused.code == 2
    assert "--max-pixels" in refused.err


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--model", "nothing"], "unknown model 'nothing'"),
        (["--model", "http://127.0.0.1:1", "--device", "cuda"], "a service computes where it runs"),
        (["--memory-path", "FILE"], "is a file or lies in one"),
        (["--dtype", "int3"], "dtype='int3'"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    rnx: Rnx, tmp_path: Path, options: list[str], part: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    result = rnx(
        "serve", "--port", 1, *[str(tmp_path / "file") if one == "FILE" else one for one in options]
    )
    assert result.code == 2
    assert part in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_taken_port_is_one_line(
    rnx: Rnx, mini: MiniRanker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_index_rnx.load_ranker", lambda *_, **__: mini)
    with create_listener("127.0.0.1", 0) as taken:
        result = rnx("serve", "--port", taken.getsockname()[1])
    assert result.code == 2
    assert re.fullmatch(
        r"error: port \d+ of 127.0.0.1 cannot be had \(.*in use\); choose another --port.\n",
        result.err,
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConnectionFailedError("http://host:1/rerank: no answer in 4 tries."), 503),
        (StorageError("the disk is full."), 503),
        (RNXError("a ranker's own refusal."), 400),
    ],
)
def test_what_fails_behind_the_server_is_not_the_callers_mistake(
    error: RNXError, status: int
) -> None:
    class Failing(FakeRanker):
        def score(self, query: Query, memories: Any) -> list[float]:
            raise error

    with serving(Failing()) as address:
        answer = ask(address)
    assert answer.status_code == status
    assert answer.json()["message"] == str(error)


def test_a_server_for_a_block_is_gone_behind_it() -> None:
    with serving(FakeRanker()) as first, serving(FakeRanker()) as second:
        assert first != second
        assert httpx.get(f"{first}/health").json()["model"] == "fake"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{first}/health")


def test_no_redirect_to_a_host_that_the_caller_names(url: str) -> None:
    answer = httpx.post(f"{url}/rerank/", headers={"host": "localhost"}, json={}, trust_env=False)
    assert answer.status_code == 422
    assert "location" not in answer.headers
    answer = httpx.post(
        f"{url}/rerank/", headers={"host": "evil.example"}, json={}, trust_env=False
    )
    assert answer.status_code == 403
    assert "location" not in answer.headers


async def test_who_is_turned_away_under_load_is_not_read() -> None:
    """The answer comes before the body, which may be megabytes: nobody waits for the rest of it."""
    app = create_app(FakeRanker, limits=Limits(at_once=1))
    async with app.router.lifespan_context(app):
        app.state.service._at_work = 1
        sent: list[Any] = []

        async def receive() -> Any:
            raise AssertionError("the body was read")

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/rerank",
            "raw_path": b"/rerank",
            "query_string": b"",
            "headers": [],
        }
        await app(scope, receive, send)
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"1") in sent[0]["headers"]
