"""Losses, pure: scores in, one number out; they know no model.

Listwise ones take scores [N] and grades [N] (gains, higher is better); those of a bi-encoder a
whole batch: scores [Q, B] of Q captions with B pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor


def plackett_luce(scores: Tensor, order: Tensor, temperature: float = 1.0) -> Tensor:
    """-log P(order) under Plackett-Luce, P = prod_i exp(s_i / t) / sum_{j >= i} exp(s_j / t);
    order: [N], best first.

    Source: Rank-Nexus (arXiv 2601.20623); with the order of the labels this is ListMLE (Xia et al.
    2008).
    """
    ranked = scores[order] / temperature  # [N]
    remaining = (
        ranked.flip(0).logcumsumexp(0).flip(0)
    )  # [N]: log of the sum over what is not placed yet
    return (remaining - ranked).sum()


def listmle(scores: Tensor, grades: Tensor, temperature: float = 1.0) -> Tensor:
    """Plackett-Luce for graded lists, where ties are no order: each position's denominator holds
    itself and what has a strictly lower grade; the mean over the positions that beat anything.
    Equal to `plackett_luce` / (N - 1) without ties."""
    scaled = scores / temperature
    lower = grades.unsqueeze(1) > grades.unsqueeze(0)  # [N, N]: i beats j
    beats = lower.any(1)
    if not beats.any():
        return scores.sum() * 0.0
    compared = lower | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    denominators = (
        scaled.expand(len(scores), -1).masked_fill(~compared, -torch.inf).logsumexp(1)
    )  # [N]
    return (denominators - scaled)[beats].mean()


def softmax_kl(scores: Tensor, grades: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(target || softmax(scores / t)), target proportional to 2^grade - 1: the gains of nDCG.
    Zero without any gain.
    """
    gains = torch.exp2(grades) - 1.0
    if float(gains.sum()) <= 0.0:
        return scores.sum() * 0.0
    target = gains / gains.sum()
    divergence: Tensor = (
        torch.special.xlogy(target, target) - target * (scores / temperature).log_softmax(0)
    ).sum()
    return divergence


def ranknet(scores: Tensor, grades: Tensor) -> Tensor:
    """Weighted RankNet: log(1 + exp(s_j - s_i)) for every pair i > j, weighted by the difference of
    the grades.
    """
    weights = (grades.unsqueeze(1) - grades.unsqueeze(0)).clamp_min(0.0)  # [N, N]
    return _pairs(scores, weights)


def lambdarank(scores: Tensor, grades: Tensor, cutoff: int = 10) -> Tensor:
    """RankNet with each pair weighted by what swapping the two now changes in nDCG@cutoff (Burges
    2010).
    """
    gains = torch.exp2(grades) - 1.0
    ideal = (
        gains.sort(descending=True).values
        * _discounts(torch.arange(len(gains), device=gains.device), cutoff)
    ).sum()
    if float(ideal) <= 0.0:
        return scores.sum() * 0.0
    rank = scores.detach().argsort(descending=True).argsort()  # [N], 0 = first
    discount = _discounts(rank, cutoff)  # [N]
    better = gains.unsqueeze(1) > gains.unsqueeze(0)
    swap = (gains.unsqueeze(1) - gains.unsqueeze(0)) * (
        discount.unsqueeze(1) - discount.unsqueeze(0)
    ).abs()
    return _pairs(scores, swap.abs() * better / ideal, normalise=False)


def _discounts(rank: Tensor, cutoff: int) -> Tensor:
    return (rank < cutoff) / (rank + 2.0).log2()


def _pairs(scores: Tensor, weights: Tensor, normalise: bool = True) -> Tensor:
    losses = torch.nn.functional.softplus(
        scores.unsqueeze(0) - scores.unsqueeze(1)
    )  # [i, j]: s_j over s_i
    total = (losses * weights).sum()
    return total / weights.sum().clamp_min(1e-9) if normalise else total
