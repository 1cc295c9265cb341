"""Pure: the JSON of `/rerank` services, requests and answers. It knows no network and no memory.

Most services take `{"query", "documents"}` and answer
`{"results": [{"index", "relevance_score"}]}`, in any order. Others want `texts`
(text-embeddings-inference) or `passages` (NVIDIA's NIM), and say so when they refuse `documents`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index_rnx.errors import ConnectionFailedError, one_line

# The content of one document: "text", "image" (a data: URI) or both; a blank document has neither.
Content = dict[str, str]

# The names of the list of results in an answer: Cohere's, Voyage's, NVIDIA's.
RESULT_LISTS = ("results", "data", "rankings")

# How text-embeddings-inference refuses too many documents; it takes 32 by default.
_BATCH_LIMIT = re.compile(r"maximum allowed batch size (\d{1,6})\b")


@dataclass(frozen=True, kw_only=True)
class RequestFormat:
    """The request that a family of services takes.

    Attributes:
        field: the name of the documents in the request.
        reads_images: whether it takes images; otherwise texts alone.
        body: builds the request for a query and documents that the family can read.
    """

    field: str
    reads_images: bool
    body: Callable[[Content, Sequence[Content]], dict[str, Any]]

    def can_read(self, content: Content) -> bool:
        return "text" in content or (self.reads_images and "image" in content)


def _documents_body(query: Content, contents: Sequence[Content]) -> dict[str, Any]:
    """Build the request for Cohere, Jina, vLLM, llama.cpp, Infinity and `rnx serve`."""
    return {
        "query": _plain(query),
        "documents": [_plain(content) for content in contents],
        "top_n": len(contents),
        "return_documents": False,
    }


def _texts_body(query: Content, contents: Sequence[Content]) -> dict[str, Any]:
    """Build the request for TEI; without `raw_scores` its scores are sigmoids already."""
    texts = [content["text"] for content in contents]
    return {"query": query["text"], "texts": texts, "raw_scores": False, "truncate": True}


def _passages_body(query: Content, contents: Sequence[Content]) -> dict[str, Any]:
    """Build the request for NVIDIA's NIM; it answers `{"rankings": [{"index", "logit"}]}`."""
    return {"query": query, "passages": list(contents), "truncate": "END"}


DOCUMENTS = RequestFormat(field="documents", reads_images=True, body=_documents_body)
TEXTS = RequestFormat(field="texts", reads_images=False, body=_texts_body)
PASSAGES = RequestFormat(field="passages", reads_images=True, body=_passages_body)


class ServiceRefusedError(ConnectionFailedError):
    """A refusal; its text may say what the service would take."""

    def __init__(self, message: str, status: int, text: str) -> None:
        super().__init__(message)
        self.status = status
        self.text = text

    def expected_format(self) -> RequestFormat | None:
        """Return the format whose field the service misses, or None."""
        if self.status not in (400, 422):
            return None
        for request_format in (TEXTS, PASSAGES):
            if re.search(f"[\"'`]{request_format.field}[\"'`]", self.text):
                return request_format
        return None

    def batch_limit(self) -> int | None:
        """Return how many documents it takes at once, if it refused their number."""
        limit = _BATCH_LIMIT.search(self.text)
        return int(limit[1]) if limit else None


def scores_of(answer: Any, count: int, name: str) -> list[float]:
    """Return the scores of an answer by the documents' index: of `{"results": [{"index",
    "relevance_score"}]}`, or of the bare list.

    A score that is called `logit` becomes its sigmoid; all others are passed on as they come.

    Args:
        answer: parsed JSON.
        count: how many documents were sent.
        name: the name of the service in an error.

    Raises:
        ConnectionFailedError: the answer is something else, an index is missing, doubled or out of
            range, or a score is no finite number.
    """
    rows = _result_rows(answer)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConnectionFailedError(
            f"{name}: the answer has no list of results; is this a /rerank endpoint?"
        )

    scores: dict[int, float] = {}
    for row in rows:
        index = row.get("index")
        score = _score_of(row)
        if not isinstance(index, int) or score is None:
            raise ConnectionFailedError(
                f"{name}: a result is {excerpt(str(row))}; it needs an index and a finite "
                "relevance_score."
            )
        scores[index] = score

    if len(rows) != count or set(scores) != set(range(count)):
        raise ConnectionFailedError(
            f"{name}: sent {count} documents, {len(scores)} of them came back; each is needed once."
        )
    return [scores[index] for index in range(count)]


def excerpt(text: str) -> str:
    """Return the beginning of what a service answered, for an error: one line of 200 letters."""
    return one_line(text, 200) if text.split() else "nothing"


def _plain(content: Content) -> str | Content:
    """Return a text alone as a string, which every service reads; otherwise the content itself."""
    return content["text"] if content.keys() == {"text"} else content


def _result_rows(answer: Any) -> Any:
    if not isinstance(answer, dict):
        return answer
    return next((answer[name] for name in RESULT_LISTS if name in answer), None)


def _score_of(row: Mapping[str, Any]) -> float | None:
    """Return the finite score of a result, or None."""
    is_logit = "logit" in row
    score = row["logit"] if is_logit else row.get("relevance_score", row.get("score"))
    if not isinstance(score, int | float) or not abs(score) <= sys.float_info.max:
        return None
    return _sigmoid(score) if is_logit else float(score)


def _sigmoid(logit: float) -> float:
    """Return the sigmoid without an overflow, however large the logit is."""
    small = math.exp(-abs(logit))
    return 1 / (1 + small) if logit >= 0 else small / (1 + small)
