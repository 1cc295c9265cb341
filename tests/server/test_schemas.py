"""What callers of `/rerank` send as it is: bad documents, shapes of other services, spellings of
JSON, and their answers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fakes import BLUE, RED, FakeRanker, image_base64, image_bytes, png_bomb
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_rnx.server import Limits, create_app, serving
from llama_index_rnx.server.content import content_of
from llama_index_rnx.server.routes import RERANK_PATHS

TEXTS = ["Bees make honey.", "Rust is iron oxide."]
TRUNCATED = base64.b64encode(image_bytes(RED, size=(200, 200))[:-60]).decode()
URI = "data:image/png;base64," + image_base64(RED)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(FakeRanker)) as served:
        yield served


def rerank(client: TestClient, path: str = "/rerank", **body: Any) -> Any:
    answer = client.post(path, json={"query": "rust iron"} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def order(answer: Any) -> list[int]:
    return [result["index"] for result in answer["results"]]


BAD = {
    "empty": "",
    "blank": " \n\t\u00a0",
    "null": None,
    "empty object": {},
    "empty list": [],
    "null text": {"text": None, "id": "7"},
    "blank text": {"text": "  ", "metadata": {"page": 1}},
    "no image": {"image": ""},
    "a path": {"image": "/etc/passwd"},
    "a URL": {"image_url": {"url": "https://example.com/a.png"}},
    "no picture": {"image": "bm9waWN0dXJl"},
    "a truncated picture": {"image": TRUNCATED},
    "a picture of 900 megapixels": {"image": base64.b64encode(png_bomb()).decode()},
    "a broken data URI": "data:image/png;base64,AAAA",
    "a broken part": [{"type": "image_url", "image_url": {"url": "data:,"}}],
}


@pytest.mark.parametrize("document", BAD.values(), ids=list(BAD))
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_document_comes_last_and_costs_nobody_else(
    client: TestClient, document: Any, place: int
) -> None:
    documents: list[Any] = list(TEXTS)
    documents.insert(place, document)
    answer = rerank(client, documents=documents)
    assert sorted(order(answer)) == [0, 1, 2]
    assert order(answer)[0] == documents.index(TEXTS[1])
    assert answer["results"][-1] == {"index": place, "relevance_score": 0.0}
    assert order(rerank(client, documents=documents, top_n=2))[-1] == documents.index(TEXTS[0])


def test_only_bad_documents_are_answered_and_said(client: TestClient) -> None:
    answer = rerank(client, documents=list(BAD.values()))
    assert order(answer) == list(range(len(BAD)))
    assert {result["relevance_score"] for result in answer["results"]} == {0.0}
    warnings = answer["meta"]["warnings"]
    assert warnings[0] == "document 0 holds neither text nor image."
    assert len(warnings) == 11
    assert all(len(line) < 600 and "\n" not in line for line in warnings)
    assert rerank(client, documents=[])["results"] == []


def test_a_text_beside_a_broken_picture_is_ranked(client: TestClient) -> None:
    for image in ("https://example.com/a.png", "bm9waWN0dXJl", TRUNCATED):
        documents = ["bees", {"text": "iron rust", "image": image}]
        assert rerank(client, documents=documents)["results"][0] == {
            "index": 1,
            "relevance_score": 1.0,
        }


def test_long_texts_are_cut() -> None:
    with TestClient(create_app(FakeRanker, limits=Limits(text=1_000))) as client:
        documents = ["bees " * 50_000 + "rust iron", "rust " * 50_000]
        answer = rerank(client, documents=documents)
    assert answer["results"] == [
        {"index": 1, "relevance_score": 0.5},
        {"index": 0, "relevance_score": 0.0},
    ]


def test_a_broken_picture_as_the_query_is_refused(client: TestClient) -> None:
    answer = client.post("/rerank", json={"query": {"image": TRUNCATED}, "documents": TEXTS})
    assert answer.status_code == 400
    assert "image of the query" in answer.json()["message"]


@pytest.mark.parametrize(
    "query", ["", " ", None, 5, [], {}, {"text": ""}, {"id": "7"}, {"image": " "}, [{"text": " "}]]
)
def test_a_bad_query_is_refused_in_one_line(client: TestClient, query: Any) -> None:
    answer = client.post("/rerank", json={"query": query, "documents": TEXTS})
    assert answer.status_code in (400, 422)
    assert "query" in answer.json()["message"]
    # Clients of Jina and FastAPI look there.
    assert answer.json()["detail"] == answer.json()["message"]


SHAPES = {
    "fields beside the text": [
        {"text": "bees", "id": "7"},
        {"text": "iron rust", "metadata": {"page": 1}},
    ],
    "LangChain": [{"page_content": "bees"}, {"page_content": "iron rust", "type": "Document"}],
    "parts": [
        [{"type": "text", "text": "bees"}],
        [{"type": "text", "text": "iron"}, {"type": "text", "text": "rust"}],
    ],
    "vLLM's content": [
        {"content": [{"type": "text", "text": "bees"}]},
        {"content": [{"type": "text", "text": "iron rust"}]},
    ],
    "objects without text": [
        {"title": "bees"},
        {"title": "iron", "body": "rust", "year": 2024, "none": None},
    ],
    "numbers": [5, {"text": "iron rust"}],
    "odd": [True, ["iron", "rust"]],
    "half a surrogate pair": ["bees \ud800", "iron rust \udfff"],
}


@pytest.mark.parametrize("documents", SHAPES.values(), ids=list(SHAPES))
def test_documents_of_other_shapes(client: TestClient, documents: list[Any]) -> None:
    body = json.dumps(
        {"query": "rust iron \ud800", "documents": documents, "return_documents": True}
    )
    answer = client.post("/rerank", content=body)
    assert answer.status_code == 200
    best, other = answer.json()["results"]
    assert (best["index"], other["index"]) == (1, 0)

    expected = documents[1]
    if isinstance(expected, list):
        expected = {"content": expected}
    elif not isinstance(expected, dict):
        expected = {"text": expected}
    assert best["document"] == expected


@pytest.mark.parametrize(
    "document",
    [
        {"image": image_base64(BLUE)},
        {"image": "data:image/png;base64," + image_base64(BLUE), "id": 7},
        {"image": {"url": "data:image/png;base64," + image_base64(BLUE)}},
        {"image_url": "data:image/png;base64," + image_base64(BLUE)},
        [
            {
                "type": "image_url",
                "image_url": {"url": "data:image/png;base64," + image_base64(BLUE)},
            }
        ],
        {"type": "image", "source": {"type": "base64", "data": image_base64(BLUE)}},
        {
            "content": [
                {
                    "type": "image_url",
                    "image_url": {"url": "data:image/png;base64," + image_base64(BLUE)},
                }
            ]
        },
        "data:image/png;base64," + image_base64(BLUE),
    ],
)
def test_pictures_of_other_shapes(client: TestClient, document: Any) -> None:
    documents = [URI, document]
    assert order(rerank(client, query="blue", documents=documents)) == [1, 0]
    assert order(rerank(client, query=document, documents=["red", "blue"])) == [1, 0]


def test_rank_fields_choose_what_is_read(client: TestClient) -> None:
    documents = [
        {"Title": "iron", "Body": "bees"},
        {"Title": "moon", "Body": "iron rust"},
        "rust iron",
        {"Other": "rust"},
    ]
    by_title = rerank(client, documents=documents, rank_fields=["Title"])
    assert [result["relevance_score"] for result in by_title["results"]] == [1.0, 0.5, 0.0, 0.0]
    assert order(by_title) == [2, 0, 1, 3]
    assert order(rerank(client, documents=documents, rank_fields=["Title", "Body"]))[:2] == [1, 2]


@pytest.mark.parametrize(
    ("top", "count"), [(0, 3), (None, 3), (1, 1), (2, 2), (3, 3), (1_000, 3), ("2", 2)]
)
@pytest.mark.parametrize("name", ["top_n", "top_k"])
def test_top_n_in_every_size(client: TestClient, name: str, top: Any, count: int) -> None:
    answer = rerank(client, documents=["a", "rust", ""], **{name: top})
    assert len(answer["results"]) == count
    assert ("data" in answer) == (name == "top_k")


def test_fields_that_say_nothing_here_are_passed_over(client: TestClient) -> None:
    passed_over = {
        "model": None,
        "max_chunks_per_doc": 10,
        "max_tokens_per_doc": "many",
        "truncation": True,
        "truncate_prompt_tokens": -1,
        "user": {"id": 1},
        "return_documents": None,
        "rank_fields": None,
    }
    assert order(rerank(client, documents=TEXTS, **passed_over)) == [1, 0]


def test_voyage(client: TestClient) -> None:
    answer = rerank(
        client,
        "/v1/rerank",
        documents=TEXTS,
        model="rerank-2",
        top_k=1,
        truncation=True,
        return_documents=True,
    )
    assert answer["object"] == "list"
    assert (
        answer["data"]
        == [{"index": 1, "relevance_score": 0.6666666666666666, "document": TEXTS[1]}]
        or answer["data"][0]["document"] == TEXTS[1]
    )
    assert answer["usage"]["total_tokens"] == 0


def test_text_embeddings_inference(client: TestClient) -> None:
    body = {
        "texts": ["bees", "", "iron rust"],
        "raw_scores": False,
        "truncate": True,
        "truncation_direction": "Right",
    }
    assert rerank(client, **body) == [
        {"index": 2, "score": 1.0},
        {"index": 0, "score": 0.0},
        {"index": 1, "score": 0.0},
    ]
    assert rerank(client, **body, return_text=True)[0] == {
        "index": 2,
        "score": 1.0,
        "text": "iron rust",
    }
    assert rerank(client, texts=[]) == []
    info = client.get("/info").json()
    assert info["model_id"] == "fake"
    assert "reranker" in info["model_type"]


@pytest.mark.parametrize(
    "path",
    [
        *RERANK_PATHS,
        "/reranking",
        "/v1/reranking",
        "/v2/reranking",
        "/v3/rerank",
        "/api/v2/rerank",
        "/rerank/",
        "/v1/rerank/",
        "/v1//rerank/",
        "/reranking//",
    ],
)
def test_aliases(client: TestClient, path: str) -> None:
    answer = client.post(path, json={"query": "rust", "documents": TEXTS}, follow_redirects=False)
    assert order(answer.json()) == [1, 0]


def test_what_others_ask_a_server_for(client: TestClient) -> None:
    assert client.get("/v1/models").json()["data"][0]["id"] == "fake"
    assert client.get("/v1/models/").json() == client.get("/models").json()
    assert client.head("/health").status_code == 200
    assert client.head("/health").text == ""
    assert "POST /rerank" in client.get("/").json()["message"]
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


BODY = {"query": "rust ü", "documents": ["bees", "rust ü"]}


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/x-www-form-urlencoded",
        "text/plain; charset=utf-8",
        "application/json; charset=utf-8",
        "nonsense",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_whatever_its_header_says(
    client: TestClient, content_type: str | None, encoding: str
) -> None:
    body = json.dumps(BODY, ensure_ascii=False).encode(encoding)
    headers = {} if content_type is None else {"content-type": content_type}
    answer = client.post("/rerank", content=body, headers=headers)
    assert order(answer.json()) == [1, 0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"query=rust&documents=bees",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"query": "a", "documents": ' + b"[" * 5_000,
        "{'query': 'ü'}".encode("latin-1"),
    ],
)
def test_what_is_no_json_object_is_one_line(client: TestClient, body: bytes) -> None:
    answer = client.post("/rerank", content=body)
    assert answer.status_code == 422
    message = answer.json()["message"]
    assert message.startswith(("the body is no JSON", "body: needs an object"))
    assert len(message) < 200
    assert "\n" not in message


@pytest.mark.parametrize(
    "document", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5_000, b"[" * 300 + b"]" * 300]
)
def test_json_that_is_hard_to_read_costs_its_document(client: TestClient, document: bytes) -> None:
    body = (
        b'{"query": "no", "query": "rust", "return_documents": true, "documents": ['
        + document
        + b', "rust"]}'
    )
    answer = client.post("/rerank", content=body)
    assert answer.status_code == 200
    assert order(json.loads(answer.content, parse_constant=pytest.fail)) == [1, 0]


@pytest.mark.parametrize("value", [b"[],", b'{"a":1},', b"1,"])
def test_a_body_of_countless_values_is_not_unpacked(client: TestClient, value: bytes) -> None:
    body = b'{"query": "a", "documents": [[' + value * 5_000_001 + b"1]]}"
    answer = client.post("/rerank", content=body[: Limits.body])
    assert answer.status_code == 413
    assert "more than 5,000,000 values" in answer.json()["message"]


def test_deep_objects_are_no_bomb(client: TestClient) -> None:
    deep = b'{"a": ' * 900 + b'"rust"' + b"}" * 900
    body = b'{"query": "rust", "return_documents": true, "documents": [' + deep + b', "rust"]}'
    answer = client.post("/rerank", content=body)
    assert answer.status_code in (200, 422)


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["text", "image", "content", "type", "a"]), inner, max_size=3
                )
            ),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_any_documents_are_answered_once_each(client: TestClient, documents: list[Any]) -> None:
    body = json.dumps({"query": "a", "documents": documents, "return_documents": True})
    answer = client.post("/rerank", content=body)
    assert answer.status_code == 200
    assert sorted(order(answer.json())) == list(range(len(documents)))
    scores = [result["relevance_score"] for result in answer.json()["results"]]
    assert scores == sorted(scores, reverse=True)


def test_the_whole_of_a_request_is_limited() -> None:
    limits = Limits(characters=100, pixels=1_000)
    ranker = FakeRanker()
    with TestClient(create_app(lambda: ranker, limits=limits)) as client:
        small = {"image": image_base64(RED, size=(20, 20))}
        assert (
            client.post(
                "/rerank", json={"query": "a", "documents": ["b" * 60, small, small]}
            ).status_code
            == 200
        )
        ranker.remembered.clear()
        long = client.post("/rerank", json={"query": "a", "documents": ["b" * 60, "c" * 60]})
        wide = client.post("/rerank", json={"query": "a", "documents": [small, small, small]})
    assert long.status_code == wide.status_code == 413
    assert "more than 100 characters" in long.json()["message"]
    assert "more than 1,000 pixels" in wide.json()["message"]
    assert ranker.remembered == []


def test_the_schema_is_whole(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    body = schema["paths"]["/v1/rerank"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert {"query", "documents", "texts", "top_n", "rank_fields"} <= set(body["properties"])
    assert "$ref" not in json.dumps(body)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"text": "", "page_content": "bees"}, "bees"),
        ({"text": {"text": "bees"}}, "bees"),
        ({"content": "bees"}, "bees"),
        ({"a": [1, 2], "b": None, "c": "x"}, "a: [1, 2]\nc: x"),
        (2.5, "2.5"),
        ([[[[[[[[[["deep"]]]]]]]]]], ""),
    ],
)
def test_content(document: Any, text: str) -> None:
    assert content_of(document).text == text


def test_a_service_that_scores_below_zero_keeps_bad_documents_last() -> None:
    class Logits(FakeRanker):
        def score(self, query: Any, memories: Any) -> list[float]:
            return [score - 5 for score in super().score(query, memories)]

    with TestClient(create_app(Logits)) as client:
        results = rerank(client, documents=["", "rust iron", "bees"])["results"]
    assert results == [
        {"index": 1, "relevance_score": -4.0},
        {"index": 2, "relevance_score": -5.0},
        {"index": 0, "relevance_score": -5.0},
    ]


def test_cohere_v1_with_objects() -> None:
    import cohere

    documents = [{"text": "bees"}, {"Title": "iron", "text": "rust"}]
    with serving(FakeRanker()) as url, httpx.Client(trust_env=False) as connection:
        theirs = cohere.Client(api_key="none", base_url=url, httpx_client=connection)
        options: dict[str, Any] = {
            "rank_fields": ["text"],
            "return_documents": True,
            "max_chunks_per_doc": 3,
        }
        best = theirs.rerank(query="rust", documents=documents, **options).results
    assert best[0].index == 1
    assert best[0].document is not None
    assert best[0].document.text == "rust"
