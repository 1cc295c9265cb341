"""From the name of a checkpoint to a backbone: finds its files, adds an adapter, places the
weights. It knows no ranking.

A checkpoint is a folder or a hub id of one of the families, or a LoRA adapter (peft) of one. What
is wrong with it, with an option or with the machine is said in one line before the weights are
read, wherever that can be known.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.vlm.backbone import FAMILIES, Backbone
from llama_index_rnx.ranking import is_out_of_memory

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
ADAPTER = "adapter_config.json"
FLASH = "flash_attention_2"
UNTOUCHED = ("model.visual", "lm_head")  # by quantisation: memories and logits stay exact


@dataclass(frozen=True, kw_only=True)
class CheckpointSource:
    """Where the weights come from: a base checkpoint, and an adapter or none. name: what users call
    them together.
    """

    name: str
    base: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how the weights compute; every option checked against this machine."""

    device: str
    dtype: torch.dtype
    attention: str
    quantization: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What transformers' `from_pretrained` is told."""
        found: dict[str, Any] = {"dtype": self.dtype, "attn_implementation": self.attention}
        if self.quantization is not None:
            found["quantization_config"] = QUANTIZATIONS[self.quantization](self.dtype)
        if self.device == "auto" or self.quantization is not None:
            found["device_map"] = "auto" if self.device == "auto" else {"": self.device}
        return found


def is_checkpoint_name(model: str) -> bool:
    """Whether a name can be that of a checkpoint: a folder that exists, or `owner/name` of a hub."""
    return bool(model) and (os.path.isdir(model) or HUB_ID.fullmatch(model) is not None)


def resolve_checkpoint(
    model: str, adapter: str | None = None, revision: str | None = None
) -> CheckpointSource:
    """What a name stands for. The name of an adapter stands for the base that it was trained on,
    with it.

    Raises:
        RNXError: there is no such checkpoint or adapter in reach, or an adapter is to be put on an
            adapter.
    """
    if adapter is not None:
        _base_of(adapter, None)
    if _file(model, "config.json", revision) is not None or _file(model, ADAPTER, revision) is None:
        name = model if adapter is None else f"{model}+{adapter}"
        return CheckpointSource(name=name, base=model, revision=revision, adapter=adapter)
    if adapter is not None:
        raise RNXError(
            f"model={model!r} is an adapter itself; give model= its base, {_base_of(model, revision)!r}."
        )
    return CheckpointSource(
        name=model, base=_base_of(model, revision), adapter=model, adapter_revision=revision
    )


def load_backbone(
    source: CheckpointSource,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_pixels: int | None = None,
    attention: str = "auto",
    quantization: str | None = None,
    compile: bool = False,
) -> Backbone:
    """The checkpoint that `resolve_checkpoint` found, on a device.

    Args:
        device: `cuda`, `cuda:1`, `mps`, `cpu`; `auto` spreads the weights over all devices (needs
            accelerate); default: the first of cuda, mps, cpu that is there.
        dtype: `float32`, `bfloat16`, `float16` or their short names; default: bfloat16 on cuda,
            float16 on mps, float32 on cpu.
        attention: `auto` takes flash-attention where it is installed and serves (cuda, half
            precision), torch's own kernels (`sdpa`) otherwise; or any name that transformers knows
            as `attn_implementation`.
        quantization: `8bit` (by bitsandbytes or torchao) or `4bit` (by bitsandbytes) language
            weights. The vision tower stays as it is, so memories do too. An adapter is not merged
            into such weights but computed beside them.
        compile: the language model by torch.compile, on cuda as CUDA graphs; see
            `Backbone.compile`.

    Raises:
        RNXError: it belongs to no known family, it has no vision tower, it does not fit, or an
            option cannot be met here.
    """
    place = resolve_placement(device, dtype, attention, quantization)
    _check_folder(source.base)
    kind = _family(source)
    with _clear_errors(source, place):
        found, tokenizer, processor = _parts(source, place)
        if source.adapter is not None:
            found = _adapted(found, source, merge=quantization is None)
        backbone = kind(found, tokenizer, processor, max_pixels)
    if compile:
        backbone.compile()
    return backbone


def optional_file(model: str, name: str, revision: str | None) -> Path | None:
    """A small file of a checkpoint; None if it has none. Raises RNXError if there is no such
    checkpoint in reach.
    """
    found = _file(model, name, revision)
    return None if found is None else Path(found)


def resolve_placement(
    device: str | None, dtype: str | None, attention: str, quantization: str | None
) -> Placement:
    """The options, checked; what was left open is decided by what is there."""
    where = _device(device)
    precision = _dtype(dtype, where)
    if quantization is not None:
        _check_quantization(quantization)
    return Placement(
        device=where,
        dtype=precision,
        attention=_attention(attention, where, precision),
        quantization=quantization,
    )


# ---- files
# ----------------------------------------------------------------------------------------------------------


def _file(model: str, name: str, revision: str | None) -> str | None:
    from transformers.utils.hub import cached_file

    try:
        return cached_file(
            model, name, revision=revision, _raise_exceptions_for_missing_entries=False
        )
    except (OSError, ValueError) as error:
        raise _unreachable(model, error) from error


def _base_of(adapter: str, revision: str | None) -> str:
    """The checkpoint that an adapter was trained on."""
    path = optional_file(adapter, ADAPTER, revision)
    if path is None:
        raise RNXError(
            f"adapter={adapter!r} holds no {ADAPTER}; give a LoRA adapter as peft or training.train_vlm saves it."
        )
    return str(_adapter_config(path)["base_model_name_or_path"])


def _adapter_config(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = found["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise RNXError(f"{path}: is no description of an adapter ({error!r}).") from error
    if kind != "LORA":
        raise RNXError(f"{path}: the adapter is of the kind {kind!r}; LORA is allowed.")
    return found


def _check_folder(model: str) -> None:
    """transformers explains a missing file in a paragraph about hubs; a line that names it is
    kinder.
    """
    folder = Path(model)
    if not folder.is_dir():
        return
    wanted = {
        "config.json": "config.json",
        "weights": "*.safetensors",
        "tokenizer": "tokenizer*",
        "preprocessor_config.json": "preprocessor_config.json",
    }
    missing = [name for name, pattern in wanted.items() if not any(folder.glob(pattern))]
    if "config.json" in missing:
        raise RNXError(
            f"model={model!r}: the folder holds no checkpoint of transformers (no config.json)."
        )
    if "vision_config" in (folder / "config.json").read_text(encoding="utf-8") and missing:
        raise RNXError(
            f"model={model!r}: the folder lacks {', '.join(missing)}; copy all files of the checkpoint."
        )


def _family(source: CheckpointSource) -> type[Backbone]:
    from transformers import AutoConfig

    model, allowed = source.base, ", ".join(FAMILIES)
    try:
        config = AutoConfig.from_pretrained(model, revision=source.revision)
    except (OSError, ValueError, KeyError) as error:
        raise _unreachable(model, error) from error
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    if getattr(config, "vision_config", None) is None:
        raise RNXError(
            f"model={model!r} ({config.model_type}) has no vision tower; allowed families: {allowed}."
        )
    raise RNXError(f"model={model!r} is of the family {config.model_type!r}; allowed: {allowed}.")


# ---- weights
# --------------------------------------------------------------------------------------------------------


def _parts(source: CheckpointSource, place: Placement) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor of the base."""
    import transformers

    model, revision, options = source.base, source.revision, place.options
    processors: Any = transformers.Qwen2VLImageProcessorPil  # needs only pillow, not torchvision
    models: Any = transformers.AutoModelForImageTextToText
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, revision=revision)
    processor = processors.from_pretrained(model, revision=revision or "main")
    loaded, report = models.from_pretrained(
        model, revision=revision, output_loading_info=True, **options
    )
    if report["missing_keys"]:  # transformers would fill them with random numbers
        names = sorted(report["missing_keys"])
        raise RNXError(
            f"model={model!r} lacks {len(names)} weights ({names[0]}, ...); the checkpoint is not complete."
        )
    if any(
        weight.is_meta for weight in loaded.parameters()
    ):  # accelerate left them in RAM or on disk
        raise torch.OutOfMemoryError("out of memory: the devices do not hold all weights")
    return loaded if "device_map" in options else loaded.to(place.device), tokenizer, processor


def _adapted(base: Any, source: CheckpointSource, merge: bool) -> Any:
    """The model with an adapter: merged into its weights, so that it reads as fast as without, or
    computed beside them.
    """
    _need("peft", f"adapter={source.adapter!r}")
    from peft import PeftModel

    trained_on = (_adapter_config(_adapter_file(source)).get("auto_mapping") or {}).get(
        "base_model_class"
    )
    if trained_on not in (None, type(base).__name__):
        raise RNXError(
            f"adapter={source.adapter!r} was trained on a {trained_on}; {source.base!r} is a {type(base).__name__}."
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", ".*is_gradient_checkpointing.*", FutureWarning
            )  # peft asks, nobody is to act
            adapted = PeftModel.from_pretrained(
                base, str(source.adapter), revision=source.adapter_revision
            )
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise RNXError(
            f"adapter={source.adapter!r} does not fit {source.base!r}: {_line(error)}"
        ) from error
    return adapted.merge_and_unload() if merge else adapted.get_base_model()


def _adapter_file(source: CheckpointSource) -> Path:
    path = optional_file(str(source.adapter), ADAPTER, source.adapter_revision)
    assert path is not None  # `resolve_checkpoint` looked
    return path


@contextmanager
def _clear_errors(source: CheckpointSource, place: Placement) -> Iterator[None]:
    """What torch and transformers say in a page, in a line."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise RNXError(
                f"model={source.base!r} does not fit on {place.device!r} in {place.dtype}{_free(place.device)}; take "
                "dtype='bfloat16', quantization='4bit', device='auto' (several devices), or a smaller model."
            ) from error
        if isinstance(error, OSError | ImportError | ValueError) and not isinstance(
            error, RNXError
        ):
            raise RNXError(f"model={source.name!r} cannot be loaded: {_line(error)}") from error
        raise


def _free(device: str) -> str:
    if not device.startswith("cuda"):
        return ""
    free, whole = torch.cuda.mem_get_info(device)
    return f" ({free / 2**30:.1f} of {whole / 2**30:.1f} GiB are free)"


# ---- options
# --------------------------------------------------------------------------------------------------------


def _device(device: str | None) -> str:
    if device is None:
        return (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    kind = device.split(":")[0]
    there = {
        "cpu": True,
        "auto": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if kind not in there:
        raise RNXError(f"device={device!r} is not known; allowed: {', '.join(there)}, or cuda:N.")
    if not there[kind]:
        raise RNXError(
            f"device={device!r} is not there; this machine has {', '.join(k for k, ok in there.items() if ok)}."
        )
    if device == "auto":
        _need("accelerate", "device='auto'")
    return device


def _dtype(dtype: str | None, device: str) -> torch.dtype:
    if dtype is None:
        best = {"cuda": torch.bfloat16, "mps": torch.float16, "cpu": torch.float32}
        fallback = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        return best.get(device.split(":")[0], fallback)
    if dtype not in DTYPES:
        raise RNXError(f"dtype={dtype!r} is not known; allowed: {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _attention(asked: str, device: str, dtype: torch.dtype) -> str:
    """Flash kernels know no masks but the causal one. `Backbone` needs no other, neither for padded
    rows nor after a prefix.
    """
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    serves = on_cuda and dtype != torch.float32
    if asked == "auto":
        return FLASH if serves and _installed("flash_attn") else "sdpa"
    if asked == FLASH:
        _need("flash_attn", f"attention={FLASH!r}", package="flash-attn")
        if not serves:
            raise RNXError(
                f"attention={FLASH!r} needs cuda in bfloat16 or float16; got {device} in {dtype}. Use 'sdpa'."
            )
    return asked


def _check_quantization(asked: str) -> None:
    if asked not in QUANTIZATIONS:
        raise RNXError(f"quantization={asked!r} is not known; allowed: {', '.join(QUANTIZATIONS)}.")
    if not (_installed("bitsandbytes") or (asked == "8bit" and _installed("torchao"))):
        _need("bitsandbytes", f"quantization={asked!r}")


def _eight_bit(dtype: torch.dtype) -> Any:
    import transformers

    if _installed("bitsandbytes"):
        config: Any = transformers.BitsAndBytesConfig
        return config(load_in_8bit=True, llm_int8_skip_modules=list(UNTOUCHED))
    from torchao.quantization import Int8WeightOnlyConfig

    other: Any = transformers.TorchAoConfig
    return other(Int8WeightOnlyConfig(), modules_to_not_convert=list(UNTOUCHED))


def _four_bit(dtype: torch.dtype) -> Any:
    import transformers

    config: Any = transformers.BitsAndBytesConfig
    kind = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return config(llm_int8_skip_modules=list(UNTOUCHED), **kind)


QUANTIZATIONS: dict[str, Callable[[torch.dtype], Any]] = {"8bit": _eight_bit, "4bit": _four_bit}


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _need(module: str, what: str, package: str | None = None) -> None:
    if not _installed(module):
        name = package or module
        raise RNXError(f"{what} needs {name}, which is not installed: pip install {name}.")


def _unreachable(model: str, error: BaseException) -> RNXError:
    return RNXError(
        f"model={model!r} cannot be loaded: {_line(error)} "
        "Give a folder, or a hub id that can be reached; 'rnx-mini' needs neither."
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
