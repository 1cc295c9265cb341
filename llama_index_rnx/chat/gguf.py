"""A language model in a .gguf file, run by transformers. It knows no ranker and no sources."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms import ChatMessage, LLMMetadata

from llama_index_rnx.chat.streaming import ANSWER_TOKENS, StreamedLLM
from llama_index_rnx.errors import SettingsError, one_line
from llama_index_rnx.rankers.vlm import stream_decode

# A small model may not repeat so many tokens in a row: otherwise it says one sentence again and
# again.
NO_REPEAT_TOKENS = 6

CONTEXT = 4_096  # tokens of a .gguf model: five passages or pages, and some conversation


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

    _loaded: Any = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @classmethod
    def class_name(cls) -> str:
        return "GGUFModel"

    @property
    def metadata(self) -> LLMMetadata:
        """Return the facts that LlamaIndex needs about a language model."""
        return LLMMetadata(
            context_window=self.context,
            num_output=self.most,
            is_chat_model=True,
            model_name=Path(self.path).stem,
        )

    def pieces(self, messages: Sequence[ChatMessage]) -> Iterator[str]:
        """Yield the answer, piece by piece. The file is loaded at the first call.

        Raises:
            SettingsError: the file cannot be read, or the conversation is longer than the context.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = _load_model(Path(self.path))
            model, tokenizer = self._loaded

            ids = _prompt_ids(tokenizer, messages)  # [1, L]
            self._check_length(ids.shape[1])
            yield from stream_decode(tokenizer, _generate(model, ids, self.most))

    def _check_length(self, length: int) -> None:
        if length + self.most > self.context:
            raise SettingsError(
                f"{Path(self.path).name}: the conversation has {length} tokens "
                f"and the answer up to {self.most}; {self.context} are allowed. "
                "Give fewer sources (-n), or a larger context."
            )


def _load_model(path: Path) -> tuple[Any, Any]:
    """Load the model and the tokenizer of a .gguf file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype="float32"
        )
    # Anybody may have made the file, so transformers may raise anything.
    except Exception as error:
        raise SettingsError(f"{path}: transformers cannot read it ({one_line(error)}).") from error
    if not tokenizer.chat_template:
        raise SettingsError(f"{path}: has no chat template; give an instruct model.")
    return model.eval(), tokenizer


def _prompt_ids(tokenizer: Any, messages: Sequence[ChatMessage]) -> Any:
    """Return the conversation as token ids [1, L]; no text in it can forge a special token."""
    special = re.compile("|".join(re.escape(token) for token in tokenizer.all_special_tokens))
    turns = [
        {"role": message.role.value, "content": special.sub("", message.content or "")}
        for message in messages
    ]
    encoded = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    return encoded["input_ids"]


def _generate(model: Any, ids: Any, most: int) -> Iterator[int]:
    """Yield, token by token, the most probable one that repeats nothing, at most `most` of them."""
    import torch
    from transformers import DynamicCache, NoRepeatNGramLogitsProcessor

    no_repeats = NoRepeatNGramLogitsProcessor(NO_REPEAT_TOKENS)
    end_tokens = model.generation_config.eos_token_id
    end_tokens = set(end_tokens) if isinstance(end_tokens, list) else {end_tokens}

    cache: Any = DynamicCache()
    generated: list[int] = []
    for _ in range(most):
        with torch.inference_mode():
            output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = output.logits[:, -1]  # [1, W]
        allowed = no_repeats(torch.tensor([generated], dtype=torch.long), logits)
        token = int(allowed[0].argmax())
        if token in end_tokens:
            return

        yield token
        generated.append(token)
        ids = torch.tensor([[token]])
