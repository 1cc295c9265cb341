"""Answers over a collection: quoted, or written by any language model."""

from typing import TYPE_CHECKING, Any

from llama_index_rnx import moved
from llama_index_rnx.chat.engine import RNXChatEngine, chat_engine, conversations
from llama_index_rnx.chat.events import Event, FailedEvent, RetrievedEvent, TextEvent
from llama_index_rnx.chat.extractive import CLEAR, ExtractiveSynthesizer
from llama_index_rnx.chat.quotations import ANSWER_WORDS, quotes

__all__ = [
    "ANSWER_WORDS",
    "CLEAR",
    "Event",
    "ExtractiveSynthesizer",
    "FailedEvent",
    "RNXChatEngine",
    "RetrievedEvent",
    "TextEvent",
    "chat_engine",
    "conversations",
    "quotes",
]

if not TYPE_CHECKING:  # A type checker that saw this would accept every name.

    def __getattr__(name: str) -> Any:
        """Return what an old name of this room stands for (PEP 562)."""
        return moved.old_name(__name__, name)
