"""How one ranker scores with a vision-language model: read-out, prompts, budgets, calibration. It
knows no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llama_index_rnx.errors import SettingsError
from llama_index_rnx.rankers.vlm.packing import MEMORY_DTYPES
from llama_index_rnx.rankers.vlm.prompts import (
    ORDER_CANDIDATE,
    ORDER_TEMPLATE,
    ListPrompt,
    PairPrompt,
)
from llama_index_rnx.ranking import Calibration

Readout = Literal["labels", "pointwise", "permutation"]

# The tokens of a text, unless `max_text_tokens` says otherwise.
TEXT_TOKENS = 512

PAIR_PROMPT = PairPrompt()
LABEL_PROMPT = ListPrompt()
ORDER_PROMPT = ListPrompt(template=ORDER_TEMPLATE, candidate=ORDER_CANDIDATE)
UNCALIBRATED = Calibration()


@dataclass(frozen=True, kw_only=True)
class VLMSettings:
    """All that two rankers over the same weights may differ in; `load_vlm` describes each field.

    list_prompt is None where neither the user nor the checkpoint chooses one; `prompt_of_list` is
    the prompt in use.

    Raises:
        SettingsError: memory_dtype is unknown, or both_orders is set for another read-out than
            labels.
    """

    name: str
    readout: Readout
    window: int | None = None
    max_text_tokens: int = TEXT_TOKENS
    max_window_tokens: int | None = None
    both_orders: bool = False
    memory_dtype: str = "bfloat16"
    list_prompt: ListPrompt | None = None
    pair_prompt: PairPrompt = PAIR_PROMPT
    calibration: Calibration = UNCALIBRATED

    def __post_init__(self) -> None:
        if self.memory_dtype not in MEMORY_DTYPES:
            raise SettingsError(
                f"memory_dtype={self.memory_dtype!r} is not known; "
                f"allowed: {', '.join(MEMORY_DTYPES)}."
            )
        if self.both_orders and self.readout != "labels":
            raise SettingsError(
                f"both_orders=True needs readout='labels'; {self.name!r} is read by "
                f"{self.readout!r}."
            )

    @property
    def prompt_of_list(self) -> ListPrompt:
        """The chosen list prompt, or the built-in one of the read-out."""
        default = ORDER_PROMPT if self.readout == "permutation" else LABEL_PROMPT
        return self.list_prompt or default
