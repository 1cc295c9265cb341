"""Vision-language models as rankers: prompts, backbones, read-outs, checkpoints."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "CANDIDATE_TEMPLATE",
    "DTYPES",
    "LIST_TEMPLATE",
    "MERGES",
    "PAIR_TEMPLATE",
    "RECIPE",
    "SPECIAL",
    "Backbone",
    "Diagnosis",
    "ListPrompt",
    "PairPrompt",
    "Qwen2VL",
    "Readout",
    "Recipe",
    "Row",
    "Turn",
    "VLMRanker",
    "Writer",
    "diagnose",
    "find",
    "fit",
    "kendall_tau",
    "load_backbone",
    "load_vlm",
    "may_be_one",
    "place_of",
    "recipe_of",
    "said",
    "save_tiny",
    "tiny_tokenizer",
]

if TYPE_CHECKING:
    from llama_index_rnx.rankers.vlm.backbone import Backbone, Qwen2VL, Row
    from llama_index_rnx.rankers.vlm.checkpoints import (
        DTYPES,
        find,
        load_backbone,
        may_be_one,
        place_of,
    )
    from llama_index_rnx.rankers.vlm.config import RECIPE, Recipe
    from llama_index_rnx.rankers.vlm.diagnosis import Diagnosis, diagnose, fit, kendall_tau
    from llama_index_rnx.rankers.vlm.generation import Turn, Writer, said
    from llama_index_rnx.rankers.vlm.loading import load_vlm, recipe_of
    from llama_index_rnx.rankers.vlm.prompts import (
        CANDIDATE_TEMPLATE,
        LIST_TEMPLATE,
        PAIR_TEMPLATE,
        ListPrompt,
        PairPrompt,
    )
    from llama_index_rnx.rankers.vlm.ranker import Readout, VLMRanker
    from llama_index_rnx.rankers.vlm.tiny import MERGES, SPECIAL, save_tiny, tiny_tokenizer
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "backbone": [
                "Backbone",
                "Qwen2VL",
                "Row",
            ],
            "checkpoints": [
                "DTYPES",
                "find",
                "load_backbone",
                "may_be_one",
                "place_of",
            ],
            "config": [
                "RECIPE",
                "Recipe",
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
                "said",
            ],
            "loading": [
                "load_vlm",
                "recipe_of",
            ],
            "prompts": [
                "CANDIDATE_TEMPLATE",
                "LIST_TEMPLATE",
                "ListPrompt",
                "PAIR_TEMPLATE",
                "PairPrompt",
            ],
            "ranker": [
                "Readout",
                "VLMRanker",
            ],
            "tiny": [
                "MERGES",
                "SPECIAL",
                "save_tiny",
                "tiny_tokenizer",
            ],
        },
    )
