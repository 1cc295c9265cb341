"""Fits of a few numbers by L-BFGS: they know scores and labels, and nothing of where these come
from.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# The values at which scale and bias of a cosine start.
START = (50.0, -10.0)


def minimize(parameters: Tensor, loss: Callable[[], Tensor], steps: int) -> None:
    """Minimize a loss over one tensor, in place, in at most `steps` iterations of L-BFGS."""
    optimizer = torch.optim.LBFGS(
        [parameters], lr=0.5, max_iter=steps, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


@torch.inference_mode(False)
def fit_logistic(values: Tensor, labels: Tensor) -> list[float]:
    """Return scale and bias that make `scale * value + bias` the logit of the label (0 or 1),
    rounded to three places (Platt scaling). It may be called in inference mode.
    """
    # Tensors of inference mode take part in no gradient; their copies do.
    values = values.clone()
    labels = labels.clone()
    line = torch.tensor(START, requires_grad=True)
    minimize(
        line,
        lambda: F.binary_cross_entropy_with_logits(values * line[0] + line[1], labels),
        steps=200,
    )
    return [round(value, 3) for value in line.tolist()]
