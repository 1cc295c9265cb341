"""The events of an answer: sources found, text written, failure. They know no engine."""

from __future__ import annotations

from dataclasses import dataclass

from llama_index_rnx.results import Comparison


@dataclass(frozen=True, kw_only=True)
class RetrievedEvent:
    """The sources were found; `section.query` is the question as it was looked for."""

    section: Comparison


@dataclass(frozen=True, kw_only=True)
class TextEvent:
    """A piece of the answer was written."""

    text: str


@dataclass(frozen=True, kw_only=True)
class FailedEvent:
    """The answer, or the rest of it, cannot be had; `line` says why. The sources stay."""

    line: str


Event = RetrievedEvent | TextEvent | FailedEvent
