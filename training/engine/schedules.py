"""Learning-rate schedules: a step in, a factor of the peak rate out. They know no optimizer."""

from __future__ import annotations

import math


def warmup_then_cosine(step: int, warmup: int, steps: int, floor: float) -> float:
    """Rise linearly over `warmup` steps, then fall along a cosine to `floor` at `steps`.

    Example:
        >>> [round(warmup_then_cosine(step, 2, 10, 0.02), 2) for step in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.51, 0.02]
    """
    if step < warmup:
        return (step + 1) / warmup

    progress = math.pi * (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(progress))


def warmup_times_cosine(step: int, warmup: float, steps: int) -> float:
    """Rise linearly over `warmup` steps while a cosine falls from the first step to 0 at `steps`.

    Example:
        >>> [round(warmup_times_cosine(step, 2, 10), 2) for step in (0, 1, 5, 10)]
        [0.5, 0.98, 0.5, 0.0]
    """
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
