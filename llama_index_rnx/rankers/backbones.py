"""The vision-language families behind one face: pictures -> visual tokens, prompts -> logits. It knows no ranking.

One core serves all of them; an adaptor says only where a family differs. The core never hands pixels and token ids to a
model together: the vision tower runs when something is remembered, the language model when something is asked.

Axes: B rows (prompts), L places of a row, V visual tokens of a picture, D deepstack layers, H hidden width, W words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.rankers.batching import is_out_of_memory

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
VISUAL_TOKENS = 512  # of a picture, unless max_pixels says otherwise
SAMPLES = 64  # numbers of each weight that go into the fingerprint of a vision tower
RECIPE = "rnx.json"  # beside the weights: for which read-out a checkpoint was trained, and its calibration


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A picture after the vision tower: tokens [V, H], grid [3] (time, height, width in patches), deep [D, V, H] or None."""

    tokens: Tensor
    grid: Tensor
    deep: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + (0 if self.deep is None else self.deep.nbytes)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt: ids [L] on the CPU, with `image_token_id` at the places of visual tokens, and its pictures in order."""

    ids: Tensor
    seen: Sequence[Seen] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What several rows begin with, read once: keys and values of each layer, [1, heads, L, width], and its length."""

    layers: Sequence[tuple[Tensor, Tensor]]
    next_position: int
    length: int


class Backbone:
    """The shared core. Its language model is called without pixels, its logits are computed for the last place only.

    Rows of a batch are padded on the right: under causal attention no real place can see a padded one, so no attention
    mask is needed and the fast kernels apply.
    """

    family: ClassVar[str]

    def __init__(self, model: Any, tokenizer: Any, processor: Any, max_pixels: int | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.processor = tokenizer, processor
        self.image_token = int(model.config.image_token_id)
        side = processor.patch_size * processor.merge_size  # pixels of a visual token's side
        self.max_pixels = max_pixels or VISUAL_TOKENS * side * side
        low = processor.size["shortest_edge"]
        self._size = {"shortest_edge": min(low, self.max_pixels), "longest_edge": self.max_pixels}

    @property
    def device(self) -> torch.device:
        """Where the prompts' embeddings live; with a device map the rest may live elsewhere."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def context(self) -> int:
        """How many places a row may have."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    def pixels(self, picture: Any) -> tuple[Tensor, Tensor]:
        """A PIL picture -> patches [P, values] and grid [3]; the slow part on a CPU, made for several threads.

        Raises:
            ImageError: it is more than 200 times as long as it is wide.
        """
        try:
            made = self.processor(images=[picture], size=self._size, return_tensors="pt")
        except ValueError as error:
            raise ImageError(f"a picture of {picture.size[0]} x {picture.size[1]} pixels does not suit: {error}") from error
        return made["pixel_values"], made["image_grid_thw"][0]

    @torch.inference_mode()
    def see(self, pictures: Sequence[tuple[Tensor, Tensor]]) -> list[Seen]:
        """The vision tower, once over a batch of what `pixels` made."""
        visual = self.model.model.visual
        patches = torch.cat([patches for patches, _ in pictures]).to(visual.device)  # [sum P, values]
        grids = torch.stack([grid for _, grid in pictures])  # [pictures, 3]
        found = self.model.model.get_image_features(patches, grids.to(visual.device))
        deep: Sequence[Tensor | None] = self._deep(found) or [None] * len(grids)
        return [
            Seen(tokens=tokens, grid=grid, deep=layers)
            for tokens, grid, layers in zip(found.pooler_output, grids, deep, strict=True)
        ]

    @torch.inference_mode()
    def read(self, rows: Sequence[Row], prefix: Prefix | None = None) -> Tensor:
        """The logits [B, W] in fp32 that follow each row (or `prefix` and each row), in one forward."""
        return self.logits(rows, prefix)

    def logits(self, rows: Sequence[Row], prefix: Prefix | None = None) -> Tensor:
        """What `read` returns, with gradients for weights that want them: training calls this forward too."""
        states = self._forward(rows, prefix)  # [B, L, H]
        last = torch.tensor([len(row) - 1 for row in rows], device=states.device)
        ends = states[torch.arange(len(rows), device=states.device), last]  # [B, H]
        logits: Tensor = self.model.lm_head(ends).float()
        return logits

    @torch.inference_mode()
    def prefix(self, row: Row) -> Prefix:
        """Reads what several rows begin with; it must end in text."""
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        self._forward([row], None, cache)
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        return Prefix(layers=layers, next_position=int(self._positions(row, 0).max()) + 1, length=len(row))

    def fingerprint(self) -> str:
        """Names what a memory depends on: tokenizer, vision tower (by samples of every weight), its precision, `max_pixels`.

        The language model is no part of it: after training that alone, memories stay good.
        """
        visual = self.model.model.visual
        samples = [p.flatten()[:: max(1, p.numel() // SAMPLES)][:SAMPLES].float() for p in visual.parameters()]
        digest = hashlib.sha256(torch.cat(samples).cpu().numpy().tobytes())
        digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
        digest.update(json.dumps(self.processor.to_dict(), sort_keys=True, default=str).encode())
        return f"{self.family}/{digest.hexdigest()[:24]}/{visual.dtype}/{self.max_pixels}"

    def _forward(self, rows: Sequence[Row], prefix: Prefix | None, cache: Any = None) -> Tensor:
        """The language model's last states [B, L, H]. `cache` is filled when one is given; a prefix is copied, not touched."""
        ids = torch.nn.utils.rnn.pad_sequence([row.ids for row in rows], batch_first=True)  # [B, L]
        start = prefix.next_position if prefix else 0
        positions = [self._positions(row, start).T for row in rows]  # [L, 3] each
        seen = [seen for row in rows for seen in row.seen]
        places = (ids == self.image_token).to(self.device)  # [B, L]
        embeds = self.model.get_input_embeddings()(ids.to(self.device))  # [B, L, H]
        if seen:
            embeds[places] = torch.cat([one.tokens.to(embeds.device, embeds.dtype) for one in seen])
        found = self.model.model.language_model(
            inputs_embeds=embeds,
            position_ids=torch.nn.utils.rnn.pad_sequence(positions, batch_first=True).permute(2, 0, 1).to(self.device),
            past_key_values=_copied(prefix, len(rows)) if prefix else cache,
            use_cache=prefix is not None or cache is not None,
            **self._extra(seen, places, embeds.dtype),
        )
        states: Tensor = found.last_hidden_state
        return states

    def _positions(self, row: Row, start: int) -> Tensor:
        """[3, L]: time, height and width of each place, counted by the family's own rule; of a text all three are its place."""
        if not row.seen:
            return torch.arange(start, start + len(row)).expand(3, -1)
        types = (row.ids == self.image_token).int()
        grids = [seen.grid.cpu() for seen in row.seen]
        found: Tensor = self.model.model.get_rope_index(row.ids[None], types[None], image_grid_thw=grids)[0][:, 0]
        return found + start

    def _deep(self, found: Any) -> list[Tensor] | None:
        """The deepstack features [D, V, H] of each picture, in families that have them."""
        return None

    def _extra(self, seen: Sequence[Seen], places: Tensor, dtype: torch.dtype) -> dict[str, Any]:
        """What this family's language model wants besides embeddings and positions."""
        return {}


class Qwen2VL(Backbone):
    family = "qwen2_vl"


class Qwen25VL(Backbone):
    family = "qwen2_5_vl"


class Qwen3VL(Backbone):
    """Adds features of inner vision layers to the states of the first language layers (DeepStack, arXiv 2406.04334)."""

    family = "qwen3_vl"

    def _deep(self, found: Any) -> list[Tensor] | None:
        return [torch.stack(layers) for layers in zip(*found.deepstack_features, strict=True)]

    def _extra(self, seen: Sequence[Seen], places: Tensor, dtype: torch.dtype) -> dict[str, Any]:
        deep = [one.deep for one in seen if one.deep is not None]
        if not deep:
            return {}
        joined = torch.cat([one.to(places.device, dtype) for one in deep], dim=1)  # [D, sum V, H]
        return {"visual_pos_masks": places, "deepstack_visual_embeds": list(joined)}


FAMILIES: Mapping[str, type[Backbone]] = {kind.family: kind for kind in (Qwen2VL, Qwen25VL, Qwen3VL)}


def load_backbone(
    model: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_pixels: int | None = None,
    revision: str | None = None,
    attention: str = "sdpa",
    quantization: str | None = None,
) -> Backbone:
    """A checkpoint of one of the families, or a LoRA adapter of one (needs peft), from a folder or a hub id.

    Args:
        device: `cuda`, `cuda:1`, `mps`, `cpu`; `auto` spreads the weights over all devices (needs accelerate); default: the
            first of cuda, mps, cpu that is there.
        dtype: `float32`, `bfloat16`, `float16` or their short names; default: bfloat16 on cuda, float16 on mps, float32 on cpu.
        attention: what transformers calls `attn_implementation`: `sdpa`, or `flash_attention_2` where that is installed.
        quantization: `8bit` or `4bit` language weights by bitsandbytes; the vision tower stays as it is, so memories do too.

    Raises:
        RNXError: there is no such checkpoint, it belongs to no known family, it has no vision tower, or it does not fit.
    """
    adapter = _base_of(model, revision)
    base, base_revision = (adapter, None) if adapter else (model, revision)
    _check_folder(base)
    config = _config(base, base_revision)
    kind = _family(base, config)
    where = _device(device)
    precision = _dtype(dtype, where)
    try:
        placed = _placement(where, precision, quantization)
        found, tokenizer, processor = _parts(base, base_revision, dtype=precision, attn_implementation=attention, **placed)
        found = found if placed else found.to(where)
        return kind(_adapted(found, model, revision) if adapter else found, tokenizer, processor, max_pixels)
    except Exception as error:
        if is_out_of_memory(error):
            raise RNXError(
                f"model={model!r} does not fit on {where!r} in {precision}; take dtype='bfloat16', device='auto' "
                "(several devices), or a smaller model."
            ) from error
        if isinstance(error, OSError | ImportError | ValueError) and not isinstance(error, RNXError):
            raise RNXError(f"model={model!r} cannot be loaded: {_line(error)}") from error
        raise


def read_recipe(model: str, revision: str | None = None) -> dict[str, Any]:
    """The `rnx.json` beside a checkpoint's weights; empty where there is none. Training writes it:

        {"readout": "labels", "calibration": {"temperature": 2.0, "slot_bias": [0.1, 0.0]},
         "list_prompt": {"template": "...", "candidate": "..."}, "pair_prompt": {"instruction": "..."}}

    All but `readout` may be left out; the parts hold the fields of `Calibration`, `ListPrompt` and `PairPrompt`.

    Raises:
        RNXError: it is no JSON object.
    """
    path = _beside(model, RECIPE, revision)
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RNXError(f"{path}: is no JSON ({error}); mend it or remove it.") from error
    if not isinstance(found, dict):
        raise RNXError(f"{path}: got {type(found).__name__}; a JSON object is allowed.")
    return found


def _copied(prefix: Prefix, rows: int) -> Any:
    """The prefix as a cache of `rows` rows; what is appended to it does not reach the prefix."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (keys, values) in enumerate(prefix.layers):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache


def _beside(model: str, name: str, revision: str | None) -> str | None:
    """A small file of a checkpoint; None if it has none. Raises OSError if there is no such checkpoint in reach."""
    from transformers.utils.hub import cached_file

    return cached_file(model, name, revision=revision, _raise_exceptions_for_missing_entries=False)


def _base_of(model: str, revision: str | None) -> str | None:
    """The checkpoint that an adapter was trained on; None if this is no adapter."""
    try:
        if _beside(model, "config.json", revision) is not None:
            return None
        path = _beside(model, "adapter_config.json", revision)
    except (OSError, ValueError) as error:
        raise _unreachable(model, error) from error
    return None if path is None else str(json.loads(Path(path).read_text(encoding="utf-8"))["base_model_name_or_path"])


def _adapted(base: Any, adapter: str, revision: str | None) -> Any:
    """The model with the adapter's weights added to its own: it reads as fast as without."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise RNXError(f"model={adapter!r} is a LoRA adapter, which needs peft: pip install peft.") from error
    return PeftModel.from_pretrained(base, adapter, revision=revision).merge_and_unload()


def _check_folder(model: str) -> None:
    """transformers explains a missing file in a paragraph about hubs; a line that names it is kinder."""
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
        raise RNXError(f"model={model!r}: the folder holds no checkpoint of transformers (no config.json).")
    if "vision_config" in (folder / "config.json").read_text(encoding="utf-8") and missing:
        raise RNXError(f"model={model!r}: the folder lacks {', '.join(missing)}; copy all files of the checkpoint.")


def _config(model: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise _unreachable(model, error) from error


def _unreachable(model: str, error: BaseException) -> RNXError:
    return RNXError(
        f"model={model!r} cannot be loaded: {_line(error)} "
        "Give a folder, or a hub id that can be reached; 'rnx-mini' needs neither."
    )


def _family(model: str, config: Any) -> type[Backbone]:
    kind = FAMILIES.get(config.model_type)
    if kind is not None:
        return kind
    allowed = ", ".join(FAMILIES)
    if getattr(config, "vision_config", None) is None:
        raise RNXError(f"model={model!r} ({config.model_type}) has no vision tower; allowed families: {allowed}.")
    raise RNXError(f"model={model!r} is of the family {config.model_type!r}; allowed: {allowed}.")


def _placement(device: str, dtype: torch.dtype, quantization: str | None) -> dict[str, Any]:
    """Options for weights that accelerate or bitsandbytes put in their places; none for a plain move to one device."""
    where: Any = "auto" if device == "auto" else {"": device}
    if quantization is None:
        return {"device_map": where} if device == "auto" else {}
    import transformers

    kinds: dict[str, dict[str, Any]] = {
        "8bit": {"load_in_8bit": True},
        "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
    }
    if quantization not in kinds:
        raise RNXError(f"quantization={quantization!r} is not known; allowed: {', '.join(kinds)}.")
    configs: Any = transformers.BitsAndBytesConfig
    config = configs(llm_int8_skip_modules=["model.visual", "lm_head"], **kinds[quantization])
    return {"device_map": where, "quantization_config": config}


def _parts(model: str, revision: str | None, **options: Any) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor."""
    import transformers

    processors: Any = transformers.Qwen2VLImageProcessorPil  # needs only pillow, not torchvision
    models: Any = transformers.AutoModelForImageTextToText
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, revision=revision)
    processor = processors.from_pretrained(model, revision=revision or "main")
    loaded, report = models.from_pretrained(model, revision=revision, output_loading_info=True, **options)
    if report["missing_keys"]:  # transformers would fill them with random numbers
        names = sorted(report["missing_keys"])
        raise RNXError(f"model={model!r} lacks {len(names)} weights ({names[0]}, ...); the checkpoint is not complete.")
    if any(weight.is_meta for weight in loaded.parameters()):  # accelerate left them in RAM or on disk
        raise torch.OutOfMemoryError("out of memory: the devices do not hold all weights")
    return loaded, tokenizer, processor


def _device(device: str | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = device.split(":")[0]
    there = {"cpu": True, "auto": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there:
        raise RNXError(f"device={device!r} is not known; allowed: {', '.join(there)}, or cuda:N.")
    if not there[kind]:
        raise RNXError(f"device={device!r} is not there; this machine has {', '.join(k for k, ok in there.items() if ok)}.")
    return device


def _dtype(dtype: str | None, device: str) -> torch.dtype:
    if dtype is None:
        best = {"cuda": torch.bfloat16, "mps": torch.float16, "cpu": torch.float32}
        fallback = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        return best.get(device.split(":")[0], fallback)
    if dtype not in DTYPES:
        raise RNXError(f"dtype={dtype!r} is not known; allowed: {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
