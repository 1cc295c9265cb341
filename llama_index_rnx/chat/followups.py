"""Pure: a follow-up question as one that stands alone. It knows no model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llama_index.core.llms import ChatMessage, MessageRole

from llama_index_rnx.text import QUESTION_WORDS, bm25

TURNS_BACK = 3  # follow-up questions that are put together

_POINTING_WORDS = frozenset(
    """it its they them their theirs this these those
    he him his she her hers one ones""".split()  # noqa: SIM905
)
_CONTINUATION = re.compile(
    r"^(?:and|or|but|so|then|also|what about|how about|what else|anything else|why not)\b",
    re.IGNORECASE,
)
_EMPTY_WORDS = bm25.STOP_WORDS | QUESTION_WORDS  # they say nothing about an answer


def standalone(before: Sequence[str], question: str, back: int = TURNS_BACK) -> str:
    """Return a question that points back together with the one before it; any other as it is.

    It is English only, and needs no language model.

    Args:
        before: the questions before this one, in order.
        back: how many of them may be put before this one.

    Example:
        >>> standalone(["How do bees make honey?"], "And in winter?")
        'How do bees make honey? And in winter?'
        >>> standalone(["How do bees make honey?"], "Why does iron rust?")
        'Why does iron rust?'
    """
    if not before or back == 0 or not _points_back(question):
        return question
    return f"{standalone(before[:-1], before[-1], back - 1)} {question}"


def user_questions(history: Sequence[ChatMessage]) -> list[str]:
    """Return what the user asked in a conversation, in order."""
    return [message.content or "" for message in history if message.role == MessageRole.USER]


def _points_back(question: str) -> bool:
    """Whether a question has too little content of its own, or words that point to another one."""
    words = re.findall(r"\w+", question.lower())
    content_words = [word for word in words if word not in _EMPTY_WORDS]
    if len(content_words) < 2 or _POINTING_WORDS.intersection(words):
        return True
    return _CONTINUATION.match(question.strip()) is not None
