"""Contrastive losses: a matrix of similarities in, one number out."""

from __future__ import annotations

import torch
from torch import Tensor


def infonce(scores: Tensor, target: Tensor) -> Tensor:
    """InfoNCE in both directions, the mean of the two. A row of the target [Q, B] is a distribution
    over the pictures; a picture's captions share its column (several may be right). Source: van den
    Oord et al., arXiv 1807.03748."""
    to_image = -(target * scores.log_softmax(1)).sum(1).mean()
    to_text = -(target / target.sum(0) * scores.log_softmax(0)).sum(0).mean()
    return (to_image + to_text) / 2


def hard_triplet(scores: Tensor, owner: Tensor, margin: float = 0.2) -> Tensor:
    """VSE++ (Faghri et al., arXiv 1707.05612): the hinge of each caption's hardest wrong picture,
    and of the hardest wrong caption of the caption's own picture; their sum, mean over the
    captions. owner: [Q], the right picture of each."""
    right = scores.gather(1, owner.unsqueeze(1))  # [Q, 1]
    wrong = scores.scatter(1, owner.unsqueeze(1), -torch.inf)  # [Q, B]
    mine = owner.unsqueeze(1) == torch.arange(scores.shape[1], device=scores.device)  # [Q, B]
    hardest_caption = scores.masked_fill(mine, -torch.inf).amax(0)[owner].unsqueeze(1)  # [Q, 1]
    hinges = (
        margin + torch.cat([wrong.amax(1, keepdim=True), hardest_caption], 1) - right
    ).clamp_min(0.0)  # [Q, 2]
    return hinges.sum(1).mean()
