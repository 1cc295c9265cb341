"""What happens while a question is answered."""

from __future__ import annotations

from dataclasses import dataclass

from llama_index_rnx.results import Comparison


@dataclass(frozen=True, kw_only=True)
class RetrievedEvent:
    """What was found; `section.query` is the question as it was looked for."""

    section: Comparison


@dataclass(frozen=True, kw_only=True)
class TextEvent:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, kw_only=True)
class FailedEvent:
    """The answer, or the rest of it, could not be had; the sources are there all the same."""

    line: str


Event = RetrievedEvent | TextEvent | FailedEvent
