"""Tiny random checkpoints of the three real vision-language classes, with a tokenizer of the real
layout, to try things out. It knows no ranking.

Every step of a real checkpoint runs, in milliseconds and without a download; the scores mean
nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MERGES = [
    ("y", "e"),
    ("ye", "s"),
    ("n", "o"),
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġt", "he"),
    ("Ġ", "a"),
    (".", "Ċ"),
    (":", "Ċ"),
]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WIDTH = 32
VOCABULARY = 288

CLASSES: dict[str, tuple[Any, Any]] = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}
COMMON_VISION: dict[str, Any] = {
    "depth": 2,
    "num_heads": 2,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "patch_size": 14,
}
VISION_CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        **COMMON_VISION,
        "embed_dim": 32,
        "hidden_size": WIDTH,
        "mlp_ratio": 2,
    },
    "qwen2_5_vl": {
        **COMMON_VISION,
        "hidden_size": 32,
        "out_hidden_size": WIDTH,
        "intermediate_size": 48,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    },
    "qwen3_vl": {
        **COMMON_VISION,
        "hidden_size": 32,
        "out_hidden_size": WIDTH,
        "intermediate_size": 48,
        "depth": 3,
        "patch_size": 16,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    },
}


def save_tiny(
    folder: Path,
    family: str = "qwen2_vl",
    merges: list[tuple[str, str]] | None = None,
    seed: int = 0,
) -> Path:
    """Write model, tokenizer and preprocessor as a hub checkpoint would hold them, and return the
    folder.

    Args:
        family: one of `FAMILIES`.
        merges: of the tokenizer, by default a handful.
        seed: of the random weights.

    Example:
        >>> import tempfile
        >>> from llama_index_rnx import load_ranker
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_ranker(str(save_tiny(Path(folder))), device="cpu").window
        10000
    """
    tokenizer = tiny_tokenizer(MERGES if merges is None else merges)
    ids: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    torch.manual_seed(seed)
    model = _build_model(family, ids)
    _scale_weights(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    patch = VISION_CONFIGS[family]["patch_size"]
    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": 4096 * 28 * 28}
    Qwen2VLImageProcessorPil(patch_size=patch, size=size).save_pretrained(folder)
    return folder


def tiny_tokenizer(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with Qwen's split and special tokens, and a handful of merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *dict.fromkeys("".join(merge) for merge in merges)]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))

    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True, normalized=False) for name in SPECIAL]
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )


def _build_model(family: str, ids: dict[str, Any]) -> Any:
    config_class, model_class = CLASSES[family]
    config = config_class(
        text_config=_text_config(family, ids),
        vision_config=VISION_CONFIGS[family],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return model_class(config)


def _text_config(family: str, ids: dict[str, Any]) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}
    config: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": rope,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
    }
    if family == "qwen3_vl":
        config["head_dim"] = 8
    return config


def _scale_weights(model: Any) -> None:
    """Make the weights large enough that every token of the prompt moves the logits: fresh ones
    (std .02) leave them at 1e-3.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6.0)
