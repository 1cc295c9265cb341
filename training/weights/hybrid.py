"""A real language half inside the class of Qwen2-VL-2B, built from packages. It knows no ranking
and trains nothing.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, dequantize
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.vlm import (
    PromptTokens,
    RankerConfig,
    load_backbone,
    resolve_checkpoint,
)
from training.weights.packages import Packages, join_gguf, unpack_tokenizer

SEED = 0  # of the vision tower

# The same matrix in Q6_K and, coarser, in Q4_K; Qwen2-VL-2B ties the two.
EMBEDDING = "output.weight"
COARSE_EMBEDDING = "token_embd.weight"

# Names of tensors, and of a layer's parts, in GGUF and in transformers.
TENSOR_NAMES = {EMBEDDING: "embed_tokens.weight", "output_norm.weight": "norm.weight"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

PROMPT = (
    "<|im_start|>user\nWhy does iron rust faster by the sea?<|im_end|>\n<|im_start|>assistant\n"
)

# Of logits up to 30: the same weights through the same kernels; measured 0.
TOLERANCE = 1e-5

README = """# Qwen2.5-Coder-1.5B-Instruct inside Qwen2-VL-2B's class

Made by `python -m training.assemble_hybrid` from packages, for tests and development of rankers
of text lists.

* Language half: all {tensors} tensors of Qwen2.5-Coder-1.5B-Instruct (Apache-2.0), from its
  Q4_K_M GGUF, in bfloat16.
* **Vision tower: random numbers (seed {seed}).** Images are read, but mean nothing.
* Never trained to rank. `readout="auto"` reads it pointwise.
"""


def true_config() -> Qwen2VLConfig:
    """Return Qwen2-VL-2B-Instruct's own config.json: 2.209 B parameters."""
    text = {
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
        "max_window_layers": 28,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
    }
    vision = {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 1536,
        "num_heads": 16,
        "mlp_ratio": 4,
        "patch_size": 14,
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=151_655,
        video_token_id=151_656,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
    )


def assemble(
    folder: Path, to: Path, config: Qwen2VLConfig, packages: Packages | None = None
) -> str:
    """Write the checkpoint to `to`, whole or not at all; return a line about it.

    Raises:
        RNXError: `to` exists already; a package is missing or damaged; a tensor is missing,
            unknown or of another shape; the tokenizer's words are not those of the weights.
    """
    packages = packages or Packages()
    if to.exists():
        raise RNXError(f"{to} is there already; remove it, or choose another --to.")
    gguf = join_gguf(folder, packages)

    unfinished = to.with_name(to.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    unpack_tokenizer(folder, packages, unfinished)
    check_words(gguf, unfinished)

    torch.manual_seed(SEED)
    model_class: Any = Qwen2VLForConditionalGeneration
    model = model_class._from_config(config, dtype=torch.bfloat16)
    tensors = fill(model.model.language_model, gguf)

    model.save_pretrained(unfinished, max_shard_size="2GB")
    Qwen2VLImageProcessorPil().save_pretrained(unfinished)
    RankerConfig(readout="pointwise").save(unfinished)
    (unfinished / "README.md").write_text(README.format(tensors=tensors, seed=SEED))
    unfinished.rename(to)

    billions = sum(weight.numel() for weight in model.parameters()) / 1e9
    return (
        f"{to}: {billions:.3f} B parameters, {tensors} tensors of the language half real, "
        "the vision tower random"
    )


def check_words(gguf: Path, tokenizer: Path) -> None:
    """Check that every word of the tokenizer stands for the same token as in the weights' file.

    Raises:
        RNXError: a word does not.
    """
    words = GGUFReader(gguf).fields["tokenizer.ggml.tokens"].contents()
    vocabulary = AutoTokenizer.from_pretrained(tokenizer).get_vocab()
    differing = [word for word, i in vocabulary.items() if i >= len(words) or words[i] != word]
    if differing:
        raise RNXError(
            f"{gguf}: {len(differing)} words of the tokenizer are not the weights' "
            f"({differing[0]!r}, ...); take its own."
        )


@torch.no_grad()
def fill(language: torch.nn.Module, gguf: Path) -> int:
    """Copy every weight of the language half from the file, one after the other; return how many.

    Raises:
        RNXError: the file lacks one, has one more, or one is of another shape.
    """
    # The tensors share memory with the module.
    targets = language.state_dict()
    count = len(targets)
    for tensor in GGUFReader(gguf).tensors:
        if tensor.name == COARSE_EMBEDDING:
            continue
        target = targets.pop(name_of(tensor.name), None)
        # A copy, because the file is mapped read-only.
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if target is None or target.shape != values.shape:
            expected = "no place" if target is None else f"{list(target.shape)}"
            raise RNXError(
                f"{gguf}: {tensor.name} is {list(values.shape)}, the model has {expected} for it."
            )
        target.copy_(values)

    if targets:
        raise RNXError(
            f"{gguf} lacks {len(targets)} weights ({min(targets)}, ...); "
            "it is not the file for this configuration."
        )
    return count


def name_of(tensor: str) -> str:
    """Return the language model's name of a GGUF tensor.

    Example:
        >>> name_of("blk.3.attn_q.bias")
        'layers.3.self_attn.q_proj.bias'
    """
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", tensor)
    if match is None:
        return TENSOR_NAMES.get(tensor, tensor)
    layer, name, kind = match.groups()
    return f"layers.{layer}.{LAYER_NAMES.get(name, name)}.{kind}"


@torch.inference_mode()
def check(folder: Path, checkpoint: Path, packages: Packages | None = None) -> str:
    """Compare the checkpoint with `Qwen2ForCausalLM` of the same file, loaded by transformers: all
    weights, and the logits of a text. Return a line about it.

    Raises:
        RNXError: a weight differs, or a logit by more than `TOLERANCE`.
    """
    gguf = join_gguf(folder, packages or Packages())
    rival = _load_by_transformers(gguf)
    backbone = load_backbone(resolve_checkpoint(str(checkpoint)), device="cpu", dtype="bfloat16")
    count = _check_weights(checkpoint, gguf, backbone.model.model.language_model, rival.model)

    ids = backbone.tokenizer.encode(PROMPT, return_tensors="pt")  # [1, L]
    expected = rival(input_ids=ids).logits[0].float()  # [L, W]
    whole = (backbone.model(input_ids=ids).logits[0].float() - expected).abs().max()
    last = (backbone.next_token_logits([PromptTokens(ids=ids[0])])[0] - expected[-1]).abs().max()
    if not max(whole, last) <= TOLERANCE:
        raise RNXError(
            f"{checkpoint}: logits differ by {max(whole, last):.2g}; "
            f"at most {TOLERANCE} is allowed."
        )
    return (
        f"{count} weights equal; logits of {ids.shape[1]} positions x {expected.shape[1]} words "
        f"differ by at most {whole:.2g}, those that the ranker reads by {last:.2g} "
        f"(allowed {TOLERANCE})"
    )


def _load_by_transformers(gguf: Path) -> Any:
    """Load the file by transformers' own reader, with the finer embedding."""
    rival: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    rival.model.embed_tokens.weight = rival.lm_head.weight
    return rival


def _check_weights(checkpoint: Path, gguf: Path, ours: Any, theirs: Any) -> int:
    """Return the number of weights; all of them must be equal."""
    expected = theirs.state_dict()
    differing = [
        name
        for name, tensor in ours.state_dict().items()
        if not torch.equal(tensor, expected[name])
    ]
    if differing:
        raise RNXError(
            f"{checkpoint}: {len(differing)} weights differ from {gguf.name} ({differing[0]}, ...)."
        )
    return len(expected)
