"""`load_ranker` loads the ranker that a model's name stands for. It knows no query and no list."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from llama_index_rnx.errors import SettingsError, shown
from llama_index_rnx.rankers.mini import NAME as MINI
from llama_index_rnx.rankers.mini import holds_mini, load_mini
from llama_index_rnx.rankers.remote import RemoteRanker
from llama_index_rnx.rankers.vlm import is_checkpoint_name
from llama_index_rnx.ranking import Ranker


def load_ranker(
    model: str = MINI,
    *,
    adapter: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    max_pixels: int | None = None,
    max_text_tokens: int | None = None,
    **options: Any,
) -> Ranker:
    """Load the ranker that a name stands for.

    Args:
        model: `"rnx-mini"`, or a folder with one that you trained; a vision-language model of the
            Qwen2-VL, Qwen2.5-VL or Qwen3-VL family, or a LoRA adapter of one, as a local folder or
            a hub id; or the URL of a `/rerank` service, see `RemoteRanker`.
        adapter: a LoRA adapter for that vision-language model: a folder that training wrote, or a
            hub id.
        device, dtype: where and in which precision it computes; by default what the machine does
            fastest.
        max_pixels, max_text_tokens: budgets of a candidate. `rnx-mini` always sees 256 x 256
            pixels.
        options: of a vision-language model (`load_vlm` names them), or `api_key` of a service.

    Raises:
        SettingsError: the model is unknown, or has no such option.
        RNXError: its files cannot be read.
    """
    if not isinstance(model, str | Path):
        raise SettingsError(
            f"model={shown(model)} was given; a name as {MINI!r}, a folder, a hub id or a URL is "
            "needed."
        )
    model = str(model)
    if adapter is not None:
        options["adapter"] = adapter

    # A torch.device reads as "cuda:0", a torch.dtype as "torch.float32".
    device = None if device is None else str(device)
    dtype = None if dtype is None else str(dtype).removeprefix("torch.")

    if model == MINI or holds_mini(Path(model)):
        if options:
            raise SettingsError(f"{MINI!r} has no option {', '.join(sorted(options))}.")
        folder = None if model == MINI else Path(model).resolve()
        return load_mini(device=device, dtype=dtype, max_text_tokens=max_text_tokens, folder=folder)
    if model.startswith(("http://", "https://")):
        return _load_remote(model, device, dtype, max_pixels, max_text_tokens, options)
    if is_checkpoint_name(model):
        common = {
            "device": device,
            "dtype": dtype,
            "max_pixels": max_pixels,
            "max_text_tokens": max_text_tokens,
        }
        return _load_vlm(model, common | options)
    raise SettingsError(
        f"unknown model {shown(model)}: no such folder, and no hub id (owner/name); {MINI!r} is "
        "the embedded one."
    )


def _load_remote(
    url: str,
    device: str | None,
    dtype: str | None,
    max_pixels: int | None,
    max_text_tokens: int | None,
    options: dict[str, Any],
) -> Ranker:
    if device or dtype or set(options) - {"api_key"}:
        raise SettingsError(
            f"model={url!r}: a service computes where it runs; allowed are max_pixels, "
            "max_text_tokens and api_key."
        )
    return RemoteRanker(
        url,
        api_key=options.get("api_key"),
        max_pixels=max_pixels,
        max_text_tokens=max_text_tokens,
    )


def _load_vlm(model: str, options: dict[str, Any]) -> Ranker:
    # Only vision-language models pay for the import of torch and transformers.
    from llama_index_rnx.rankers.vlm import load_vlm

    parameters = list(inspect.signature(load_vlm).parameters)
    unknown = sorted(set(options) - set(parameters))
    if unknown:
        raise SettingsError(
            f"model={model!r}: unknown option {', '.join(unknown)}; allowed are "
            f"{', '.join(parameters[1:])}."
        )
    return load_vlm(model, **options)
