"""Multimodal listwise reranking for LlamaIndex: texts and images in one list, best first."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from llama_index_rnx import moved

if TYPE_CHECKING:
    from llama_index_rnx.collection import NodeCollection, Storage
    from llama_index_rnx.embed import RNXEmbedding
    from llama_index_rnx.errors import RNXError
    from llama_index_rnx.rankers import load_ranker
    from llama_index_rnx.ranking import Ranker
    from llama_index_rnx.rerank import RNXRerank
    from llama_index_rnx.retrieve import RNXRetriever

__all__ = [
    "NodeCollection",
    "RNXEmbedding",
    "RNXError",
    "RNXRerank",
    "RNXRetriever",
    "Ranker",
    "Storage",
    "load_ranker",
]
__version__ = "0.1.0"

# torch, transformers and LlamaIndex take seconds to load. Each name is imported from its module
# when it is first used, so that `import llama_index_rnx` and `rnx --help` load none of them.
_MODULES = {
    "NodeCollection": "collection",
    "RNXEmbedding": "embed",
    "RNXError": "errors",
    "RNXRerank": "rerank",
    "RNXRetriever": "retrieve",
    "Ranker": "ranking",
    "Storage": "collection",
    "load_ranker": "rankers",
}


moved.install()

if not TYPE_CHECKING:  # A type checker that saw this would accept every name.

    def __getattr__(name: str) -> Any:
        """Import a public name, or a module of the package, when it is first used (PEP 562)."""
        if name in _MODULES:
            module = import_module(f"{__name__}.{_MODULES[name]}")
            return globals().setdefault(name, getattr(module, name))

        if name.isidentifier() and find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")

        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what is imported on first use, too."""
    return sorted({*globals(), *__all__})
