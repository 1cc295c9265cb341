"""The client of `/rerank` services against those that want other fields, fewer documents, or none
that are blank.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fakes import RED, image_bytes
from llama_index.core.schema import NodeWithScore, TextNode

from llama_index_rnx import RNXRerank
from llama_index_rnx.candidates import Candidate, Query, bytes_source
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.remote import RemoteRanker
from llama_index_rnx.rankers.service_formats import scores_of

Answer = Callable[[dict[str, Any]], httpx.Response]
AXUM = (
    "Failed to deserialize the JSON body into the target type: missing field `texts` at line 1 "
    "column 99"
)


def ranker_of(answer: Answer, model: str = "") -> tuple[RemoteRanker, list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return answer(seen[-1])

    url = "http://host:1/rerank" + model
    return RemoteRanker(url, transport=httpx.MockTransport(handle)), seen


def scores(
    ranker: RemoteRanker, candidates: list[Candidate], query: Query | None = None
) -> list[float]:
    return ranker.score(query or Query(text="rust"), ranker.remember(candidates))


def texts(*contents: str) -> list[Candidate]:
    return [Candidate(id=text, text=text) for text in contents]


def tei(body: dict[str, Any]) -> httpx.Response:
    """Text-embeddings-inference: 32 texts at once, none of them empty; a score by length."""
    if "texts" not in body:
        return httpx.Response(422, text=AXUM)
    count = len(body["texts"])
    if count > 32:
        message = f"batch size {count} > maximum allowed batch size 32"
        return httpx.Response(422, json={"error": message, "error_type": "Validation"})
    if not all(body["texts"]):
        return httpx.Response(
            400, json={"error": "`inputs` cannot be empty", "error_type": "Empty"}
        )
    rows = [{"index": i, "score": len(text) / 1_000} for i, text in enumerate(body["texts"])]
    return httpx.Response(200, json=rows[::-1])


def test_a_service_that_wants_texts_gets_them_from_then_on() -> None:
    ranker, seen = ranker_of(tei)
    assert scores(ranker, texts("a", "bcd")) == [0.001, 0.003]
    assert seen[1] == {
        "query": "rust",
        "texts": ["a", "bcd"],
        "raw_scores": False,
        "truncate": True,
    }
    assert scores(ranker, texts("ef")) == [0.002]
    assert ["texts" in body for body in seen] == [False, True, True]


@pytest.mark.parametrize(
    "refusal",
    [
        httpx.Response(
            422,
            json={
                "detail": [{"type": "missing", "loc": ["body", "texts"], "msg": "Field required"}]
            },
        ),
        httpx.Response(400, json={"error": "the field 'texts' is missing"}),
    ],
)
def test_services_say_in_several_ways_that_they_want_texts(refusal: httpx.Response) -> None:
    ranker, _ = ranker_of(lambda body: tei(body) if "texts" in body else refusal)
    assert scores(ranker, texts("a")) == [0.001]


def test_a_list_that_is_too_long_for_one_request_is_split() -> None:
    ranker, seen = ranker_of(tei)
    candidates = texts(*("a" * length for length in range(1, 101)))
    assert scores(ranker, candidates) == [length / 1_000 for length in range(1, 101)]
    assert [len(body["texts"]) for body in seen[1:]] == [100, 32, 32, 32, 4]
    scores(ranker, candidates)
    assert len(seen) == 1 + 1 + 4 + 4


def test_through_the_reranker() -> None:
    ranker, _ = ranker_of(tei)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("short", "rather longer")]
    best = RNXRerank(ranker=ranker).postprocess_nodes(nodes, query_str="anything")
    assert [hit.text for hit in best] == ["rather longer", "short"]


def test_a_service_that_refuses_twice_is_one_line_and_nothing_is_remembered() -> None:
    broken = httpx.Response(424, json={"error": "model is not a re-ranker model"})
    ranker, seen = ranker_of(
        lambda body: broken if "texts" in body else httpx.Response(422, text=AXUM)
    )
    for _ in range(2):
        with pytest.raises(RNXError, match=r"answered 424: .*not a re-ranker model"):
            scores(ranker, texts("a"))
    assert ["documents" in body for body in seen] == [True, False, True, False]


def test_a_refusal_for_other_reasons_is_passed_on() -> None:
    for status, text in ((422, "the texts are too long"), (400, "no such model"), (404, "`texts`")):
        ranker, seen = ranker_of(
            lambda body, status=status, text=text: httpx.Response(status, text=text)
        )  # type: ignore[misc]
        with pytest.raises(RNXError, match=f"answered {status}"):
            scores(ranker, texts("a"))
        assert len(seen) == 1


def test_a_logit_goes_through_a_sigmoid_and_nothing_else_does() -> None:
    def nim(body: dict[str, Any]) -> httpx.Response:
        if "passages" not in body:
            return httpx.Response(
                422, json={"detail": [{"loc": ["body", "passages"], "type": "missing"}]}
            )
        assert body["query"] == {"text": "rust"}
        logits = [float(passage["text"]) for passage in body["passages"]]
        rows = [{"index": i, "logit": logit} for i, logit in enumerate(logits)]
        return httpx.Response(200, json={"rankings": rows})

    ranker, seen = ranker_of(nim, "#a-model")
    assert scores(ranker, texts("0", "2", "-2", "9999", "-9999")) == pytest.approx(
        [0.5, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)), 1.0, 0.0]
    )
    assert seen[-1]["model"] == "a-model"
    llama_cpp = {
        "results": [{"index": 0, "relevance_score": 7.74}, {"index": 1, "relevance_score": -2.3}]
    }
    assert scores_of(llama_cpp, 2, "here") == [7.74, -2.3]
    assert scores_of([{"index": 0, "score": 1.5}], 1, "here") == [1.5]


@pytest.mark.parametrize("score", [None, "0.5", 10**400, float("inf"), float("nan")])
def test_scores_that_are_none(score: Any) -> None:
    with pytest.raises(RNXError, match="finite relevance_score"):
        scores_of([{"index": 0, "score": score}], 1, "here")


def test_blank_documents_are_not_sent_and_come_last() -> None:
    def strict(body: dict[str, Any]) -> httpx.Response:
        assert all(document.strip() for document in body["documents"])
        assert body["top_n"] == len(body["documents"])
        rows = [{"index": i, "relevance_score": -3.0 + i} for i in range(len(body["documents"]))]
        return httpx.Response(200, json={"results": rows})

    ranker, seen = ranker_of(strict)
    assert scores(ranker, texts("", "a", " \n", "b")) == [-3.0, -3.0, -3.0, -2.0]
    assert scores(ranker, texts("", " ")) == [0.0, 0.0]
    assert len(seen) == 1


def test_a_service_of_texts_cannot_see() -> None:
    picture = bytes_source(image_bytes(RED), "red")
    ranker, seen = ranker_of(tei)
    scores(ranker, texts("a"))
    candidates = [Candidate(id="1", image=picture), Candidate(id="2", text="ab", image=picture)]
    with pytest.warns(RuntimeWarning, match="reads texts only; 1 images without text come last"):
        assert scores(ranker, candidates) == [0.0, 0.002]
    with pytest.raises(RNXError, match="reads texts only; give the query a text"):
        scores(ranker, texts("a"), Query(image=picture))
    assert seen[-1]["texts"] == ["ab"]


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "secret\n", "tab\tin"])
def test_a_key_that_no_header_can_carry_is_one_line(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNX_API_KEY", key)
    for options in ({}, {"api_key": key}):
        with pytest.raises(RNXError, match="printable ASCII") as caught:
            RemoteRanker("http://host:1", **options)
        assert key not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_blank_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    headers: list[httpx.Headers] = []

    def handle(request: httpx.Request) -> httpx.Response:
        headers.append(request.headers)
        return httpx.Response(200, json=[{"index": 0, "score": 1}])

    monkeypatch.setenv("RNX_API_KEY", " ")
    scores(RemoteRanker("http://host:1", transport=httpx.MockTransport(handle)), texts("a"))
    scores(
        RemoteRanker("http://host:1", api_key=" k ", transport=httpx.MockTransport(handle)),
        texts("a"),
    )
    assert "authorization" not in headers[0]
    assert headers[1]["authorization"] == "Bearer k"


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(
            200, stream=httpx.ByteStream(b"not zipped"), headers={"content-encoding": "gzip"}
        ),
        httpx.Response(200, content=b"[" * 100_000 + b"]" * 100_000),
    ],
    ids=["damaged gzip", "deep"],
)
def test_an_answer_that_cannot_be_read_is_one_line(response: httpx.Response) -> None:
    ranker, _ = ranker_of(lambda _: response)
    with pytest.raises(RNXError, match="is this a /rerank endpoint") as caught:
        scores(ranker, texts("a"))
    assert "\n" not in str(caught.value)


def test_half_of_a_surrogate_pair_in_a_query_is_sent_as_a_question_mark() -> None:
    ranker, seen = ranker_of(tei)
    assert scores(ranker, texts("a"), Query(text="ru\ud800st")) == [0.001]
    assert seen[-1]["query"] == "ru?st"


async def test_a_busy_service_is_not_asked_again_for_a_caller_who_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llama_index_rnx.rankers.remote._pause", lambda *_: 0.2)
    ranker, seen = ranker_of(lambda _: httpx.Response(503))
    nodes = [NodeWithScore(node=TextNode(text="a"))]
    call = RNXRerank(ranker=ranker).apostprocess_nodes(nodes, query_str="q")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.1)
    await asyncio.sleep(0.5)
    assert len(seen) <= 1
