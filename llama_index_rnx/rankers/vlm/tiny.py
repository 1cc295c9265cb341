"""Tiny random checkpoints of the three true vision-language classes, with a tokenizer of the true
layout: to try things out.

Every step of a real checkpoint happens, in milliseconds and without a download; what comes out
means nothing.
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
QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WIDTH, VOCABULARY = 32, 288


def save_tiny(
    folder: Path,
    family: str = "qwen2_vl",
    merges: list[tuple[str, str]] | None = None,
    seed: int = 0,
) -> Path:
    """Writes model, tokenizer and preprocessor as a hub checkpoint would hold them; returns the
    folder.

    family: one of `FAMILIES`. merges: of the tokenizer, by default a handful.

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
    model = _model(family, ids)
    _spread(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    patch, low = (16, 32 * 32) if family == "qwen3_vl" else (14, 28 * 28)
    size = {"shortest_edge": low, "longest_edge": 4096 * 28 * 28}
    Qwen2VLImageProcessorPil(patch_size=patch, size=size).save_pretrained(folder)
    return folder


def tiny_tokenizer(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen's split and special tokens, and a handful of merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *dict.fromkeys("".join(merge) for merge in merges)]
    found = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=found, pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )


def _model(family: str, ids: dict[str, Any]) -> Any:
    text: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 1, 1],
            "rope_theta": 10_000.0,
        },
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
    }
    common: dict[str, Any] = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,
    }
    vision: dict[str, Any] = {
        "depth": 2,
        "num_heads": 2,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": WIDTH, "mlp_ratio": 2, "patch_size": 14}
        return Qwen2VLForConditionalGeneration(
            Qwen2VLConfig(text_config=text, vision_config=vision, **common)
        )
    vision |= {"hidden_size": 32, "out_hidden_size": WIDTH, "intermediate_size": 48}
    if family == "qwen2_5_vl":
        vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
        return Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, **common)
        )
    text["head_dim"] = 8
    vision |= {
        "depth": 3,
        "patch_size": 16,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    }
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, **common)
    )


def _spread(model: Any) -> None:
    """Weights large enough that every token of the prompt moves the logits: fresh ones (std .02)
    leave them at 1e-3.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6.0)
