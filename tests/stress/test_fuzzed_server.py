"""What is fuzzed into the server is answered: 200, or a 4xx with one line in JSON; never a 5xx, a
traceback, or no answer.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections import Counter
from typing import Any

import httpx
import pytest
from deadline import deadline
from fakes import FakeRanker
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutate import mutated, pictures
from sizes import sizes

from llama_index_rnx.server import Limits, create_app

SECONDS = 10.0
PATHS = (
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/health",
    "/metrics",
    "/openapi.json",
    "/",
    "/rerank/",
    "/reranking",
    "/v1/models",
    "/info",
    "//rerank",
    "/%00",
    "/..%2f",
)
TEXT = st.text(max_size=30)
LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.just("\\ud800"), st.just("\0")
)
JSON = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


@st.composite
def images(draw: Any) -> str:
    """Base64 of a damaged picture, or something else where a picture is asked for."""
    data = mutated(
        draw(st.sampled_from(pictures())), random.Random(draw(st.integers(0, 10**6))), pictures()
    )
    plain = base64.b64encode(data).decode()
    return str(
        draw(
            st.sampled_from(
                [
                    plain,
                    "data:image/png;base64," + plain,
                    "/etc/passwd",
                    "file:///etc/passwd",
                    plain[:-1],
                ]
            )
            | TEXT
        )
    )


def as_bytes(body: Any) -> bytes:
    return json.dumps(body).encode()


PART = st.fixed_dictionaries({}, optional={"text": TEXT, "image": images()})
DOCUMENT = TEXT | PART | LEAF
NEAR = st.fixed_dictionaries(
    {"query": TEXT | PART | LEAF, "documents": st.lists(DOCUMENT, max_size=5) | LEAF},
    optional={
        "top_n": LEAF,
        "top_k": LEAF,
        "rank_fields": LEAF | st.lists(TEXT, max_size=2),
        "return_documents": LEAF,
        "model": LEAF,
        "max_tokens_per_doc": LEAF,
    },
)
TEI = st.fixed_dictionaries(
    {"query": TEXT, "texts": st.lists(JSON, max_size=4)}, optional={"return_text": LEAF}
)
SAID = TEXT.filter(lambda text: text.isprintable() and text.strip())
DOCUMENTS = st.lists(
    SAID | st.fixed_dictionaries({"text": SAID}, optional={"image": images()}), max_size=4
)
GOOD = st.fixed_dictionaries(
    {
        "query": SAID,
        "documents": st.lists(
            SAID | st.fixed_dictionaries({"text": SAID}, optional={"image": images()}), max_size=4
        ),
    }
)
BODIES = st.one_of(
    GOOD.map(as_bytes),
    NEAR.map(as_bytes),
    TEI.map(as_bytes),
    JSON.map(as_bytes),
    st.binary(max_size=200),
)
SPELLINGS = ["-1", "99999999999", "\xb2", "gzip", "deflate", "br", "Bearer", "https://example.com"]
ODD = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20) | st.sampled_from(
    SPELLINGS
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "content-type",
            "content-encoding",
            "authorization",
            "content-length",
            "accept",
            "transfer-encoding",
            "x-odd",
            "host",
            "origin",
        ]
    ),
    ODD.map(lambda value: value.encode("latin-1")),
    max_size=3,
)


@st.composite
def requests(draw: Any) -> tuple[str, str, dict[str, bytes], bytes]:
    """Mostly to where the work is done, with headers as they should be."""
    usual = draw(st.integers(0, 9))
    path = "/rerank" if usual < 8 else draw(st.sampled_from(PATHS))
    method = (
        "POST" if usual < 9 else draw(st.sampled_from(["GET", "PUT", "HEAD", "OPTIONS", "POST"]))
    )
    return method, path, draw(HEADERS) if usual > 6 else {}, draw(BODIES)


# Pillow warns of a strange TIFF before it refuses it.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("count", sizes(150, 10_000))
def test_requests(count: int) -> None:
    statuses: Counter[int] = Counter()
    with asyncio.Runner() as runner:
        server = Server(runner)

        @settings(
            max_examples=count,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            database=None,
        )
        @given(request=requests())
        def fuzz(request: tuple[str, str, dict[str, bytes], bytes]) -> None:
            with deadline(SECONDS):
                answer = server.answer(*request)
            statuses[answer.status_code] += 1
            check(answer)

        fuzz()
        check(
            server.answer("POST", "/rerank", {}, as_bytes({"query": "a", "documents": ["a b"]})),
            only=200,
        )
        server.close()
    print(f"{count} requests: {dict(sorted(statuses.items()))}")


class Server:
    """The application in this process, without a socket."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._app = create_app(FakeRanker, limits=Limits(body=100_000), allow_urls=True)
        self._life = self._app.router.lifespan_context(self._app)
        runner.run(self._life.__aenter__())
        transport = httpx.ASGITransport(self._app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://test")

    def answer(
        self, method: str, path: str, headers: dict[str, bytes], body: bytes
    ) -> httpx.Response:
        raw = [
            (name.encode(), value)
            for name, value in ({"content-type": b"application/json"} | headers).items()
        ]
        return self._runner.run(self._client.request(method, path, headers=raw, content=body))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.run(self._life.__aexit__(None, None, None))


def check(answer: httpx.Response, only: int | None = None) -> None:
    """A 4xx is JSON with one line that says why; no answer speaks of the inside."""
    assert answer.status_code < 500, answer.text
    assert only in (None, answer.status_code)
    assert "Traceback" not in answer.text
    assert "site-packages" not in answer.text
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        message = answer.json()["message"]
        assert message.strip()
        assert "\n" not in message
        assert len(message) < 2_000
