"""Pure: a follow-up question as one that stands alone. It asks no model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llama_index.core.llms import ChatMessage, MessageRole

from llama_index_rnx.text import bm25

TURNS_BACK = 3  # follow-up questions that are put together


_POINTING = frozenset(
    [
        "it",
        "its",
        "they",
        "them",
        "their",
        "theirs",
        "this",
        "these",
        "those",
        "he",
        "him",
        "his",
        "she",
        "her",
        "hers",
        "one",
        "ones",
    ]
)


_GOING_ON = re.compile(
    r"^(?:and|or|but|so|then|also|what about|how about|what else|anything else|why not)\b",
    re.IGNORECASE,
)


_ASKING = frozenset(
    [
        "can",
        "could",
        "did",
        "do",
        "does",
        "has",
        "have",
        "how",
        "i",
        "me",
        "much",
        "many",
        "often",
        "should",
        "what",
        "when",
        "where",
        "which",
        "who",
        "why",
        "you",
    ]
)


def standalone(before: Sequence[str], question: str, back: int = TURNS_BACK) -> str:
    """A question that points back, with the one before it; any other as it is. English only; no
    language model.

    Example:
        >>> standalone(["How do bees make honey?"], "And in winter?")
        'How do bees make honey? And in winter?'
        >>> standalone(["How do bees make honey?"], "Why does iron rust?")
        'Why does iron rust?'
    """
    if not before or back == 0 or not _points_back(question):
        return question
    return f"{standalone(before[:-1], before[-1], back - 1)} {question}"


def _points_back(question: str) -> bool:
    words = re.findall(r"\w+", question.lower())
    content = [word for word in words if word not in bm25.STOP_WORDS | _ASKING]
    return (
        len(content) < 2
        or bool(_POINTING.intersection(words))
        or bool(_GOING_ON.match(question.strip()))
    )


def user_questions(history: Sequence[ChatMessage]) -> list[str]:
    return [message.content or "" for message in history if message.role == MessageRole.USER]
