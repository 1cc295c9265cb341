"""Answers over a collection: quoted, or written by any language model."""

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
