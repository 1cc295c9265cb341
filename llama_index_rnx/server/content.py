"""The text and the image in whatever JSON stands for a document or a query. It knows no request.

What cannot be read in a document costs that document its rank, never the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_PARTS = 1_000  # of one document
MAX_LEVELS = 8  # of lists and objects in a document that are looked into

TEXT_FIELDS = ("text", "page_content", "pageContent")  # The latter two are LangChain's.
IMAGE_FIELDS = ("image", "image_url")
DATA_FIELDS = ("url", "data", "base64")  # of an image that is an object itself


@dataclass(frozen=True, kw_only=True)
class Content:
    """The text and the image of a document or a query; the image as it was sent: base64, a data:
    URI, a URL.
    """

    text: str = ""
    image: str = ""


def content_of(value: Any, fields: Sequence[str] = (), level: int = 0) -> Content:
    """Return the text and the image in whatever stands for a document.

    Args:
        value: any JSON.
        fields: Cohere's `rank_fields`: of an object only these count, in this order.
        level: how deep `value` lies in the document.

    Example:
        >>> content_of({"text": "Bees make honey.", "id": "7"}).text
        'Bees make honey.'
        >>> content_of({"Title": "Bees", "Body": "They make honey."}, ["Title", "Body"]).text
        'Title: Bees\\nBody: They make honey.'
        >>> image = {"type": "image_url", "image_url": {"url": "data:,"}}
        >>> content_of([{"type": "text", "text": "a pump"}, image])
        Content(text='a pump', image='data:,')
    """
    if value is None or level > MAX_LEVELS:
        return Content()
    if isinstance(value, str):
        return Content(image=value) if is_data_image(value) else Content(text=value)
    if isinstance(value, list):
        return _join([content_of(item, (), level + 1) for item in value[:MAX_PARTS]])
    if isinstance(value, dict):
        return _content_of_object(value, fields, level)

    # A number, true or false.
    return Content(text=json.dumps(value))


def is_data_image(text: str) -> bool:
    """Whether a string is a data: URI of an image in base64."""
    start = text[:100].lstrip().lower()
    return start.startswith("data:image/") and ";base64," in start


def _content_of_object(value: Mapping[str, Any], fields: Sequence[str], level: int) -> Content:
    image = _image_of(value)
    if fields:
        return Content(text=_named_lines({name: value.get(name) for name in fields}), image=image)

    # Some clients send both `text` and a field of their framework; the first that is filled counts.
    contents = [content_of(value[name], (), level + 1) for name in TEXT_FIELDS if name in value]

    # vLLM and OpenAI send a list of parts in `content`.
    if isinstance(value.get("content"), list | dict):
        contents.append(content_of(value["content"], (), level + 1))

    if contents:
        filled = (content for content in contents if content.text.strip() or content.image)
        content = next(filled, Content())
        return Content(text=content.text, image=image or content.image)

    # Cohere reads an object without `text` as lines of YAML.
    return Content(image=image) if image else Content(text=_named_lines(value))


def _image_of(value: Mapping[str, Any]) -> str:
    """Return the first image in the fields of an object, or ""."""
    candidates = [value.get(name) for name in IMAGE_FIELDS]

    # Anthropic's parts have their image in `source`.
    if value.get("type") == "image":
        candidates.append(value.get("source"))

    for candidate in candidates:
        if isinstance(candidate, dict):
            candidate = next((candidate[name] for name in DATA_FIELDS if candidate.get(name)), None)
        if isinstance(candidate, str) and candidate.strip():
            return candidate
    return ""


def _join(contents: Sequence[Content]) -> Content:
    """Return all texts, one below the other, and the first image."""
    texts = [content.text for content in contents if content.text.strip()]
    image = next((content.image for content in contents if content.image), "")
    return Content(text="\n".join(texts), image=image)


def _named_lines(fields: Mapping[str, Any]) -> str:
    """Return the fields that hold something as lines of `name: value`; a single one without its
    name.
    """
    texts = {name: _plain_text(value) for name, value in fields.items()}
    filled = {name: text for name, text in texts.items() if text.strip()}
    if len(filled) == 1:
        return next(iter(filled.values()))
    return "\n".join(f"{name}: {text}" for name, text in filled.items())


def _plain_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        # Lists in lists in lists hold nothing to read.
        return ""
