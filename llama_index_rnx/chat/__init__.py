"""Answers over a collection: quoted, or written by any language model."""

from llama_index_rnx.chat.engine import (
    Event,
    FailedEvent,
    RetrievedEvent,
    RNXChatEngine,
    TextEvent,
    chat_engine,
    conversations,
)
from llama_index_rnx.chat.extractive import ANSWER_WORDS, CLEAR, ExtractiveSynthesizer, quotes

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
