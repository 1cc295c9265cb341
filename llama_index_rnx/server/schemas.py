"""What callers of `/rerank` send and expect: the shapes of Cohere, Jina, vLLM, Voyage and
text-embeddings-inference (TEI).

A document may be anything that JSON can say. What cannot be read in it costs that document its
rank, never the request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

from llama_index_rnx.server.limits import RequestError

MAX_DOCUMENTS = 1_000  # Cohere's own limit
MAX_QUERY = 200_000  # characters; rnx-mini reads some 1,000 of them
MAX_PARTS = 1_000  # of one document
MAX_LEVELS = 8  # of lists and objects in a document that are looked into
MAX_VALUES = (
    5_000_000  # of a body, by its commas and brackets: in Python each takes up to 200 bytes
)
LONGEST_NUMBER = 300  # digits; Python itself refuses to read 5,000

TEXT_FIELDS = ("text", "page_content", "pageContent")  # the latter two are LangChain's
IMAGE_FIELDS = ("image", "image_url")
DATA_FIELDS = ("url", "data", "base64")  # of an image that is an object itself

Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY, pattern=r"\S")]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What there is to read in a document or a query; the image as it was sent: base64, a data:
    URI, a URL.
    """

    text: str = ""
    image: str = ""


def content_of(value: Any, fields: Sequence[str] = (), level: int = 0) -> Content:
    """The text and the image in whatever stands for a document.

    Args:
        fields: Cohere's `rank_fields`: of an object these count, in this order.

    Example:
        >>> content_of({"text": "Bees make honey.", "id": "7"}).text
        'Bees make honey.'
        >>> content_of({"Title": "Bees", "Body": "They make honey."}, ["Title", "Body"]).text
        'Title: Bees\\nBody: They make honey.'
        >>> content_of([{"type": "text", "text": "a pump"}, {"type": "image_url", "image_url": {"url": "data:,"}}])
        Content(text='a pump', image='data:,')
    """
    if value is None or level > MAX_LEVELS:
        return Content()
    if isinstance(value, str):
        return Content(image=value) if _is_data_image(value) else Content(text=value)
    if isinstance(value, list):
        return _joined([content_of(part, (), level + 1) for part in value[:MAX_PARTS]])
    if isinstance(value, dict):
        return _content_of_object(value, fields, level)
    return Content(text=json.dumps(value))  # a number, true or false


def _content_of_object(value: Mapping[str, Any], fields: Sequence[str], level: int) -> Content:
    image = _image_of(value)
    if fields:
        return Content(text=_lines({name: value.get(name) for name in fields}), image=image)

    # Some clients send both `text` and a field of their framework; the one that is filled counts.
    texts = [content_of(value[name], (), level + 1) for name in TEXT_FIELDS if name in value]
    if isinstance(value.get("content"), list | dict):  # vLLM's and OpenAI's list of parts
        texts.append(content_of(value["content"], (), level + 1))
    if texts:
        filled = next((each for each in texts if each.text.strip() or each.image), Content())
        return Content(text=filled.text, image=image or filled.image)

    # Cohere reads an object without `text` as lines of YAML.
    return Content(image=image) if image else Content(text=_lines(value))


def _image_of(value: Mapping[str, Any]) -> str:
    """The first image in the fields of an object, or ""."""
    candidates = [value.get(name) for name in IMAGE_FIELDS]
    if value.get("type") == "image":  # Anthropic's part
        candidates.append(value.get("source"))
    for candidate in candidates:
        if isinstance(candidate, dict):
            candidate = next((candidate[name] for name in DATA_FIELDS if candidate.get(name)), None)
        if isinstance(candidate, str) and candidate.strip():
            return candidate
    return ""


def _joined(parts: Sequence[Content]) -> Content:
    texts = [part.text for part in parts if part.text.strip()]
    image = next((part.image for part in parts if part.image), "")
    return Content(text="\n".join(texts), image=image)


def _lines(fields: Mapping[str, Any]) -> str:
    """`name: value` lines of the fields that hold something; a single field speaks for itself."""
    texts = {name: _plain(value) for name, value in fields.items()}
    filled = {name: text for name, text in texts.items() if text.strip()}
    if len(filled) == 1:
        return next(iter(filled.values()))
    return "\n".join(f"{name}: {text}" for name, text in filled.items())


def _plain(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:  # lists in lists in lists: nothing to read
        return ""


def _is_data_image(text: str) -> bool:
    start = text[:100].lstrip().lower()
    return start.startswith("data:image/") and ";base64," in start


class ContentPart(BaseModel):
    """A query of a text, an image, or both; the image as base64, a data: URI, or a URL where that
    is allowed.
    """

    text: Text | None = None
    image: str = ""


def _query_part(value: Any) -> Any:
    """A query in any shape as a text or a `ContentPart`; what is wrong with its text, pydantic
    says.
    """
    if isinstance(value, str) and not _is_data_image(value):
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
    """Halves of surrogate pairs, which JSON can say and pydantic refuses, as question marks."""
    return text.encode("utf-8", "replace").decode()


_QUERY = {
    "description": 'A text, {"text", "image"}, or a list of content parts.',
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_QUERY, "pattern": r"\S"},
        {
            "type": "object",
            "required": ["text"],
            "properties": {
                "text": {"type": "string", "minLength": 1, "maxLength": MAX_QUERY, "pattern": r"\S"}
            },
        },
        {"type": "object", "required": ["image"]},
        {"type": "object", "required": ["image_url"]},
        {"type": "object", "required": ["content"]},
        {"type": "array"},
    ],
}
_DOCUMENTS = (
    'Texts, {"text", "image", ...} with any fields beside them, lists of content parts, or objects '
    "of other fields, which are read as lines of `name: value`. What holds nothing to read comes "
    "last, with a score of 0."
)


class RerankRequest(BaseModel):
    """Cohere's, Jina's, vLLM's and Voyage's request, or TEI's with `texts`; fields that say nothing
    here are passed over.
    """

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "array"}}}
                for name in ("documents", "texts")
            ]
        },
    )

    query: Annotated[Text | ContentPart, BeforeValidator(_query_part), WithJsonSchema(_QUERY)]
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
        """The documents, whatever they were called."""
        return self.documents if self.documents is not None else self.texts or []

    @property
    def is_tei(self) -> bool:
        return self.documents is None

    @property
    def is_voyage(self) -> bool:
        return "top_k" in self.model_fields_set


class Result(BaseModel):
    """index: of the document in the request; relevance_score: higher is better; document: as it was
    sent.
    """

    index: int
    relevance_score: float
    document: Any = None


class RerankResponse(BaseModel):
    """Best first, cut to top_n. meta.warnings says which documents could not be read, and why."""

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
    """The request in a body of JSON, in UTF-8 (with or without a mark), UTF-16 or UTF-32.

    Raises:
        Refused: it is no JSON, or no request; one line that does not repeat it.
    """
    if sum(body.count(mark) for mark in (b"[", b"{", b",")) > MAX_VALUES:
        raise RequestError(413, f"the body has more than {MAX_VALUES:,} values; send fewer fields.")
    try:
        payload = json.loads(
            body, parse_constant=_no_number, parse_float=_finite, parse_int=_integer
        )
    except UnicodeDecodeError as error:
        raise RequestError(422, "the body is no JSON: it is not in UTF-8.") from error
    except RecursionError as error:
        raise RequestError(
            422, "the body is no JSON that is read here: it is nested too deep."
        ) from error
    except ValueError as error:
        raise RequestError(422, f"the body is no JSON: {error}.") from error
    if not isinstance(payload, dict):
        raise RequestError(422, 'body: needs an object, {"query": ..., "documents": [...]}.')
    try:
        return RerankRequest.model_validate(payload)
    except ValidationError as error:
        raise RequestError(422, _wrong_field(error)) from error


def answer_json(request: RerankRequest, response: RerankResponse) -> bytes:
    """The response in the shape that the request's client parses."""
    answer: Any
    if request.is_tei:
        answer = [_text_result(request, result) for result in response.results]
    else:
        answer = response.model_dump(exclude={"results", "data"})
        answer["results"] = [_result(request, result, as_text=False) for result in response.results]
        if request.is_voyage:
            answer["data"] = [_result(request, result, as_text=True) for result in response.results]
    # Escapes take any string, half of a surrogate pair, too.
    return json.dumps(answer, ensure_ascii=True, allow_nan=False).encode()


def _result(request: RerankRequest, result: Result, as_text: bool) -> dict[str, Any]:
    row = {"index": result.index, "relevance_score": result.relevance_score}
    if not request.return_documents:
        return row
    document = request.listed[result.index]
    if as_text and isinstance(document, str):  # Voyage's clients expect the string itself
        return {**row, "document": document}
    return {**row, "document": _shown(document)}


def _text_result(request: RerankRequest, result: Result) -> dict[str, Any]:
    row = {"index": result.index, "score": result.relevance_score}
    if not request.return_text:
        return row
    return {**row, "text": content_of(request.listed[result.index]).text}


def _shown(document: Any) -> Any:
    """An object as it was sent, all else within one: clients of Cohere and Jina look for `text`
    there.
    """
    if isinstance(document, dict) and _is_shallow(document):
        return document
    if isinstance(document, list) and _is_shallow(document):
        return {"content": document}
    return {"text": content_of(document).text}


def _is_shallow(value: Any, levels: int = 64) -> bool:
    """Whether it is nested no deeper than can be written safely."""
    if levels == 0:
        return False
    if isinstance(value, dict):
        return all(_is_shallow(each, levels - 1) for each in value.values())
    if isinstance(value, list):
        return all(_is_shallow(each, levels - 1) for each in value)
    return True


def _no_number(name: str) -> None:
    """NaN and Infinity are how pandas writes that a text is missing."""


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= LONGEST_NUMBER else digits


def _wrong_field(error: ValidationError) -> str:
    """What is wrong, in one line; what was sent is not repeated, it may be megabytes.

    A query may be a string or a Part: of pydantic's reasons why it is neither, the one that went
    deepest is the user's.
    """
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    telling = [each for each in errors if not each["type"].endswith("_type")] or errors
    worst = max(reversed(telling), key=lambda each: len(each["loc"]))
    steps = [str(step) for step in worst["loc"] if step != "Part"]
    names = [step for step in steps if step.isidentifier() or step.isdigit()]
    return f"{'.'.join(['body', *names])}: {worst['msg']}"
