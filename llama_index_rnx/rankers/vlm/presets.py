"""Released checkpoints whose read-out and prompts are known, by hub id. It knows no weights.

A preset serves where no `rnx.json` lies beside a checkpoint. The table is empty until a released
model has been measured under its own prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from llama_index_rnx.rankers.vlm.config import RankerConfig

PRESETS: Mapping[str, RankerConfig] = MappingProxyType({})


def preset_of(model: str) -> RankerConfig:
    """Return the preset of a hub id; an empty configuration for any other model."""
    return PRESETS.get(model, RankerConfig())
