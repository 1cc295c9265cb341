"""Listwise losses: scores [N] and grades [N] of one list in, one number out. They know no model.

Grades are gains: higher is better, 0 is not relevant.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def plackett_luce(scores: Tensor, order: Tensor, temperature: float = 1.0) -> Tensor:
    """Return -log P(order) under Plackett-Luce.

    P = prod_i exp(s_i / t) / sum_{j >= i} exp(s_j / t); order: [N], best first. With the order of
    the labels this is ListMLE (Xia et al. 2008). Source: Rank-Nexus (arXiv 2601.20623).
    """
    ranked = scores[order] / temperature  # [N]
    # The logarithm of the sum over what is not placed yet.
    remaining = ranked.flip(0).logcumsumexp(0).flip(0)  # [N]
    return (remaining - ranked).sum()


def listmle(scores: Tensor, grades: Tensor, temperature: float = 1.0) -> Tensor:
    """Return Plackett-Luce for graded lists, where ties are no order.

    The denominator of each position holds itself and all candidates with a strictly lower grade;
    the loss is the mean over the positions that beat anything. Without ties it equals
    `plackett_luce` / (N - 1).
    """
    scaled = scores / temperature  # [N]
    beats = grades.unsqueeze(1) > grades.unsqueeze(0)  # [N, N]: i beats j
    beats_any = beats.any(1)  # [N]
    if not beats_any.any():
        return scores.sum() * 0.0

    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    compared = beats | itself  # [N, N]
    rows = scaled.expand(len(scores), -1)  # [N, N]
    denominators = rows.masked_fill(~compared, -torch.inf).logsumexp(1)  # [N]
    return (denominators - scaled)[beats_any].mean()


def softmax_kl(scores: Tensor, grades: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(target || softmax(scores / t)) with the target proportional to 2^grade - 1, the
    gains of nDCG; zero for a list without any gain.
    """
    gains = torch.exp2(grades) - 1.0
    if float(gains.sum()) <= 0.0:
        return scores.sum() * 0.0

    target = gains / gains.sum()
    log_shares = (scores / temperature).log_softmax(0)
    divergence: Tensor = (torch.special.xlogy(target, target) - target * log_shares).sum()
    return divergence


def ranknet(scores: Tensor, grades: Tensor) -> Tensor:
    """Return weighted RankNet: log(1 + exp(s_j - s_i)) of every pair i > j, weighted by the
    difference of the grades.
    """
    weights = (grades.unsqueeze(1) - grades.unsqueeze(0)).clamp_min(0.0)  # [N, N]
    total = _weighted_pairs(scores, weights)
    return total / weights.sum().clamp_min(1e-9)


def lambdarank(scores: Tensor, grades: Tensor, cutoff: int = 10) -> Tensor:
    """Return RankNet with each pair weighted by how much swapping the two changes nDCG@cutoff
    (Burges 2010).
    """
    gains = torch.exp2(grades) - 1.0
    positions = torch.arange(len(gains), device=gains.device)
    best_first = gains.sort(descending=True).values
    ideal = (best_first * _discounts(positions, cutoff)).sum()
    if float(ideal) <= 0.0:
        return scores.sum() * 0.0

    rank = scores.detach().argsort(descending=True).argsort()  # [N], 0 is first
    discount = _discounts(rank, cutoff)  # [N]
    gain_change = gains.unsqueeze(1) - gains.unsqueeze(0)  # [N, N]
    discount_change = (discount.unsqueeze(1) - discount.unsqueeze(0)).abs()  # [N, N]
    swap = gain_change * discount_change
    is_better = gains.unsqueeze(1) > gains.unsqueeze(0)
    return _weighted_pairs(scores, swap.abs() * is_better / ideal)


def _discounts(rank: Tensor, cutoff: int) -> Tensor:
    """Return the discounts of DCG at ranks from 0; zero from the cutoff on."""
    return (rank < cutoff) / (rank + 2.0).log2()


def _weighted_pairs(scores: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of log(1 + exp(s_j - s_i)); weights: [N, N] of i over j."""
    differences = scores.unsqueeze(0) - scores.unsqueeze(1)  # [i, j]: s_j - s_i
    return (F.softplus(differences) * weights).sum()
