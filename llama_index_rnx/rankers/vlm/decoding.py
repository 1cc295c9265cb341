"""Token ids become pieces of text as they come. It knows no model, and needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# The character that a tokenizer gives for the first bytes of a longer one.
UNFINISHED = "\ufffd"


def stream_decode(tokenizer: Any, tokens: Iterator[int]) -> Iterator[str]:
    """Yield tokens as pieces of text. A character of several tokens comes when it is whole."""
    written: list[int] = []
    yielded = ""
    for token in tokens:
        written.append(token)
        text = tokenizer.decode(written, skip_special_tokens=True)
        if not text.endswith(UNFINISHED) and len(text) > len(yielded):
            yield text[len(yielded) :]
            yielded = text
