"""A LlamaIndex LLM over anything that yields its answer in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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
    """

    def pieces(self, messages: Sequence[ChatMessage]) -> Iterator[str]:
        """The answer, piece by piece."""
        raise NotImplementedError

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return ChatResponse(
            message=ChatMessage(role="assistant", content="".join(self.pieces(messages)).strip())
        )

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        def told() -> ChatResponseGen:
            text = ""
            for piece in _some(self.pieces(messages)):
                text += piece
                yield ChatResponse(message=ChatMessage(role="assistant", content=text), delta=piece)

        return told()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(
            text="".join(self.pieces([ChatMessage(role="user", content=prompt)])).strip()
        )

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        def told() -> CompletionResponseGen:
            text = ""
            for piece in _some(self.pieces([ChatMessage(role="user", content=prompt)])):
                text += piece
                yield CompletionResponse(text=text, delta=piece)

        return told()


def _some(pieces: Iterator[str]) -> Iterator[str]:
    """One piece at least: LlamaIndex's observers break on a stream that ends before it began."""
    yield next(pieces, "")
    yield from pieces
