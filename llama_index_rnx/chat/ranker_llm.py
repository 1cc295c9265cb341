"""The vision-language model that ranks as a LlamaIndex LLM. It knows no retriever."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms import ChatMessage, LLMMetadata

from llama_index_rnx.candidates import ImageSource, base64_source, bytes_source, is_data_uri
from llama_index_rnx.chat.streaming import ANSWER_TOKENS, StreamedLLM
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.rankers.vlm import Turn, VLMRanker, Writer
from llama_index_rnx.ranking import Ranker


class RankerLLM(StreamedLLM):
    """The vision-language model that ranks, writing: it sees texts and images. See `Writer` for
    what to expect of it.

    Raises:
        SettingsError: the ranker does not write.
    """

    sees_images: ClassVar[bool] = True

    most: int = Field(default=ANSWER_TOKENS, ge=1, description="Tokens of an answer.")

    _writer: Writer = PrivateAttr()

    def __init__(self, ranker: Ranker, most: int = ANSWER_TOKENS) -> None:
        super().__init__(most=most)  # type: ignore[call-arg]
        if not isinstance(ranker, VLMRanker):
            raise SettingsError(
                f"{ranker.name} ranks and does not write; "
                "a vision-language model (--model) or another --llm does."
            )
        self._writer = Writer(ranker, most)

    @classmethod
    def class_name(cls) -> str:
        return "RankerLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """Return the facts that LlamaIndex needs about a language model."""
        writer = self._writer
        return LLMMetadata(
            context_window=writer.context,
            num_output=self.most,
            is_chat_model=True,
            model_name=writer.ranker.name,
        )

    def pieces(self, messages: Sequence[ChatMessage]) -> Iterator[str]:
        """Yield the answer, piece by piece."""
        return self._writer.generate([_turn(message) for message in messages])


def _turn(message: ChatMessage) -> Turn:
    """Return a LlamaIndex message as a turn: the system's, the assistant's, else the user's."""
    contents: list[str | ImageSource] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            contents.append(block.text)
        elif isinstance(block, ImageBlock):
            contents.append(_image_of(block))
        else:
            raise SettingsError(
                f"the conversation holds a {block.block_type}; texts and images are read."
            )

    role = message.role.value
    role = role if role in ("system", "assistant") else "user"
    return Turn(role=role, contents=contents)  # type: ignore[arg-type]


def _image_of(block: ImageBlock) -> ImageSource:
    label = "an image of the conversation"
    # LlamaIndex keeps the bytes of an image as base64.
    if isinstance(block.image, bytes):
        return base64_source(block.image, label)
    if block.url is not None and is_data_uri(block.url):
        return base64_source(str(block.url), label)
    return bytes_source(block.resolve_image().read(), label)
