"""A LlamaIndex LLM over anything that yields its answer in pieces. It knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from llama_index.core.llms import (
    ChatMessage,
    ChatResponse,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseGen,
    CustomLLM,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

ANSWER_TOKENS = 256


class StreamedLLM(CustomLLM):
    """A chat model that is one function: messages in, pieces of text out. Its subclasses give
    `pieces` and `metadata`.

    Attributes:
        sees_images: whether it reads the images of a conversation.
    """

    sees_images: ClassVar[bool] = False

    def pieces(self, messages: Sequence[ChatMessage]) -> Iterator[str]:
        """Yield the answer, piece by piece."""
        raise NotImplementedError

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the whole answer to a conversation."""
        text = "".join(self.pieces(messages)).strip()
        return ChatResponse(message=ChatMessage(role="assistant", content=text))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Yield the answer to a conversation, each time with all that was written so far."""

        def stream() -> ChatResponseGen:
            text = ""
            for piece in _at_least_one(self.pieces(messages)):
                text += piece
                yield ChatResponse(message=ChatMessage(role="assistant", content=text), delta=piece)

        return stream()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the whole answer to a prompt."""
        text = "".join(self.pieces([ChatMessage(role="user", content=prompt)])).strip()
        return CompletionResponse(text=text)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Yield the answer to a prompt, each time with all that was written so far."""

        def stream() -> CompletionResponseGen:
            text = ""
            for piece in _at_least_one(self.pieces([ChatMessage(role="user", content=prompt)])):
                text += piece
                yield CompletionResponse(text=text, delta=piece)

        return stream()


def _at_least_one(pieces: Iterator[str]) -> Iterator[str]:
    """Yield these pieces, or an empty one where there are none: LlamaIndex's observers break on a
    stream that ends before it began.
    """
    yield next(pieces, "")
    yield from pieces
