"""A language model in a .gguf file, run by transformers."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms import ChatMessage, LLMMetadata

from llama_index_rnx.chat.streaming import ANSWER_TOKENS, StreamedLLM
from llama_index_rnx.errors import RNXError, one_line
from llama_index_rnx.rankers.vlm import stream_decode

# Tokens in a row that a small model may not say twice: left alone it says one sentence again and
# again.
REPEATED = 6


CONTEXT = 4_096  # of a .gguf model: five passages or pages, and some conversation


class GGUFModel(StreamedLLM):
    """A small chat model in a .gguf file, read by transformers and the `gguf` package; one answer
    at a time.

    On a CPU: the weights are unpacked to fp32, four bytes a parameter. For a large model take
    llama.cpp or Ollama through their LlamaIndex integrations.
    """

    path: str = Field(description="The file.")
    context: int = Field(
        default=CONTEXT, ge=512, description="Tokens of a prompt and its answer together."
    )
    most: int = Field(default=ANSWER_TOKENS, ge=1, description="Tokens of an answer.")

    _opened: Any = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @classmethod
    def class_name(cls) -> str:
        return "GGUFModel"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.context,
            num_output=self.most,
            is_chat_model=True,
            model_name=Path(self.path).stem,
        )

    def pieces(self, messages: Sequence[ChatMessage]) -> Iterator[str]:
        with self._lock:
            if self._opened is None:
                self._opened = _opened(Path(self.path))
            model, tokenizer = self._opened
            ids = _prompt(tokenizer, messages)  # [1, L]
            if ids.shape[1] + self.most > self.context:
                raise RNXError(
                    f"{Path(self.path).name}: the conversation has {ids.shape[1]} tokens and the answer up to {self.most}; "
                    f"{self.context} are allowed. Give fewer sources (-n), or a larger context."
                )
            yield from stream_decode(tokenizer, _written(model, ids, self.most))


def _opened(path: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a .gguf file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype="float32"
        )
    except Exception as error:  # of a file that anybody made
        raise RNXError(f"{path}: transformers cannot read it ({one_line(error)}).") from error
    if not tokenizer.chat_template:
        raise RNXError(f"{path}: has no chat template; give an instruct model.")
    return model.eval(), tokenizer


def _prompt(tokenizer: Any, messages: Sequence[ChatMessage]) -> Any:
    """The conversation as token ids [1, L]; nobody's text forges a special token."""
    special = re.compile("|".join(re.escape(token) for token in tokenizer.all_special_tokens))
    turns = [
        {"role": message.role.value, "content": special.sub("", message.content or "")}
        for message in messages
    ]
    return tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )["input_ids"]


def _written(model: Any, ids: Any, most: int) -> Iterator[int]:
    """The most probable token that repeats nothing, again and again."""
    import torch
    from transformers import DynamicCache, NoRepeatNGramLogitsProcessor

    fresh, written = NoRepeatNGramLogitsProcessor(REPEATED), list[int]()
    ends = model.generation_config.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}
    cache: Any = DynamicCache()
    for _ in range(most):
        with torch.inference_mode():
            logits = model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
            ).logits  # [1, 1, W]
        token = int(fresh(torch.tensor([written], dtype=torch.long), logits[:, -1])[0].argmax())
        if token in ends:
            return
        yield token
        written.append(token)
        ids = torch.tensor([[token]])
