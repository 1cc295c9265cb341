"""Rankers: what scores a list. `load_ranker` finds the one that a model's name asks for."""

from __future__ import annotations

from pathlib import Path

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.base import Ranker, recall
from llama_index_rnx.rankers.mini import NAME as MINI
from llama_index_rnx.rankers.mini import load_mini

__all__ = ["Ranker", "load_ranker", "recall"]


def load_ranker(
    model: str = MINI,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_pixels: int | None = None,
    max_text_tokens: int | None = None,
) -> Ranker:
    """The ranker behind a name.

    Args:
        model: `"rnx-mini"`. Vision-language models (a folder or a hub id) and `/rerank` services (a URL) have their place
            here and are not built yet.
        device, dtype: where and how it computes; by default what the machine does fastest.
        max_pixels, max_text_tokens: budgets of a candidate. `rnx-mini` always sees 256 x 256 pixels.

    Raises:
        RNXError: the model is unknown, or of a kind that is not built yet.
    """
    if model == MINI:
        return load_mini(device=device, dtype=dtype, max_text_tokens=max_text_tokens)
    if model.startswith(("http://", "https://")):
        raise RNXError(f"model={model!r}: remote /rerank services are not supported yet; use {MINI!r}.")
    if Path(model).is_dir() or model.count("/") == 1:
        raise RNXError(f"model={model!r}: vision-language models are not supported yet; use {MINI!r}.")
    raise RNXError(f"unknown model {model!r}; {MINI!r} is the embedded one. A folder must exist, a hub id has one '/'.")
