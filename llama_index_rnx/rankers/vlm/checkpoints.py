"""From the name of a checkpoint to a backbone: finds its files, adds an adapter, places the
weights. It knows no ranking.

A checkpoint is a folder or a hub id of one of the families, or a LoRA adapter (peft) of one. A
mistake in it, in an option or in the machine is reported in one line before the weights are read,
wherever it can be known by then.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama_index_rnx.errors import RNXError, SettingsError, one_line
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
ADAPTER = "adapter_config.json"
FLASH = "flash_attention_2"

# Quantization leaves these modules as they are, so that memories and logits stay exact.
UNQUANTIZED = ("model.visual", "lm_head")


@dataclass(frozen=True, kw_only=True)
class CheckpointSource:
    """The source of the weights: a base checkpoint, and an adapter or none. `name` is the name that
    users give to both together.
    """

    name: str
    base: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device, dtype, attention and quantization of the weights, checked against this machine."""

    device: str
    dtype: torch.dtype
    attention: str
    quantization: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The arguments for transformers' `from_pretrained`."""
        options: dict[str, Any] = {"dtype": self.dtype, "attn_implementation": self.attention}
        if self.quantization is not None:
            options["quantization_config"] = QUANTIZATIONS[self.quantization](self.dtype)
        if self.device == "auto":
            options["device_map"] = "auto"
        elif self.quantization is not None:
            options["device_map"] = {"": self.device}
        return options


def resolve_checkpoint(
    model: str, adapter: str | None = None, revision: str | None = None
) -> CheckpointSource:
    """Return where the weights behind a name come from. The name of an adapter stands for the base
    that it was trained on, together with the adapter.

    Raises:
        SettingsError: there is no such checkpoint or adapter in reach, or an adapter is to be put
            on an adapter.
    """
    if adapter is not None:
        _base_of(adapter, None)

    has_config = _cached_file(model, "config.json", revision) is not None
    if has_config or _cached_file(model, ADAPTER, revision) is None:
        name = model if adapter is None else f"{model}+{adapter}"
        return CheckpointSource(name=name, base=model, revision=revision, adapter=adapter)

    base = _base_of(model, revision)
    if adapter is not None:
        raise SettingsError(
            f"model={model!r} is an adapter itself; give model= its base, {base!r}."
        )
    return CheckpointSource(name=model, base=base, adapter=model, adapter_revision=revision)


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
    """Load the checkpoint that `resolve_checkpoint` found onto a device.

    Args:
        device: `cuda`, `cuda:1`, `mps`, `cpu`; `auto` spreads the weights over all devices (needs
            accelerate); default: the first of cuda, mps, cpu that this machine has.
        dtype: `float32`, `bfloat16`, `float16` or their short names; default: bfloat16 on cuda,
            float16 on mps, float32 on cpu.
        attention: `auto` takes flash-attention where it is installed and usable (cuda, half
            precision), torch's own kernels (`sdpa`) otherwise; or any name that transformers knows
            as `attn_implementation`.
        quantization: `8bit` (by bitsandbytes or torchao) or `4bit` (by bitsandbytes) language
            weights. The vision tower stays as it is, so memories do too. An adapter is not merged
            into such weights but computed beside them.
        compile: the language model by torch.compile, on cuda as CUDA graphs; see
            `Backbone.compile`.

    Raises:
        SettingsError: the checkpoint belongs to no known family, has no vision tower, or does not
            fit; or an option cannot be met on this machine.
    """
    placement = resolve_placement(device, dtype, attention, quantization)
    _check_folder(source.base)
    adaptor = _resolve_family(source)

    with _explained_errors(source, placement):
        model, tokenizer, processor = _load_pretrained(source, placement)
        if source.adapter is not None:
            model = _apply_adapter(model, source, merge=quantization is None)
        backbone = adaptor(model, tokenizer, processor, max_pixels)
    if compile:
        backbone.compile()
    return backbone


def optional_file(model: str, name: str, revision: str | None) -> Path | None:
    """Return the path of a small file of a checkpoint; None if the checkpoint has none.

    Raises:
        SettingsError: there is no such checkpoint in reach.
    """
    path = _cached_file(model, name, revision)
    return None if path is None else Path(path)


def resolve_placement(
    device: str | None, dtype: str | None, attention: str, quantization: str | None
) -> Placement:
    """Check the options, and choose those that were left open by what this machine has.

    Raises:
        SettingsError: an option is unknown, or cannot be met on this machine.
    """
    resolved_device = _resolve_device(device)
    resolved_dtype = _resolve_dtype(dtype, resolved_device)
    if quantization is not None:
        _check_quantization(quantization)
    return Placement(
        device=resolved_device,
        dtype=resolved_dtype,
        attention=_resolve_attention(attention, resolved_device, resolved_dtype),
        quantization=quantization,
    )


# ---- files


def _cached_file(model: str, name: str, revision: str | None) -> str | None:
    from transformers.utils.hub import cached_file

    try:
        return cached_file(
            model, name, revision=revision, _raise_exceptions_for_missing_entries=False
        )
    except (OSError, ValueError) as error:
        raise _unreachable(model, error) from error


def _base_of(adapter: str, revision: str | None) -> str:
    """Return the checkpoint that an adapter was trained on."""
    path = optional_file(adapter, ADAPTER, revision)
    if path is None:
        raise SettingsError(
            f"adapter={adapter!r} holds no {ADAPTER}; give a LoRA adapter as peft or "
            "training.train_vlm saves it."
        )
    return str(_read_adapter_config(path)["base_model_name_or_path"])


def _read_adapter_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path}: is no description of an adapter ({error!r}).") from error
    if kind != "LORA":
        raise SettingsError(f"{path}: the adapter is of the kind {kind!r}; LORA is allowed.")
    return config


def _check_folder(model: str) -> None:
    """Name the missing files of a folder in one line; transformers explains them in a paragraph
    about hubs.
    """
    folder = Path(model)
    if not folder.is_dir():
        return
    patterns = {
        "config.json": "config.json",
        "weights": "*.safetensors",
        "tokenizer": "tokenizer*",
        "preprocessor_config.json": "preprocessor_config.json",
    }
    missing = [name for name, pattern in patterns.items() if not any(folder.glob(pattern))]
    if "config.json" in missing:
        raise SettingsError(
            f"model={model!r}: the folder holds no checkpoint of transformers (no config.json)."
        )
    has_vision = "vision_config" in (folder / "config.json").read_text(encoding="utf-8")
    if has_vision and missing:
        raise SettingsError(
            f"model={model!r}: the folder lacks {', '.join(missing)}; copy all files of the "
            "checkpoint."
        )


def _resolve_family(source: CheckpointSource) -> type[Backbone]:
    from transformers import AutoConfig

    model = source.base
    try:
        config = AutoConfig.from_pretrained(model, revision=source.revision)
    except (OSError, ValueError, KeyError) as error:
        raise _unreachable(model, error) from error

    family = config.model_type
    if family in FAMILIES:
        return FAMILIES[family]
    allowed = ", ".join(FAMILIES)
    if getattr(config, "vision_config", None) is None:
        raise SettingsError(
            f"model={model!r} ({family}) has no vision tower; allowed families: {allowed}."
        )
    raise SettingsError(f"model={model!r} is of the family {family!r}; allowed: {allowed}.")


# ---- weights


def _load_pretrained(source: CheckpointSource, placement: Placement) -> tuple[Any, Any, Any]:
    """Load model, tokenizer and image processor of the base."""
    import transformers

    model = source.base
    revision = source.revision
    options = placement.options
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, revision=revision)

    # This processor needs only pillow, not torchvision.
    processors: Any = transformers.Qwen2VLImageProcessorPil
    processor = processors.from_pretrained(model, revision=revision or "main")

    models: Any = transformers.AutoModelForImageTextToText
    loaded, report = models.from_pretrained(
        model, revision=revision, output_loading_info=True, **options
    )
    _check_complete(model, loaded, report["missing_keys"])
    if "device_map" not in options:
        loaded = loaded.to(placement.device)
    return loaded, tokenizer, processor


def _check_complete(model: str, loaded: Any, missing: set[str]) -> None:
    """Refuse a model some of whose weights are not loaded."""
    # transformers would fill missing weights with random numbers.
    if missing:
        raise SettingsError(
            f"model={model!r} lacks {len(missing)} weights ({min(missing)}, ...); the checkpoint "
            "is not complete."
        )
    # accelerate leaves weights for which there is no room in RAM or on disk.
    if any(weight.is_meta for weight in loaded.parameters()):
        raise torch.OutOfMemoryError("out of memory: the devices do not hold all weights")


def _apply_adapter(base: Any, source: CheckpointSource, merge: bool) -> Any:
    """Return the model with an adapter: merged into its weights, so that it is as fast as without,
    or computed beside them.
    """
    _require("peft", f"adapter={source.adapter!r}")
    from peft import PeftModel

    _check_base_class(base, source)
    try:
        with warnings.catch_warnings():
            # peft itself asks for this attribute; no user can act on it.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            adapted = PeftModel.from_pretrained(
                base, str(source.adapter), revision=source.adapter_revision
            )
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise SettingsError(
            f"adapter={source.adapter!r} does not fit {source.base!r}: {one_line(error)}"
        ) from error
    return adapted.merge_and_unload() if merge else adapted.get_base_model()


def _check_base_class(base: Any, source: CheckpointSource) -> None:
    """Refuse an adapter that was trained on a model of another class."""
    path = optional_file(str(source.adapter), ADAPTER, source.adapter_revision)
    assert path is not None, "`resolve_checkpoint` has found the file"
    mapping = _read_adapter_config(path).get("auto_mapping") or {}
    trained_on = mapping.get("base_model_class")
    if trained_on not in (None, type(base).__name__):
        raise SettingsError(
            f"adapter={source.adapter!r} was trained on a {trained_on}; {source.base!r} is a "
            f"{type(base).__name__}."
        )


@contextmanager
def _explained_errors(source: CheckpointSource, placement: Placement) -> Iterator[None]:
    """Turn the long errors of torch and transformers into one line."""
    try:
        yield
    except RNXError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise SettingsError(
                f"model={source.base!r} does not fit on {placement.device!r} in {placement.dtype}"
                f"{_free_memory(placement.device)}; take dtype='bfloat16', quantization='4bit', "
                "device='auto' (several devices), or a smaller model."
            ) from error
        if isinstance(error, OSError | ImportError | ValueError):
            raise SettingsError(
                f"model={source.name!r} cannot be loaded: {one_line(error)}"
            ) from error
        raise


def _free_memory(device: str) -> str:
    if not device.startswith("cuda"):
        return ""
    free, total = torch.cuda.mem_get_info(device)
    return f" ({free / 2**30:.1f} of {total / 2**30:.1f} GiB are free)"


# ---- options


def _resolve_device(device: str | None) -> str:
    available = {
        "cpu": True,
        "auto": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device is None:
        return next((kind for kind in ("cuda", "mps") if available[kind]), "cpu")

    kind = device.split(":")[0]
    if kind not in available:
        raise SettingsError(
            f"device={device!r} is not known; allowed: {', '.join(available)}, or cuda:N."
        )
    if not available[kind]:
        usable = ", ".join(kind for kind, is_usable in available.items() if is_usable)
        raise SettingsError(f"device={device!r} is not there; this machine has {usable}.")
    if device == "auto":
        _require("accelerate", "device='auto'")
    return device


def _resolve_dtype(dtype: str | None, device: str) -> torch.dtype:
    if dtype is None:
        best = {"cuda": torch.bfloat16, "mps": torch.float16, "cpu": torch.float32}
        fallback = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        return best.get(device.split(":")[0], fallback)
    if dtype not in DTYPES:
        raise SettingsError(f"dtype={dtype!r} is not known; allowed: {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _resolve_attention(attention: str, device: str, dtype: torch.dtype) -> str:
    """Choose the kernels. Flash kernels know no masks but the causal one; `Backbone` needs no
    other, neither for padded prompts nor after a prefix.
    """
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    is_usable = on_cuda and dtype != torch.float32
    if attention == "auto":
        return FLASH if is_usable and _is_installed("flash_attn") else "sdpa"
    if attention == FLASH:
        _require("flash_attn", f"attention={FLASH!r}", package="flash-attn")
        if not is_usable:
            raise SettingsError(
                f"attention={FLASH!r} needs cuda in bfloat16 or float16; got {device} in {dtype}. "
                "Use 'sdpa'."
            )
    return attention


def _check_quantization(quantization: str) -> None:
    if quantization not in QUANTIZATIONS:
        allowed = ", ".join(QUANTIZATIONS)
        raise SettingsError(f"quantization={quantization!r} is not known; allowed: {allowed}.")
    by_torchao = quantization == "8bit" and _is_installed("torchao")
    if not by_torchao:
        _require("bitsandbytes", f"quantization={quantization!r}")


def _eight_bit(dtype: torch.dtype) -> Any:
    import transformers

    if _is_installed("bitsandbytes"):
        config: Any = transformers.BitsAndBytesConfig
        return config(load_in_8bit=True, llm_int8_skip_modules=list(UNQUANTIZED))

    from torchao.quantization import Int8WeightOnlyConfig

    torchao_config: Any = transformers.TorchAoConfig
    return torchao_config(Int8WeightOnlyConfig(), modules_to_not_convert=list(UNQUANTIZED))


def _four_bit(dtype: torch.dtype) -> Any:
    import transformers

    config: Any = transformers.BitsAndBytesConfig
    return config(
        llm_int8_skip_modules=list(UNQUANTIZED),
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )


QUANTIZATIONS: dict[str, Callable[[torch.dtype], Any]] = {"8bit": _eight_bit, "4bit": _four_bit}


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _require(module: str, option: str, package: str | None = None) -> None:
    """Refuse an option whose package is not installed."""
    if not _is_installed(module):
        name = package or module
        raise SettingsError(f"{option} needs {name}, which is not installed: pip install {name}.")


def _unreachable(model: str, error: BaseException) -> SettingsError:
    return SettingsError(
        f"model={model!r} cannot be loaded: {one_line(error)} Give a folder, or a hub id that can "
        "be reached; 'rnx-mini' needs neither."
    )
