"""A checkpoint becomes a `VLMRanker`: its weights, what its recipe says, and what the user asks, in
rising precedence.
"""

from __future__ import annotations

import warnings
from typing import get_args

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.vlm.checkpoints import (
    CheckpointSource,
    load_backbone,
    optional_file,
    resolve_checkpoint,
)
from llama_index_rnx.rankers.vlm.config import CONFIG_NAME, RankerConfig, read_config
from llama_index_rnx.rankers.vlm.prompts import ListPrompt, PairPrompt
from llama_index_rnx.rankers.vlm.ranker import Readout, VLMRanker


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
    """A vision-language model from a folder or a hub id, ready to rank.

    Args:
        adapter: a LoRA adapter (needs peft) for this model, as training saves it: a folder or a hub
            id. `model` may also be the adapter itself, which then finds the base that it was
            trained on. Memories do not depend on it: it tunes the language half, so what was
            remembered with the base stays good.
        revision: of the model on its hub.
        device, dtype, attention, quantization, compile: see `load_backbone`.
        readout: `labels` reads the list at once, `pointwise` each candidate alone, `permutation`
            has an order written, held to a valid one (for checkpoints trained to write `[2] > [1]`;
            the slowest). `auto` asks the checkpoint: its `rnx.json` says for what it was trained;
            without one it is read pointwise, as released rerankers and plain instruct models must
            be. Untrained, a 1.5B language half orders labels by slot, not by content (Kendall tau
            between a list and its reverse: -.47), so labels of such a checkpoint come with a
            warning.
        window: candidates of a window; default: the recipe's, or 20, or 10,000 pointwise
            candidates.
        both_orders: labels only: reads the list and its reverse, and averages.
        max_pixels: a picture is shrunk to this many pixels; default: the recipe's, or 512 visual
            tokens.
        max_text_tokens: a text is cut to this many tokens, with one warning; default: the recipe's,
            or 512.
        max_window_tokens: a longer window is read in smaller ones; default: the model's context.
        memory_dtype: `bfloat16`, `float16`, `float32`, or `int8` with a scale for each visual
            token.
        list_prompt, pair_prompt: other templates; memories do not depend on them.

    Raises:
        RNXError: the checkpoint cannot be loaded or cannot answer by this read-out, or an option is
            unknown.
    """
    if readout not in ("auto", *get_args(Readout)):
        raise RNXError(
            f"readout={readout!r} is not known; allowed: auto, {', '.join(get_args(Readout))}."
        )
    source = resolve_checkpoint(model, adapter, revision)
    recipe = config_of(source)
    chosen = _readout(source.name, readout, recipe)
    backbone = load_backbone(
        source,
        device=device,
        dtype=dtype,
        max_pixels=max_pixels or recipe.max_pixels,
        attention=attention,
        quantization=quantization,
        compile=compile,
    )
    return VLMRanker(
        backbone,
        name=source.name,
        readout=chosen,
        window=window or (recipe.window if chosen == recipe.readout else None),
        max_text_tokens=max_text_tokens or recipe.max_text_tokens,
        max_window_tokens=max_window_tokens,
        both_orders=both_orders,
        memory_dtype=memory_dtype,
        list_prompt=list_prompt or recipe.list_prompt,
        pair_prompt=pair_prompt or recipe.pair_prompt,
        calibration=recipe.calibration,
    )


def config_of(source: CheckpointSource) -> RankerConfig:
    """What lies beside the adapter, or else beside the base."""
    path = (
        optional_file(source.adapter, CONFIG_NAME, source.adapter_revision)
        if source.adapter
        else None
    )
    return read_config(path or optional_file(source.base, CONFIG_NAME, source.revision))


def _readout(name: str, asked: str, recipe: RankerConfig) -> Readout:
    if asked == "labels" and recipe.readout != "labels":
        warnings.warn(
            f"model={name!r} was not trained to answer with labels (no rnx.json says so): such models order a list by "
            "slot rather than by content. Use readout='pointwise' or 'auto', or train it first.",
            RuntimeWarning,
            stacklevel=3,
        )
    return recipe.readout or "pointwise" if asked == "auto" else asked  # type: ignore[return-value]
