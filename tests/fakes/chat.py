"""A retriever and a language model whose answers are settled beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import ChatMessage, LLMMetadata
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_rnx.chat.streaming import StreamedLLM


class StillRetriever(BaseRetriever):
    """Always finds the same."""

    def __init__(self, hits: Sequence[NodeWithScore]) -> None:
        super().__init__()
        self.hits = list(hits)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.hits


class ToldLLM(StreamedLLM):
    """Says what it was told to, in pieces; keeps what it was sent. `dies` says in which call it
    breaks.
    """

    answers: list[str] = ["an answer"]  # noqa: RUF012
    dies: int = 0

    _sent: list[list[ChatMessage]] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, model_name="told", context_window=4_000)

    def pieces(self, messages: Sequence[ChatMessage]) -> Iterator[str]:
        self._sent.append(list(messages))
        if len(self._sent) == self.dies:
            raise ConnectionError("nobody\nis there")
        answer = self.answers[min(len(self._sent), len(self.answers)) - 1]
        yield from (f"{word} " for word in answer.split())

    def sent(self, call: int) -> str:
        return "\n".join(str(message.content) for message in self._sent[call])
