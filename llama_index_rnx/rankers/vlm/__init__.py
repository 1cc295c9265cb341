"""Vision-language models as rankers: prompts, backbones, read-outs, checkpoints. Nothing of them is
imported before it is used, as most of it needs torch.
"""

from typing import TYPE_CHECKING, Any

import lazy_loader

from llama_index_rnx.errors import SettingsError

__all__ = [
    "CANDIDATE_TEMPLATE",
    "CONFIG_NAME",
    "DTYPES",
    "LIST_TEMPLATE",
    "MERGES",
    "PAIR_TEMPLATE",
    "SPECIAL",
    "Backbone",
    "Diagnosis",
    "ListPrompt",
    "PairPrompt",
    "PromptTokens",
    "Qwen2VL",
    "RankerConfig",
    "Readout",
    "Turn",
    "VLMRanker",
    "VLMSettings",
    "Writer",
    "config_of",
    "diagnose",
    "fit",
    "is_checkpoint_name",
    "kendall_tau",
    "load_backbone",
    "load_vlm",
    "resolve_checkpoint",
    "resolve_placement",
    "save_tiny",
    "stream_decode",
    "tiny_tokenizer",
]

if TYPE_CHECKING:
    from llama_index_rnx.rankers.vlm.backbone import Backbone, PromptTokens, Qwen2VL
    from llama_index_rnx.rankers.vlm.checkpoints import (
        DTYPES,
        load_backbone,
        resolve_checkpoint,
        resolve_placement,
    )
    from llama_index_rnx.rankers.vlm.config import CONFIG_NAME, RankerConfig
    from llama_index_rnx.rankers.vlm.decoding import stream_decode
    from llama_index_rnx.rankers.vlm.diagnosis import Diagnosis, diagnose, fit, kendall_tau
    from llama_index_rnx.rankers.vlm.generation import Turn, Writer
    from llama_index_rnx.rankers.vlm.loading import config_of, load_vlm
    from llama_index_rnx.rankers.vlm.names import is_checkpoint_name
    from llama_index_rnx.rankers.vlm.prompts import (
        CANDIDATE_TEMPLATE,
        LIST_TEMPLATE,
        PAIR_TEMPLATE,
        ListPrompt,
        PairPrompt,
    )
    from llama_index_rnx.rankers.vlm.ranker import VLMRanker
    from llama_index_rnx.rankers.vlm.settings import Readout, VLMSettings
    from llama_index_rnx.rankers.vlm.tiny import MERGES, SPECIAL, save_tiny, tiny_tokenizer
else:
    _import_name, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "backbone": [
                "Backbone",
                "PromptTokens",
                "Qwen2VL",
            ],
            "checkpoints": [
                "DTYPES",
                "load_backbone",
                "resolve_checkpoint",
                "resolve_placement",
            ],
            "config": [
                "CONFIG_NAME",
                "RankerConfig",
            ],
            "decoding": [
                "stream_decode",
            ],
            "diagnosis": [
                "Diagnosis",
                "diagnose",
                "fit",
                "kendall_tau",
            ],
            "generation": [
                "Turn",
                "Writer",
            ],
            "loading": [
                "config_of",
                "load_vlm",
            ],
            "names": [
                "is_checkpoint_name",
            ],
            "prompts": [
                "CANDIDATE_TEMPLATE",
                "LIST_TEMPLATE",
                "ListPrompt",
                "PAIR_TEMPLATE",
                "PairPrompt",
            ],
            "ranker": [
                "VLMRanker",
            ],
            "settings": [
                "Readout",
                "VLMSettings",
            ],
            "tiny": [
                "MERGES",
                "SPECIAL",
                "save_tiny",
                "tiny_tokenizer",
            ],
        },
    )

    def __getattr__(name: str) -> Any:
        """Import a name of this room when it is first used (PEP 562).

        Raises:
            SettingsError: it needs a package that is not installed.
        """
        try:
            return _import_name(name)
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "transformers"):
                raise
            raise SettingsError(
                f"a vision-language model needs {error.name}, which is not installed; "
                "install it with: pip install 'llama-index-rnx[vlm]'"
            ) from error
