"""The requests and responses of `/rerank`: the shapes of Cohere, Jina, vLLM, Voyage and
text-embeddings-inference (TEI). It knows no ranker.

A document may be anything that JSON can say.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from llama_index_rnx.server.content import content_of, is_data_image
from llama_index_rnx.server.errors import RequestError

MAX_DOCUMENTS = 1_000  # Cohere's own limit
MAX_QUERY = 200_000  # characters; rnx-mini reads some 1,000 of them
# The values of a body are counted by its commas and brackets; in Python each takes up to 200 bytes.
MAX_VALUES = 5_000_000
MAX_DIGITS = 300  # of a number; Python itself refuses to read 5,000
MAX_NESTING = 64  # of a document that is sent back

Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY, pattern=r"\S")]


class ContentPart(BaseModel):
    """A query of a text, an image, or both; the image as base64, a data: URI, or a URL where that
    is allowed.
    """

    text: Text | None = None
    image: str = ""


def _query_part(value: Any) -> Any:
    """Return a query in any shape as a text or a `ContentPart`; pydantic checks its text."""
    if isinstance(value, str) and not is_data_image(value):
        return _without_surrogates(value)
    if not isinstance(value, str | list | dict):
        return value

    content = content_of(value)
    text = _without_surrogates(content.text)
    if content.image:
        return {"text": text if text.strip() else None, "image": content.image}
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return {"text": _without_surrogates(value["text"])}
    if not text.strip() or (isinstance(value, dict) and "content" not in value):
        raise RequestError(400, "query: needs a text, an image, or both.")
    return {"text": text}


def _without_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON allows and pydantic refuses, by question
    marks.
    """
    return text.encode("utf-8", "replace").decode()


_TEXT_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_QUERY, "pattern": r"\S"}
_QUERY_SCHEMA = {
    "description": 'A text, {"text", "image"}, or a list of content parts.',
    "anyOf": [
        _TEXT_SCHEMA,
        {"type": "object", "required": ["text"], "properties": {"text": _TEXT_SCHEMA}},
        {"type": "object", "required": ["image"]},
        {"type": "object", "required": ["image_url"]},
        {"type": "object", "required": ["content"]},
        {"type": "array"},
    ],
}
_REQUEST_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"required": [name], "properties": {name: {"type": "array"}}}
        for name in ("documents", "texts")
    ]
}
_DOCUMENTS = (
    'Texts, {"text", "image", ...} with any fields beside them, lists of content parts, or objects '
    "of other fields, which are read as lines of `name: value`. What holds nothing to read comes "
    "last, with a score of 0."
)


class RerankRequest(BaseModel):
    """Cohere's, Jina's, vLLM's and Voyage's request, or TEI's with `texts`; unknown fields are
    ignored.
    """

    model_config = ConfigDict(extra="ignore", json_schema_extra=_REQUEST_SCHEMA)

    query: Annotated[
        Text | ContentPart, BeforeValidator(_query_part), WithJsonSchema(_QUERY_SCHEMA)
    ]
    documents: list[Any] | None = Field(
        default=None, max_length=MAX_DOCUMENTS, description=_DOCUMENTS
    )
    texts: list[Any] | None = Field(
        default=None,
        max_length=MAX_DOCUMENTS,
        description="TEI's name; the answer is a bare list then.",
    )
    top_n: int | None = Field(default=None, ge=0, description="How many come back; 0: all of them.")
    top_k: int | None = Field(
        default=None, ge=0, description="Voyage's name; the answer has `data` then, too."
    )
    rank_fields: list[str] | None = Field(default=None, description="Fields of an object to read.")
    return_documents: bool | None = None
    return_text: bool | None = None

    @model_validator(mode="after")
    def _needs_documents(self) -> RerankRequest:
        if self.documents is None and self.texts is None:
            raise ValueError("needs documents (or texts, as TEI calls them), a list")
        return self

    @property
    def listed(self) -> list[Any]:
        """The documents, under whatever name they were sent."""
        return self.documents if self.documents is not None else self.texts or []

    @property
    def is_tei(self) -> bool:
        """Whether the client is one of TEI, and expects its answer."""
        return self.documents is None

    @property
    def is_voyage(self) -> bool:
        """Whether the client is one of Voyage, and expects `data`."""
        return "top_k" in self.model_fields_set


class Result(BaseModel):
    """One ranked document.

    index: of the document in the request. relevance_score: higher is better. document: as it was
    sent.
    """

    index: int
    relevance_score: float
    document: Any = None


class RerankResponse(BaseModel):
    """The results, best first, cut to top_n. meta.warnings says which documents could not be read,
    and why.
    """

    id: str
    object: str = "list"
    model: str
    results: list[Result]
    data: list[Result] | None = Field(default=None, description="The results under Voyage's name.")
    usage: dict[str, int]
    meta: dict[str, Any]


class TextResult(BaseModel):
    """TEI's answer is a list of these, best first."""

    index: int
    score: float
    text: str | None = None


def read_request(body: bytes) -> RerankRequest:
    """Return the request in a body of JSON, in UTF-8 (with or without a byte order mark), UTF-16 or
    UTF-32.

    Raises:
        RequestError: the body is no JSON or no request (422), or has too many values (413); its
            one line does not repeat the body.
    """
    if sum(body.count(mark) for mark in (b"[", b"{", b",")) > MAX_VALUES:
        raise RequestError(413, f"the body has more than {MAX_VALUES:,} values; send fewer fields.")

    payload = _parse_json(body)
    if not isinstance(payload, dict):
        raise RequestError(422, 'body: needs an object, {"query": ..., "documents": [...]}.')
    try:
        return RerankRequest.model_validate(payload)
    except ValidationError as error:
        raise RequestError(422, _explain(error)) from error


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(
            body,
            parse_constant=_parse_constant,
            parse_float=_parse_float,
            parse_int=_parse_integer,
        )
    except UnicodeDecodeError as error:
        raise RequestError(422, "the body is no JSON: it is not in UTF-8.") from error
    except RecursionError as error:
        raise RequestError(
            422, "the body is no JSON that is read here: it is nested too deep."
        ) from error
    except ValueError as error:
        raise RequestError(422, f"the body is no JSON: {error}.") from error


def answer_json(request: RerankRequest, response: RerankResponse) -> bytes:
    """Return the response as JSON, in the shape that the request's client parses."""
    answer: Any
    if request.is_tei:
        answer = [_tei_row(request, result) for result in response.results]
    else:
        answer = response.model_dump(exclude={"results", "data"})
        answer["results"] = [_row(request, result, as_text=False) for result in response.results]
        if request.is_voyage:
            answer["data"] = [_row(request, result, as_text=True) for result in response.results]

    # Escapes can say any string, half of a surrogate pair, too.
    return json.dumps(answer, ensure_ascii=True, allow_nan=False).encode()


def _row(request: RerankRequest, result: Result, as_text: bool) -> dict[str, Any]:
    row = {"index": result.index, "relevance_score": result.relevance_score}
    if not request.return_documents:
        return row

    # Voyage's clients expect a string as it was sent.
    document = request.listed[result.index]
    if as_text and isinstance(document, str):
        return {**row, "document": document}
    return {**row, "document": _as_object(document)}


def _tei_row(request: RerankRequest, result: Result) -> dict[str, Any]:
    row = {"index": result.index, "score": result.relevance_score}
    if not request.return_text:
        return row
    return {**row, "text": content_of(request.listed[result.index]).text}


def _as_object(document: Any) -> Any:
    """Return an object as it was sent, and anything else within one: clients of Cohere and Jina
    look for `text` there.
    """
    if isinstance(document, dict) and _is_shallow(document):
        return document
    if isinstance(document, list) and _is_shallow(document):
        return {"content": document}
    return {"text": content_of(document).text}


def _is_shallow(value: Any, levels: int = MAX_NESTING) -> bool:
    """Whether a value is nested no deeper than can be written safely."""
    if levels == 0:
        return False
    if isinstance(value, dict):
        return all(_is_shallow(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return all(_is_shallow(item, levels - 1) for item in value)
    return True


def _parse_constant(name: str) -> None:
    """Return None: pandas writes NaN or Infinity where a text is missing."""


def _parse_float(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _parse_integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= MAX_DIGITS else digits


def _explain(error: ValidationError) -> str:
    """Return in one line what is wrong. It does not repeat what was sent, which may be megabytes.

    A query may be a string or a `ContentPart`: of pydantic's reasons why it is neither, the one
    about the innermost field is the user's.
    """
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    errors = [item for item in errors if not item["type"].endswith("_type")] or errors
    innermost = max(reversed(errors), key=lambda item: len(item["loc"]))

    steps = [str(step) for step in innermost["loc"] if step != ContentPart.__name__]
    names = [step for step in steps if step.isidentifier() or step.isdigit()]
    return f"{'.'.join(['body', *names])}: {innermost['msg']}"
