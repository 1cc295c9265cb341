"""Turns the logit of a label into a score: the bias of its position, a temperature, an offset. It
knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


PositionBias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A score is the logistic of `(logit - mean of the list) / temperature - bias of its position
    + offset`.

    Attributes:
        temperature: above 0.
        offset: the log odds of relevance of a candidate that is as good as its list's mean.
        slot_bias: one row for each length of list that was fitted, its position biases in order. A
            list of another length takes the next longer row, as far as it goes, since bias belongs
            to labels: with a 1.5B language half positions explained 76 % of the spread at length
            10; less the row of 14 cut to it 1 %, of 20 9 %, but 73 and 76 % where the rows were
            stretched.

    Raises:
        ValueError: the temperature is not above 0, a number is none, or slot_bias is no list of
            rows.

    Example:
        >>> Calibration(slot_bias=[[1.0, 0.0, -1.0]]).bias(2).tolist()
        [0.5, -0.5]
    """

    temperature: float = 1.0
    offset: float = 0.0
    slot_bias: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        are_finite = math.isfinite(self.temperature) and math.isfinite(self.offset)
        if not (self.temperature > 0 and are_finite):
            raise ValueError(
                f"temperature={self.temperature}, offset={self.offset}; numbers, the former above "
                "0, are allowed."
            )
        if not all(_is_bias_row(row) for row in self.slot_bias):
            raise ValueError(
                "slot_bias has a row of numbers for each length of list, as in [[0.2, -0.2]]; fit "
                "it again."
            )

    def __str__(self) -> str:
        lengths = ", ".join(str(len(row)) for row in self.slot_bias) or "none"
        return (
            f"temperature {self.temperature:.3g}, offset {self.offset:+.2f}, "
            f"position bias for lists of {lengths}"
        )

    def logits(self, raw: Tensor) -> Tensor:
        """Turn the label logits [N] of one list, in order of position, into centred and scaled
        ones without the bias of their positions [N].
        """
        bias = raw.new_tensor(self.bias(len(raw)))  # [N]
        return (raw - raw.mean()) / self.temperature - bias + self.offset

    def bias(self, count: int) -> PositionBias:
        """Return the bias of each position of a list of this length [N]; its mean is 0."""
        if count < 2 or not self.slot_bias:
            return np.zeros(count)

        rows = sorted(self.slot_bias, key=len)
        row = next((row for row in rows if len(row) >= count), rows[-1])
        padded = [*row, *[row[-1]] * count]
        bias: PositionBias = np.array(padded[:count], dtype=np.float64)  # [N]
        bias -= bias.mean()
        return bias


def _is_bias_row(row: Any) -> bool:
    return isinstance(row, Sequence) and len(row) > 1 and all(map(math.isfinite, row))
