"""A checkpoint becomes a `VLMRanker`: its weights, what its `rnx.json` says, and what the user
sets, in rising precedence.
"""

from __future__ import annotations

import warnings
from typing import get_args

from llama_index_rnx.errors import SettingsError
from llama_index_rnx.rankers.vlm.checkpoints import (
    CheckpointSource,
    load_backbone,
    optional_file,
    resolve_checkpoint,
)
from llama_index_rnx.rankers.vlm.config import CONFIG_NAME, RankerConfig, read_config
from llama_index_rnx.rankers.vlm.presets import preset_of
from llama_index_rnx.rankers.vlm.prompts import ListPrompt, PairPrompt
from llama_index_rnx.rankers.vlm.ranker import VLMRanker
from llama_index_rnx.rankers.vlm.settings import TEXT_TOKENS, Readout, VLMSettings
from llama_index_rnx.ranking import Calibration


def load_vlm(
    model: str,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    attention: str = "auto",
    quantization: str | None = None,
    compile: bool = False,
    readout: str = "auto",
    window: int | None = None,
    both_orders: bool = False,
    max_pixels: int | None = None,
    max_text_tokens: int | None = None,
    max_window_tokens: int | None = None,
    memory_dtype: str = "bfloat16",
    list_prompt: ListPrompt | None = None,
    pair_prompt: PairPrompt | None = None,
) -> VLMRanker:
    """Load a vision-language model from a folder or a hub id, ready to rank.

    Args:
        adapter: a LoRA adapter (needs peft) for this model, as training saves it: a folder or a hub
            id. `model` may also be the adapter itself, which then finds the base that it was
            trained on. Memories do not depend on it: it tunes the language half, so memories that
            were made with the base stay valid.
        revision: of the model on its hub.
        device, dtype, attention, quantization, compile: see `load_backbone`.
        readout: `labels` reads the list at once, `pointwise` each candidate alone, `permutation`
            lets the model write an order, held to a valid one (for checkpoints trained to write
            `[2] > [1]`; the slowest). `auto` follows the checkpoint: its `rnx.json` says for what
            it was trained; without one it is read pointwise, as released rerankers and plain
            instruct models must be. Untrained, a 1.5B language half orders labels by position, not
            by content (Kendall tau between a list and its reverse: -.47), so labels of such a
            checkpoint come with a warning.
        window: candidates of a window; default: that of `rnx.json`, or 20, or 10,000 pointwise
            candidates.
        both_orders: labels only: reads the list and its reverse, and averages.
        max_pixels: an image is shrunk to this many pixels; default: that of `rnx.json`, or 512
            visual tokens.
        max_text_tokens: a text is cut to this many tokens, with one warning; default: that of
            `rnx.json`, or 512.
        max_window_tokens: a longer window is read in smaller ones; default: the model's context.
        memory_dtype: `bfloat16`, `float16`, `float32`, or `int8` with a scale for each visual
            token.
        list_prompt, pair_prompt: other templates; memories do not depend on them.

    Raises:
        SettingsError: the checkpoint cannot be loaded or cannot answer by this read-out, or an
            option is unknown.
    """
    if readout not in ("auto", *get_args(Readout)):
        raise SettingsError(
            f"readout={readout!r} is not known; allowed: auto, {', '.join(get_args(Readout))}."
        )
    source = resolve_checkpoint(model, adapter, revision)
    config = config_of(source)
    chosen = _choose_readout(source.name, readout, config)
    settings = VLMSettings(
        name=source.name,
        readout=chosen,
        window=window or (config.window if chosen == config.readout else None),
        max_text_tokens=max_text_tokens or config.max_text_tokens or TEXT_TOKENS,
        max_window_tokens=max_window_tokens,
        both_orders=both_orders,
        memory_dtype=memory_dtype,
        list_prompt=list_prompt or config.list_prompt,
        pair_prompt=pair_prompt or config.pair_prompt or PairPrompt(),
        calibration=config.calibration or Calibration(),
    )
    backbone = load_backbone(
        source,
        device=device,
        dtype=dtype,
        max_pixels=max_pixels or config.max_pixels,
        attention=attention,
        quantization=quantization,
        compile=compile,
    )
    return VLMRanker(backbone, settings)


def config_of(source: CheckpointSource) -> RankerConfig:
    """Return the configuration of a checkpoint: the `rnx.json` beside the adapter, or else beside
    the base, or else the preset of a released model.

    Raises:
        SettingsError: the file has a mistake, or there is no such checkpoint in reach.
    """
    path = None
    if source.adapter is not None:
        path = optional_file(source.adapter, CONFIG_NAME, source.adapter_revision)
    if path is None:
        path = optional_file(source.base, CONFIG_NAME, source.revision)
    return preset_of(source.base) if path is None else read_config(path)


def _choose_readout(name: str, readout: str, config: RankerConfig) -> Readout:
    if readout == "labels" and config.readout != "labels":
        warnings.warn(
            f"model={name!r} was not trained to answer with labels (no rnx.json says so): such "
            "models order a list by position rather than by content. Use readout='pointwise' or "
            "'auto', or train it first.",
            RuntimeWarning,
            stacklevel=3,
        )
    if readout == "auto":
        return config.readout or "pointwise"
    return readout  # type: ignore[return-value]
